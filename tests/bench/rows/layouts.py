"""Per-event-file layouts against ``jsonl``, acknowledged and sustained: long enough for the flusher to fall behind.

``jsonl`` runs half its time before the others and half after them, so that a drift of the machine cancels.
"""

from __future__ import annotations

from collections.abc import Iterator

from tests.bench.report import Result, result
from tests.bench.rounds import median
from tests.bench.workbench import Load, Workbench, create_sessions

PER_EVENT = ("typed", "ids")
CONNECTIONS = {"one": 1, "clients": 64}


def run(bench: Workbench) -> Iterator[Result]:
    seconds = bench.scale.sustained_seconds
    for name, connections in CONNECTIONS.items():
        first = sustained(bench, "jsonl", f"jsonl-{name}-1", connections, seconds / 2)
        others = {layout: sustained(bench, layout, f"{layout}-{name}", connections, seconds) for layout in PER_EVENT}
        last = sustained(bench, "jsonl", f"jsonl-{name}-2", connections, seconds / 2)
        baseline = median([first.rate, last.rate])
        for layout, load in others.items():
            yield result(
                f"layouts.{layout}_{name}",
                load.rate / baseline,
                events_s=load.rate,
                jsonl_s=baseline,
                cpu_us=load.daemon_us_per_event,
                slowest_second=min(load.slices, default=0),
                refused=load.errors,
                jsonl_refused=first.errors + last.errors,
            )


def sustained(bench: Workbench, layout: str, home: str, connections: int, seconds: float) -> Load:
    """One layout in a home of its own; the time counts while the flusher works, not after it has caught up."""
    with bench.daemon(home) as daemon:
        sessions = create_sessions(daemon, connections, layout=layout)
        load = bench.append(daemon, sessions, connections=connections, seconds=seconds)
    bench.say(f"{layout}, {connections} clients: {load.rate:,.0f}/s")
    return load

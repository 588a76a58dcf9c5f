"""Durable appends through the socket, against one ``fdatasync`` an event and against a local SQLite commit."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from tests.bench.baselines import SQLiteInserts, SyncedAppends
from tests.bench.report import Result, result
from tests.bench.rounds import interleave, median, paired_ratio
from tests.bench.workbench import Load, Workbench, create_sessions

CASES: dict[str, dict[str, int]] = {
    "one": {"connections": 1},
    "clients": {"connections": 64},
    "in_flight": {"connections": 8, "in_flight": 64},
    "batches": {"connections": 8, "batch": 64},
}


def run(bench: Workbench) -> Iterator[Result]:
    scale = bench.scale
    synced = SyncedAppends(bench.subfolder("synced"))
    inserts = SQLiteInserts(bench.subfolder("inserts"))
    loads: dict[str, list[Load]] = {name: [] for name in CASES}
    with bench.daemon("append") as daemon:
        sessions = create_sessions(daemon, 64)

        def measure(name: str) -> float:
            loads[name].append(bench.append(daemon, sessions, **CASES[name]))
            return loads[name][-1].rate

        samples = interleave(
            scale.rounds,
            {
                "synced": partial(synced.rate, scale.seconds),
                "sqlite": partial(inserts.rate, scale.seconds),
                **{name: partial(measure, name) for name in CASES},
            },
        )
    for name in CASES:
        yield result(
            f"append.{name}",
            paired_ratio(samples, name, "synced"),
            events_s=median(samples[name]),
            synced_s=median(samples["synced"]),
            **_about(loads[name]),
        )
        if name == "one":
            yield result(
                "append.one_sqlite",
                paired_ratio(samples, name, "sqlite"),
                events_s=median(samples[name]),
                commits_s=median(samples["sqlite"]),
            )


def _about(loads: list[Load]) -> dict[str, float | int]:
    found: dict[str, float | int] = {"cpu_us": median([load.daemon_us_per_event for load in loads])}
    p50 = [load.p50_us for load in loads if load.p50_us is not None]
    p99 = [load.p99_us for load in loads if load.p99_us is not None]
    if p50 and p99:
        found.update(p50_us=median(p50), p99_us=median(p99))
    if refused := sum(load.errors for load in loads):
        found["refused"] = refused
    return found

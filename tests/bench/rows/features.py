"""What is paid for watching and for a subscriber: the same appends with them and without.

Three daemons stand side by side and only one is under load. "Off" has watching off and nobody subscribed; the
index is part of every daemon.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from tests.bench.report import Result, result
from tests.bench.rounds import interleave, median, paired_ratio
from tests.bench.workbench import Subscriber, Workbench, create_sessions
from tests.support.daemon import RunningDaemon

WATCHING_OFF = "[watch]\nenabled = false\n"
CONNECTIONS = {"one": 1, "clients": 64}


def run(bench: Workbench) -> Iterator[Result]:
    with (
        bench.daemon("features-off", config=WATCHING_OFF) as off,
        bench.daemon("features-watch") as watch,
        bench.daemon("features-all") as everything,
    ):
        daemons = {"off": off, "watch": watch, "all": everything}
        sessions = {name: create_sessions(daemon, 64) for name, daemon in daemons.items()}
        heard: dict[str, int] = {"notifications": 0, "lagged": 0}

        def measure(name: str, connections: int) -> float:
            if name != "all":
                return bench.append(daemons[name], sessions[name], connections=connections).rate
            rate, counts = followed(bench, everything, sessions[name], connections)
            for key in heard:
                heard[key] += counts[key]
            return rate

        for suffix, connections in CONNECTIONS.items():
            heard.update(notifications=0, lagged=0)
            samples = interleave(bench.scale.rounds, {name: partial(measure, name, connections) for name in daemons})
            for name in ("all", "watch"):
                yield result(
                    f"features.{name}_{suffix}",
                    paired_ratio(samples, name, "off"),
                    events_s=median(samples[name]),
                    off_s=median(samples["off"]),
                    **(heard if name == "all" else {}),
                )


def followed(
    bench: Workbench, daemon: RunningDaemon, sessions: list[str], connections: int
) -> tuple[float, dict[str, int]]:
    """One round with a subscriber to everything; the rate, and what the subscriber counted."""
    subscriber = Subscriber(daemon)
    try:
        rate = bench.append(daemon, sessions, connections=connections).rate
    finally:
        counts = subscriber.stop()
    return rate, counts

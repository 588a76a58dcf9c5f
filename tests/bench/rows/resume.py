"""Opening a long ``jsonl`` session and decoding every event, by library call, against ``orjson`` a line."""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Callable, Iterator
from functools import partial

from chimera.sessions.eventlog import EventLog
from tests.bench.baselines import parsed_by_orjson
from tests.bench.corpus import write_event_log
from tests.bench.report import Result, result
from tests.bench.rounds import interleave, median, paired_ratio
from tests.bench.workbench import Workbench


def run(bench: Workbench) -> Iterator[Result]:
    count = bench.scale.resume_events
    folder = os.path.join(bench.subfolder("resume"), "mink-20260101T000000-00000000")
    size = write_event_log(folder, count)
    path = os.path.join(folder, "events.jsonl")
    assert resumed(folder) == len(parsed_by_orjson(path)) == count
    samples = interleave(
        bench.scale.rounds,
        {"orjson": partial(timed, parsed_by_orjson, path), "event_log": partial(timed, resumed, folder)},
    )
    yield result(
        "resume.event_log",
        paired_ratio(samples, "event_log", "orjson"),
        events=count,
        mib=size / 2**20,
        event_log_ms=median(samples["event_log"]) * 1e3,
        orjson_ms=median(samples["orjson"]) * 1e3,
    )


def resumed(folder: str) -> int:
    """Open a session's log as an embedder does, decode every event; how many there are."""
    log = EventLog(folder)
    return len(log.get_range(0, log.length))


def timed(work: Callable[[str], object], argument: str) -> float:
    """Seconds of one call; what earlier calls left behind is collected before, not during it."""
    gc.collect()
    began = time.perf_counter()
    work(argument)
    return time.perf_counter() - began

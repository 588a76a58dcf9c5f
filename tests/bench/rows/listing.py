"""The newest 20 of stores of several sizes by one RPC, against walking every summary."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from functools import partial

from tests.bench.baselines import newest_by_walking
from tests.bench.corpus import build_corpus
from tests.bench.report import Result, result
from tests.bench.rounds import Samples, interleave, median, paired_ratio
from tests.bench.workbench import Workbench, wait_indexed
from tests.support.daemon import Connection

NAMES = {3: ("small", "middle", "large"), 2: ("small", "large")}


def run(bench: Workbench) -> Iterator[Result]:
    sizes = dict(zip(NAMES[len(bench.scale.corpus_sizes)], bench.scale.corpus_sizes, strict=True))
    roots = {name: bench.subfolder(f"listing-{name}/eventlog") for name in sizes}
    for name, size in sizes.items():
        build_corpus(roots[name], size)
        bench.say(f"{size:,} sessions made")
    indexed: dict[str, float] = {}
    with contextlib.ExitStack() as stack:
        calls = {}
        for name, size in sizes.items():
            began = time.perf_counter()
            daemon = stack.enter_context(bench.daemon(f"listing-{name}"))
            wait_indexed(daemon, size)
            indexed[name] = time.perf_counter() - began
            bench.say(f"{size:,} sessions indexed in {indexed[name]:.1f} s")
            connection = stack.enter_context(daemon.connect())
            calls[f"call {name}"] = partial(median_call, connection, bench.scale.list_calls)
            check_answer(connection, size, roots[name])
        walks = {f"walk {name}": partial(timed_walk, roots[name]) for name in sizes}
        samples = interleave(min(bench.scale.rounds, 5), {**calls, **walks})
    yield from results(samples, sizes, indexed)


def results(samples: Samples, sizes: dict[str, int], indexed: dict[str, float]) -> Iterator[Result]:
    for name, size in sizes.items():
        yield result(
            f"listing.{name}",
            paired_ratio(samples, f"walk {name}", f"call {name}"),
            sessions=size,
            call_us=median(samples[f"call {name}"]) * 1e6,
            walk_ms=median(samples[f"walk {name}"]) * 1e3,
            first_index_s=indexed[name],
        )
    ratio = paired_ratio(samples, "call large", "call small")
    yield result("listing.flat", ratio, large=sizes["large"], small=sizes["small"])


def median_call(connection: Connection, calls: int) -> float:
    """Seconds of one ``sessions.list``, from the first byte sent to the newline of the answer."""
    request = b'{"jsonrpc":"2.0","id":1,"method":"sessions.list","params":{"limit":20}}'
    clock = time.perf_counter
    times = []
    for _ in range(calls):
        began = clock()
        connection.send_line(request)
        connection.read_line()
        times.append(clock() - began)
    return median(times)


def timed_walk(root: str) -> float:
    began = time.perf_counter()
    newest_by_walking(root)
    return time.perf_counter() - began


def check_answer(connection: Connection, size: int, root: str) -> None:
    """Both ways must name the same sessions, or the ratio says nothing."""
    answer = connection.call("sessions.list", limit=20)
    walked = [summary["session_id"] for summary in newest_by_walking(root)]
    listed = [record["session_id"] for record in answer["sessions"]]
    if listed != walked or answer["total"] != size:
        raise RuntimeError(f"the daemon lists {listed} of {answer['total']}, the walk found {walked} of {size}")

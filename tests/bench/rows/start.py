"""The daemon from spawn to its first answer over an empty store, and what it takes when nothing happens."""

from __future__ import annotations

import itertools
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from tests.bench.machine import cpu_seconds, memory_mib
from tests.bench.processes import bare_python
from tests.bench.report import Result, result
from tests.bench.rounds import interleave, median, paired_ratio
from tests.bench.workbench import Workbench
from tests.support.daemon import RunningDaemon

_HELLO = b'{"jsonrpc":"2.0","id":1,"method":"daemon.hello"}\n'


def run(bench: Workbench) -> Iterator[Result]:
    numbers = itertools.count()

    def start() -> float:
        return seconds_to_first_answer(Path(bench.subfolder(f"start-{next(numbers)}")))

    samples = interleave(bench.scale.process_rounds, {"python": bare_python, "start": start})
    yield result(
        "start.first_answer",
        paired_ratio(samples, "start", "python"),
        ms=median(samples["start"]) * 1e3,
        python_ms=median(samples["python"]) * 1e3,
    )
    with bench.daemon("idle") as daemon:
        memory, percent = idle(daemon.process.pid, bench.scale.idle_seconds)
    yield result("start.resident", memory["rss"], pss_mib=memory["pss"])
    yield result("start.idle_cpu", percent, seconds=bench.scale.idle_seconds)


def seconds_to_first_answer(home: Path) -> float:
    began = time.perf_counter()
    daemon = RunningDaemon(home)
    try:
        answered_at = wait_first_answer(daemon, began + 60.0)
    finally:
        daemon.stop()
    return answered_at - began


def wait_first_answer(daemon: RunningDaemon, deadline: float) -> float:
    """The moment in which ``daemon.hello`` was answered, asked for every half millisecond."""
    while time.perf_counter() < deadline and daemon.process.poll() is None:
        client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        client.settimeout(5.0)
        try:
            client.connect(daemon.socket_path)
            client.sendall(_HELLO)
            if client.recv(65536):
                return time.perf_counter()
        except OSError:
            pass
        finally:
            client.close()
        time.sleep(0.0005)
    raise RuntimeError(f"the daemon did not answer:\n{daemon.read_log()}")


def idle(pid: int, seconds: float) -> tuple[dict[str, float], float]:
    """Memory, and CPU in percent of a core over ``seconds``, once the start has settled."""
    time.sleep(min(2.0, seconds))
    before = cpu_seconds(pid)
    time.sleep(seconds)
    percent = (cpu_seconds(pid) - before) / seconds * 100
    return memory_mib(pid), percent

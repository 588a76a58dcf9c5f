"""What every row works with: a folder on a real disk, daemons in homes of their own, and load upon them."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.bench.machine import cpu_seconds
from tests.bench.scale import Scale
from tests.support.daemon import RunningDaemon

__all__ = ["Load", "Subscriber", "Workbench", "create_sessions", "settle"]

_LOAD_PROGRAM = os.path.join(os.path.dirname(__file__), "load.py")
_SETTLE_SECONDS = 120.0


@dataclass(frozen=True)
class Load:
    """What one round of appends came to."""

    rate: float
    """Acknowledged events a second."""
    p50_us: float | None
    p99_us: float | None
    errors: int
    first_error: str
    daemon_us_per_event: float
    """CPU time of the daemon for each event, in microseconds."""
    slices: list[int]
    """Calls answered in each whole second."""


class Workbench:
    """One run: its folder, its scale, and a place to say what it is doing."""

    def __init__(self, folder: str, scale: Scale, *, quiet: bool = False) -> None:
        self.folder = folder
        self.scale = scale
        self.quiet = quiet

    def say(self, text: str) -> None:
        if not self.quiet:
            print(f"    {text}", file=sys.stderr, flush=True)

    def subfolder(self, name: str) -> str:
        path = os.path.join(self.folder, name)
        os.makedirs(path, mode=0o700, exist_ok=True)
        return path

    @contextlib.contextmanager
    def daemon(self, home: str, *, config: str = "") -> Iterator[RunningDaemon]:
        """A daemon that is ready, with ``config`` as its config.toml; ended with SIGTERM, its home stays."""
        path = Path(self.subfolder(home))
        if config:
            (path / "config.toml").write_text(config)
        running = RunningDaemon(path)
        try:
            yield running.wait_ready(seconds=60.0)
        finally:
            if running.process.poll() is None:
                running.stop(seconds=60.0)
            else:
                running.log.close()

    def append(
        self, daemon: RunningDaemon, sessions: list[str], *, connections: int, in_flight: int = 1, batch: int = 1,
        seconds: float | None = None,
    ) -> Load:  # fmt: skip
        """One round of load; returns when the daemon has flushed it, so that the next round starts level."""
        spec = {
            "mode": "append",
            "socket": daemon.socket_path,
            "sessions": sessions,
            "connections": connections,
            "in_flight": in_flight,
            "batch": batch,
            "metadata_bytes": 1024,
            "seconds": seconds or self.scale.seconds,
            "warm_up": self.scale.warm_up,
        }
        before = cpu_seconds(daemon.process.pid)
        done = subprocess.run(
            [sys.executable, "-I", "-S", _LOAD_PROGRAM],
            input=json.dumps(spec).encode() + b"\n",
            stdout=subprocess.PIPE,
            check=True,
        )
        spent = cpu_seconds(daemon.process.pid) - before
        found = json.loads(done.stdout)
        settle(daemon)
        if found["errors"]:
            self.say(f"{found['errors']} appends were refused: {found['first_error']}")
        return Load(
            rate=found["calls"] * batch / found["seconds"],
            p50_us=found["p50_us"],
            p99_us=found["p99_us"],
            errors=found["errors"],
            first_error=found["first_error"],
            daemon_us_per_event=spent / max(1, found["events_in_all"]) * 1e6,
            slices=found["slices"],
        )


class Subscriber:
    """A client in a process of its own that follows every session and only counts."""

    def __init__(self, daemon: RunningDaemon) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-I", "-S", _LOAD_PROGRAM], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        self._send({"mode": "subscribe", "socket": daemon.socket_path})
        assert self.process.stdout is not None
        if self.process.stdout.readline() != b"ready\n":
            raise RuntimeError("the subscriber was not let in")

    def stop(self) -> dict[str, int]:
        """How many notifications and ``session.lagged`` notices came, and their bytes."""
        output, _ = self.process.communicate()
        return dict(json.loads(output))

    def _send(self, spec: dict[str, Any]) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(spec).encode() + b"\n")
        self.process.stdin.flush()


def create_sessions(daemon: RunningDaemon, count: int, **params: Any) -> list[str]:
    """Sessions to append to; their ids."""
    with daemon.connect() as connection:
        return [connection.call("sessions.create", **params)["session_id"] for _ in range(count)]


def settle(daemon: RunningDaemon) -> None:
    """Wait until everything acknowledged has left the journal."""
    deadline = time.monotonic() + _SETTLE_SECONDS
    with daemon.connect() as connection:
        while connection.call("daemon.status")["journal"]["unflushed_events"]:
            if time.monotonic() > deadline:
                raise RuntimeError(f"the daemon did not flush within {_SETTLE_SECONDS:g} s")
            time.sleep(0.05)


def wait_indexed(daemon: RunningDaemon, sessions: int, seconds: float = 300.0) -> float:
    """Wait until the index knows that many sessions; how long that took from now."""
    began = time.perf_counter()
    with daemon.connect() as connection:
        while True:
            index = connection.call("daemon.status")["index"]
            waited = time.perf_counter() - began
            if index["state"] == "ready" and index["sessions"] >= sessions:
                return waited
            if waited > seconds:
                raise RuntimeError(f"the index knows {index} after {seconds:g} s, not {sessions} sessions")
            time.sleep(0.01)

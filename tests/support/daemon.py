"""A real daemon on a real socket in a temporary home, for tests. Knows nothing of the daemon's insides."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any


class RunningDaemon:
    """A `chimerad` process. ``command_prefix`` may wrap it (strace); ``extra_env`` is added to its environment."""

    def __init__(self, home: Path, *arguments: str, prefix: tuple[str, ...] = (), env: dict[str, str] | None = None):
        self.home = Path(home)
        self.root = self.home / "eventlog"
        self.socket_path = str(self.home / "run" / "chimerad.sock")
        self.environment = {**os.environ, "CHIMERA_HOME": str(self.home), **(env or {})}
        self.environment.pop("CHIMERA_SOCKET", None)
        self.log_path = self.home.parent / f"{self.home.name}-chimerad.log"
        self.log = self.log_path.open("ab")
        self.process = subprocess.Popen(
            [*prefix, sys.executable, "-m", "chimerad", *arguments],
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=self.log,
            stderr=self.log,
        )

    def wait_ready(self, seconds: float = 20.0) -> RunningDaemon:
        """Return when the daemon answers `daemon.hello`; raises with its log when it ended or never did."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise RuntimeError(f"the daemon ended with {self.process.returncode}:\n{self.read_log()}")
            try:
                with self.connect() as connection:
                    connection.call("daemon.hello")
                    return self
            except (OSError, EOFError):
                select.select([], [], [], 0.005)
        raise RuntimeError(f"the daemon did not answer in {seconds} s:\n{self.read_log()}")

    def connect(self) -> Connection:
        return Connection(self.socket_path)

    def read_log(self) -> str:
        return self.log_path.read_text(errors="replace")

    def kill(self) -> None:
        """SIGKILL, and wait for the end."""
        self.process.kill()
        self.process.wait()
        self.log.close()

    def stop(self, seconds: float = 20.0) -> int:
        """SIGTERM, and the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(seconds)
        finally:
            self.log.close()


class RpcError(Exception):
    """The ``error`` member of a reply."""

    def __init__(self, error: dict[str, Any]) -> None:
        super().__init__(error.get("message"))
        self.code = error["code"]
        self.message = error["message"]
        self.data = error.get("data") or {}
        self.kind = self.data.get("kind")


class Connection:
    """The plainest client: one JSON object a line. Not our own on purpose: tests must not share its bugs."""

    def __init__(self, path: str, timeout: float = 30.0) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.settimeout(timeout)
        try:
            self.socket.connect(path)
        except BaseException:
            self.socket.close()
            raise
        self.buffer = b""
        self.next_id = 0
        self.notifications: list[dict[str, Any]] = []

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send_line(self, line: bytes) -> None:
        self.socket.sendall(line + b"\n")

    def send(self, method: str, **params: Any) -> int:
        self.next_id += 1
        message = {"jsonrpc": "2.0", "id": self.next_id, "method": method, "params": params}
        self.send_line(json.dumps(message).encode())
        return self.next_id

    def read_line(self) -> bytes:
        while b"\n" not in self.buffer:
            chunk = self.socket.recv(1 << 18)
            if not chunk:
                raise EOFError("the daemon closed the connection")
            self.buffer += chunk
        line, _, self.buffer = self.buffer.partition(b"\n")
        return line

    def read_message(self) -> Any:
        return json.loads(self.read_line())

    def wait_reply(self, request_id: int) -> Any:
        while True:
            message = self.read_message()
            if isinstance(message, dict) and "method" in message:
                self.notifications.append(message)
            elif message.get("id") == request_id:
                if "error" in message:
                    raise RpcError(message["error"])
                return message["result"]

    def call(self, method: str, **params: Any) -> Any:
        return self.wait_reply(self.send(method, **params))

    def next_notification(self) -> dict[str, Any]:
        if self.notifications:
            return self.notifications.pop(0)
        message = self.read_message()
        assert "method" in message, message
        return dict(message)

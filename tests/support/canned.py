"""A small Unix-socket server that answers from a script: what a daemon does on its bad days, on demand.

Real sockets and real lines; only the other side's mind is made up beforehand.
"""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

CLOSE = object()
"""In an answer: close this connection now."""

HELLO = {"name": "chimerad", "version": "0.1.0", "protocol": 1, "pid": 1, "home": "/nowhere"}

Script = Callable[[Any, int], Sequence[object]]
"""A request (or a batch) and the number of its connection, from 1; what is sent for it: messages, bytes, CLOSE."""


def reply(request: dict[str, Any], result: object) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": request["id"], "result": result}


def refusal(request: dict[str, Any], code: int, kind: str, message: str = "no", **data: object) -> dict[str, Any]:
    return {
        "jsonrpc": "2.0",
        "id": request["id"],
        "error": {"code": code, "message": message, "data": {"kind": kind, **data}},
    }


def polite(script: Script) -> Script:
    """A script that need not care for ``daemon.hello``."""

    def answer(request: Any, number: int) -> Sequence[object]:
        if isinstance(request, dict) and request.get("method") == "daemon.hello":
            return [reply(request, HELLO)]
        return script(request, number)

    return answer


def silent(request: Any, number: int) -> Sequence[object]:
    return []


class CannedDaemon:
    """Listens until it is closed. ``requests`` are all lines that came, in their order, hellos left out.

    ``send`` writes to a connection that is open, unasked: notifications.
    """

    def __init__(self, path: str | Path, script: Script = silent) -> None:
        self.path = str(path)
        self.requests: list[Any] = []
        self.answered = 0
        self.connections: list[socket.socket] = []
        self._script = script
        self._changed = threading.Condition()
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(self.path)
        self._listener.listen()
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def __enter__(self) -> CannedDaemon:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End as a killed process does: the listener and every connection at once; the socket's file stays."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._threads[0].join(5)  # a connection that it was just accepting is among those that end
        self.hang_up()
        for thread in self._threads:
            thread.join(5)

    def hang_up(self) -> None:
        """Close every connection; go on listening."""
        for connection in self.connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def send(self, *messages: object, connection: int = -1) -> None:
        _send(self.connections[connection], messages)

    def wait_for_requests(self, count: int, seconds: float = 10.0) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.requests) >= count, seconds), self.requests

    def wait_for_answers(self, count: int, seconds: float = 10.0) -> None:
        """Return when so many requests (hellos left out) have been answered."""
        with self._changed:
            assert self._changed.wait_for(lambda: self.answered >= count, seconds), self.requests

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                self.connections.append(connection)
                thread = threading.Thread(target=self._serve, args=(connection, len(self.connections)), daemon=True)
                self._threads.append(thread)
                thread.start()

    def _serve(self, connection: socket.socket, number: int) -> None:
        with contextlib.suppress(OSError), connection, connection.makefile("rb") as lines:
            for line in lines:
                request = json.loads(line)
                greeting = isinstance(request, dict) and request.get("method") == "daemon.hello"
                if not greeting:
                    self._note(request)
                if isinstance(request, dict) and "id" not in request:
                    continue  # a notification wants no answer
                goes_on = _send(connection, self._script(request, number))
                if not greeting:
                    self._note()
                if not goes_on:
                    connection.shutdown(socket.SHUT_RDWR)
                    return

    def _note(self, request: Any = None) -> None:
        with self._changed:
            if request is None:
                self.answered += 1
            else:
                self.requests.append(request)
            self._changed.notify_all()


def _send(connection: socket.socket, messages: Sequence[object]) -> bool:
    for message in messages:
        if message is CLOSE:
            return False
        line = message if isinstance(message, bytes) else json.dumps(message).encode() + b"\n"
        connection.sendall(line)
    return True

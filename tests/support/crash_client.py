"""Clients that keep books: everything they send and receive goes into a ledger (tests.support.crash_ledger)."""

from __future__ import annotations

import itertools
import threading
from typing import Any

from tests.support.crash_ledger import Ledger
from tests.support.daemon import Connection, RpcError

_numbers = itertools.count(1)
_lock = threading.Lock()
"""One for all books: a line is noted before anybody else's later one."""


class BookkeepingConnection(Connection):
    """A plain connection whose lines are noted: a request before it leaves, a reply when it has come."""

    def __init__(self, path: str, ledger: Ledger, timeout: float = 30.0) -> None:
        super().__init__(path, timeout)
        self.ledger = ledger
        self.number = next(_numbers)

    def send_line(self, line: bytes) -> None:
        with _lock:
            self.ledger.heard(self.number, line)
        super().send_line(line)

    def read_line(self) -> bytes:
        line = super().read_line()
        with _lock:
            self.ledger.said(self.number, line)
        return line

    def __exit__(self, *exception: object) -> None:
        super().__exit__(*exception)
        with _lock:
            self.ledger.lost_connection(self.number)


def event(text: str = "", *, kind: str = "user_message", event_id: str | None = None) -> dict[str, Any]:
    """An event as a client gives it, like no other but the one with the same id."""
    if event_id is None:
        return {"type": kind, "metadata": {"token": next(_numbers), "content": text}}
    return {"type": kind, "metadata": {"token": event_id, "content": text}, "id": event_id}


def attempt(connection: Connection, method: str, **params: Any) -> tuple[Any, RpcError | None]:
    """Call: the result, or the error it answers with."""
    try:
        return connection.call(method, **params), None
    except RpcError as error:
        return None, error

"""What the daemon is measured against: the plainest program that does the same work. Knows nothing of chimera."""

from __future__ import annotations

import json
import os
import sqlite3
import time
from collections.abc import Callable
from typing import Any

__all__ = ["SQLiteInserts", "SyncedAppends", "newest_by_walking", "parsed_by_orjson"]


class SyncedAppends:
    """Append 1 KB and ``fdatasync``, each; one growing file a round, none of them deleted."""

    def __init__(self, folder: str, record_bytes: int = 1024) -> None:
        self.folder = folder
        self.record = b"x" * (record_bytes - 1) + b"\n"
        self.files = 0

    def rate(self, seconds: float) -> float:
        """Appends a second."""
        self.files += 1
        path = os.path.join(self.folder, f"synced-{self.files}.log")
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600)

        def append() -> None:
            os.write(descriptor, self.record)
            os.fdatasync(descriptor)

        try:
            return rate_of(append, seconds)
        finally:
            os.close(descriptor)


class SQLiteInserts:
    """One insert a commit, in process: WAL, ``synchronous=FULL``, the body in a row, found by session and number."""

    def __init__(self, folder: str, record_bytes: int = 1024) -> None:
        self.folder = folder
        self.body = b"x" * record_bytes
        self.files = 0

    def rate(self, seconds: float) -> float:
        """Commits a second."""
        self.files += 1
        database = sqlite3.connect(os.path.join(self.folder, f"inserts-{self.files}.db"), isolation_level=None)
        database.execute("PRAGMA journal_mode=WAL")
        database.execute("PRAGMA synchronous=FULL")
        database.execute("CREATE TABLE events (session TEXT, seq INTEGER, body BLOB)")
        database.execute("CREATE INDEX by_session ON events (session, seq)")
        numbers = iter(range(1 << 62))
        session = "mink-20260101T000000-00000000"

        def insert() -> None:
            database.execute("BEGIN")
            database.execute("INSERT INTO events VALUES (?, ?, ?)", (session, next(numbers), self.body))
            database.execute("COMMIT")

        try:
            return rate_of(insert, seconds)
        finally:
            database.close()


def rate_of(action: Callable[[], None], seconds: float) -> float:
    """How often a second ``action`` can be called, one after the other."""
    action()
    clock = time.perf_counter
    began = now = clock()
    done = 0
    while now - began < seconds:
        action()
        done += 1
        now = clock()
    return done / (now - began)


def newest_by_walking(root: str, count: int = 20) -> list[dict[str, Any]]:
    """The newest sessions by reading every summary, as every list of the family did it."""
    sessions = []
    for entry in os.scandir(root):
        if not entry.is_dir():
            continue
        try:
            with open(os.path.join(entry.path, "summary.json")) as summary:
                sessions.append(json.load(summary))
        except (FileNotFoundError, ValueError):
            continue
    sessions.sort(key=lambda summary: str(summary.get("started_at", "")), reverse=True)
    return sessions[:count]


def parsed_by_orjson(path: str) -> list[Any]:
    """Every line of a file, decoded."""
    import orjson

    with open(path, "rb") as lines:
        return [orjson.loads(line) for line in lines]

"""Changes to the index: a session's row and its share of the totals in one transaction (store rule 15).

Used from one thread. Errors of SQLite are raised as they are; the service decides what they mean.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from chimerad.store.index.rows import SessionRow

__all__ = ["IndexWriter"]

_KEYS = ("listed", "started_us", "day", "flavour", "model", "pinned", "cwd", "tags")
"""The columns that some index or the tags are made from."""

_SHARE = ("success", "unpriced", "cost_microdollars", "input_tokens", "output_tokens", "cache_tokens", "total_tokens")
"""The columns that are added up in the totals, in their order there."""

_PLAIN = (*_SHARE, "summary_stamp", "log_stamp", "log_is_file", "events", "record")
"""The columns that no index holds."""

_COLUMNS = ("session_id", *_KEYS, *_PLAIN)
_TOTALS = ("runs", "successful", *_SHARE[1:])


def _list(names: Iterable[str], form: str = "{0}", separator: str = ", ") -> str:
    return separator.join(form.format(name) for name in names)


# Every name below is a constant of this file; values are always bound.
_FIND = f"SELECT {_list(_KEYS + _SHARE)} FROM sessions WHERE session_id = ?"  # noqa: S608
_REPLACE = f"INSERT OR REPLACE INTO sessions ({_list(_COLUMNS)}) VALUES ({_list(_COLUMNS, ':{0}')})"  # noqa: S608
_CHANGE_PLAIN = f"UPDATE sessions SET {_list(_PLAIN, '{0} = :{0}')} WHERE session_id = :session_id"  # noqa: S608
_ADD_TO_TOTALS = (
    f"INSERT INTO totals (day, model, flavour, {_list(_TOTALS)}) VALUES (?, ?, ?, {_list(_TOTALS, '?')})"  # noqa: S608
    f" ON CONFLICT DO UPDATE SET {_list(_TOTALS, '{0} = {0} + excluded.{0}')}"
)
_DROP_EMPTY = "DELETE FROM totals WHERE day = ? AND model = ? AND flavour = ? AND runs = 0"

Group = tuple[int, str, str]


class IndexWriter:
    """The one writer of the index, over the connection that ``schema.open_database`` gave."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    @property
    def covered_lsn(self) -> int:
        """The journal's LSN up to which the rows are known to be right; 0 for none."""
        found = self._connection.execute("SELECT value FROM facts WHERE name = 'covered_lsn'").fetchone()
        return int(found[0]) if found else 0

    def upsert(self, rows: Iterable[SessionRow]) -> None:
        """Put rows in, each in place of the one of the same session; all of them or, after an error, none."""
        with self._transaction():
            changes = _Changes()
            for row in rows:
                self._put(row, changes)
            self._apply(changes)

    def remove(self, session_ids: Iterable[str]) -> None:
        """Take rows out; one that is not there is already out."""
        with self._transaction():
            changes = _Changes()
            for session_id in session_ids:
                old = self._find(session_id)
                if old is not None:
                    self._take_out_shares(old, changes)
                    self._connection.execute("DELETE FROM sessions WHERE session_id = ?", (session_id,))
            self._apply(changes)

    def commit(self, lsn: int) -> None:
        """Make all changes so far durable, and name the LSN that they cover (store rule 6)."""
        self._connection.execute("PRAGMA synchronous = FULL")
        try:
            self._connection.execute("INSERT OR REPLACE INTO facts VALUES ('covered_lsn', ?)", (lsn,))
        finally:
            self._connection.execute("PRAGMA synchronous = NORMAL")

    def clear(self) -> None:
        """Empty the tables."""
        with self._transaction():
            for table in ("sessions", "session_tags", "totals"):
                self._connection.execute(f"DELETE FROM {table}")  # noqa: S608 - constants
            self._connection.execute("DELETE FROM facts WHERE name = 'covered_lsn'")

    def close(self) -> None:
        self._connection.close()

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._connection.execute("COMMIT")
        except BaseException:
            if self._connection.in_transaction:  # SQLite itself has rolled back after some errors
                self._connection.execute("ROLLBACK")
            raise

    def _find(self, session_id: str) -> dict[str, Any] | None:
        found = self._connection.execute(_FIND, (session_id,)).fetchone()
        return None if found is None else {"session_id": session_id, **dict(zip(_KEYS + _SHARE, found, strict=True))}

    def _put(self, row: SessionRow, changes: _Changes) -> None:
        old = self._find(row.session_id)
        new = _columns(row)
        if old is not None and all(old[name] == new[name] for name in _KEYS):
            self._connection.execute(_CHANGE_PLAIN, new)  # the common change: SQLite touches no index
            if row.listed and any(old[name] != new[name] for name in _SHARE):
                changes.subtract(old)
                changes.add(new)
            return
        if old is not None:
            self._take_out_shares(old, changes)
        self._connection.execute(_REPLACE, new)
        if row.listed:
            changes.add(new)
            entries = [(tag, row.started_us, row.session_id) for tag in row.tags]
            self._connection.executemany("INSERT INTO session_tags VALUES (?, ?, ?)", entries)

    def _take_out_shares(self, old: dict[str, Any], changes: _Changes) -> None:
        """What a row that goes or changes has in the totals and among the tags."""
        if not old["listed"]:
            return
        changes.subtract(old)
        for tag in json.loads(old["tags"]):
            self._connection.execute(
                "DELETE FROM session_tags WHERE tag = ? AND started_us = ? AND session_id = ?",
                (tag, old["started_us"], old["session_id"]),
            )

    def _apply(self, changes: _Changes) -> None:
        for group, share in changes.shares.items():
            if any(share):
                self._connection.execute(_ADD_TO_TOTALS, (*group, *share))
                self._connection.execute(_DROP_EMPTY, group)


class _Changes:
    """What a transaction changes in the totals: the new shares minus the old ones, a group at a time."""

    def __init__(self) -> None:
        self.shares: dict[Group, list[int]] = {}

    def add(self, columns: dict[str, Any]) -> None:
        self._count(columns, 1)

    def subtract(self, columns: dict[str, Any]) -> None:
        self._count(columns, -1)

    def _count(self, columns: dict[str, Any], sign: int) -> None:
        group = (columns["day"], columns["model"], columns["flavour"])
        share = self.shares.setdefault(group, [0] * len(_TOTALS))
        share[0] += sign
        for place, name in enumerate(_SHARE, start=1):
            share[place] += sign * columns[name]


def _columns(row: SessionRow) -> dict[str, Any]:
    """The row as SQLite binds it; booleans are integers there, and equal to them here."""
    return {
        "session_id": row.session_id,
        "summary_stamp": row.stamp.summary,
        "log_stamp": row.stamp.log,
        "log_is_file": row.stamp.log_is_file,
        "listed": row.listed,
        "started_us": row.started_us,
        "day": row.day,
        "flavour": row.flavour,
        "model": row.model,
        "success": row.success,
        "pinned": row.pinned,
        "unpriced": row.unpriced,
        "cost_microdollars": row.cost_microdollars,
        "input_tokens": row.input_tokens,
        "output_tokens": row.output_tokens,
        "cache_tokens": row.cache_tokens,
        "total_tokens": row.total_tokens,
        "events": row.events,
        "cwd": row.cwd,
        "tags": json.dumps(row.tags),
        "record": row.record,
    }

"""Sessions in one SQLite database, found by parent, branch, time and cost: ``<CHIMERA_HOME>/sessions.db``.

The table ``sessions`` is the one that older programs of the family read and write, and stays as they know it. Beside it
stand what ours needs and theirs never sees:

    sessions_by_creation, sessions_by_parent    indexes of that table
    session_facets       the branch and the cost in whole micro-dollars, out of each row's ``metadata``, indexed
    session_facets_due   the rows whose facets are to be taken anew; kept by triggers, so that what an older program
                         writes is found too

A database without them gets them when it is opened, in one transaction. Each call opens the database and closes it
again: threads, forks and processes share nothing, and at rest all is in one file. Nobody else imports ``sqlite3``.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from collections.abc import Iterator
from threading import Lock
from typing import Any

import msgspec

from chimera import durable, paths
from chimera.errors import ChimeraError, InvalidId, InvalidParams, Locked, NoSpace, ReadOnly, StorageError
from chimera.identifiers import check_session_id
from chimera.sessions.eventlog.older_shapes import decode_object
from chimera.sessions.storage.base import SessionStorage, Storable, StoredSession
from chimera.sessions.storage.form import SessionForm, form_of, read_form, session_of
from chimera.sessions.storage.refusals import refused_by_disk
from chimera.sessions.summary import microdollars

__all__ = ["SQLiteSessionStorage", "find_statement"]

BUSY_SECONDS = 30.0
ASK_AGAIN_SECONDS = 0.01

_MARK = """
    INSERT INTO session_facets_due SELECT NEW.session_id
        WHERE NOT EXISTS (SELECT 1 FROM session_facets_due WHERE session_id = NEW.session_id);
"""
"""In a trigger. Without OR IGNORE, which the policy of the statement that fires the trigger would replace."""

_ADDITIONS = (
    """CREATE TABLE IF NOT EXISTS sessions (
        session_id TEXT PRIMARY KEY,
        system TEXT,
        parent_id TEXT,
        created_at REAL,
        updated_at REAL,
        metadata TEXT DEFAULT '{}',
        messages TEXT DEFAULT '[]'
    )""",
    "CREATE INDEX sessions_by_creation ON sessions (created_at, session_id)",
    "CREATE INDEX sessions_by_parent ON sessions (parent_id, created_at, session_id)",
    "CREATE TABLE session_facets (session_id TEXT PRIMARY KEY, branch TEXT, cost_microdollars INTEGER) WITHOUT ROWID",
    "CREATE INDEX session_facets_by_branch ON session_facets (branch)",
    "CREATE INDEX session_facets_by_cost ON session_facets (cost_microdollars)",
    "CREATE TABLE session_facets_due (session_id TEXT PRIMARY KEY) WITHOUT ROWID",
    "INSERT INTO session_facets_due SELECT session_id FROM sessions WHERE session_id IS NOT NULL",
    f"""CREATE TRIGGER session_facets_of_new AFTER INSERT ON sessions
        WHEN NEW.session_id IS NOT NULL BEGIN {_MARK} END""",
    f"""CREATE TRIGGER session_facets_of_changed AFTER UPDATE ON sessions
        WHEN NEW.session_id IS NOT NULL BEGIN {_MARK} END""",
    """CREATE TRIGGER session_facets_of_deleted AFTER DELETE ON sessions BEGIN
        DELETE FROM session_facets WHERE session_id = OLD.session_id;
        DELETE FROM session_facets_due WHERE session_id = OLD.session_id;
    END""",
)
_IS_PREPARED = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'session_facets_due'"
_ROW = "SELECT system, parent_id, created_at, updated_at, metadata, messages FROM sessions WHERE session_id = ?"
_UPSERT = """
INSERT INTO sessions (session_id, system, parent_id, created_at, updated_at, metadata, messages)
VALUES (?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (session_id) DO UPDATE SET system = excluded.system, parent_id = excluded.parent_id,
    updated_at = excluded.updated_at, metadata = excluded.metadata, messages = excluded.messages
"""
_DUE = "SELECT session_id, metadata FROM session_facets_due JOIN sessions USING (session_id)"

_creation = Lock()
"""Closing a file drops every lock that this process holds on it, SQLite's own too: nobody opens what another makes."""


class SQLiteSessionStorage(SessionStorage):
    """Sessions in one database, durable when ``save`` returns.

    Args:
        path: the database; a leading ``~`` is expanded. It is made, readable for its owner alone, at the first call;
            one that is there keeps its mode.
    """

    def __init__(self, path: str | os.PathLike[str] | None = None) -> None:
        chosen = os.path.join(paths.home(), "sessions.db") if path is None else os.fspath(path)
        self.path = os.path.abspath(os.path.expanduser(chosen))

    def save(self, session: StoredSession | Storable) -> None:
        form = form_of(session)
        with self._change() as connection:
            self._read(connection, form.session_id)  # what is malformed is not written over
            row = (form.session_id, form.system, form.parent_id, form.created_at, form.updated_at)
            connection.execute(_UPSERT, (*row, _as_text(form.metadata), _as_text(form.messages)))
            _settle(connection, form.session_id, form.metadata)

    def load(self, session_id: str) -> StoredSession | None:
        check_session_id(session_id)
        with self._open() as connection:
            form = self._read(connection, session_id)
        return None if form is None else session_of(form)

    def list_sessions(self) -> list[str]:
        """The ids in the order of ``created_at``."""
        return self.find()

    def delete(self, session_id: str) -> None:
        check_session_id(session_id)
        with self._change() as connection:
            connection.execute("DELETE FROM sessions WHERE session_id = ?", (session_id,))

    def find(
        self,
        *,
        parent_id: str | None = None,
        branch: str | None = None,
        since: float | None = None,
        until: float | None = None,
        min_cost_usd: float | None = None,
        max_cost_usd: float | None = None,
    ) -> list[str]:
        """The ids of the sessions to which all that is given applies, in the order of ``created_at``.

        Args:
            parent_id: they were forked from this session.
            branch: their ``metadata["branch"]`` is this text; a session that names none is on no branch.
            since, until: ``since <= created_at < until``, in seconds since the epoch.
            min_cost_usd, max_cost_usd: ``metadata["cost_usd"]`` lies between these, both included, compared in whole
                micro-dollars. A session without a cost is never among them: what is unpriced was not free.

        Raises:
            InvalidParams: a bound of the cost is no amount of dollars.
            Locked, NoSpace, ReadOnly, StorageError: the database cannot be read.
        """
        lowest, highest = _bound("min_cost_usd", min_cost_usd), _bound("max_cost_usd", max_cost_usd)
        statement, values = find_statement(parent_id, branch, since, until, lowest, highest)
        with self._open() as connection:
            if branch is not None or lowest is not None or highest is not None:
                _settle_due(connection)
            found = [session_id for (session_id,) in connection.execute(statement, values)]
        return [session_id for session_id in found if _is_id(session_id)]

    def _read(self, connection: sqlite3.Connection, session_id: str) -> SessionForm | None:
        row = connection.execute(_ROW, (session_id,)).fetchone()
        if row is None:
            return None
        system, parent_id, created_at, updated_at, metadata, messages = row
        value = decode_object(b'{"metadata":' + _bytes(metadata) + b',"messages":' + _bytes(messages) + b"}")
        if value is not None:
            value |= {"session_id": session_id, "system": system, "parent_id": parent_id}
            value |= {"created_at": created_at, "updated_at": updated_at}
        return read_form(value, f"the row {session_id!r} of {self.path}")

    @contextlib.contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        """The database with its tables; whatever was not committed is gone when it is closed."""
        with refused_by_disk(self.path):
            self._make_file()
        try:
            with contextlib.closing(
                sqlite3.connect(self.path, timeout=BUSY_SECONDS, isolation_level=None)
            ) as connection:
                connection.text_factory = _text
                connection.execute("PRAGMA synchronous = FULL")
                connection.execute("PRAGMA fullfsync = ON")
                _prepare(connection)
                yield connection
        except sqlite3.Error as error:
            raise self._refusal(error) from error

    @contextlib.contextmanager
    def _change(self) -> Iterator[sqlite3.Connection]:
        with self._open() as connection:
            connection.execute("BEGIN IMMEDIATE")
            yield connection
            connection.execute("COMMIT")

    def _make_file(self) -> None:
        with _creation:
            if not os.path.exists(self.path):
                durable.make_folder(os.path.dirname(self.path))
                with contextlib.suppress(FileExistsError):  # another process was first
                    durable.create_file(self.path, b"")

    def _refusal(self, error: sqlite3.Error) -> ChimeraError:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # the primary one; none where Python itself refused
        if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            return Locked(
                f"another process has been writing {self.path} for {BUSY_SECONDS:g} s; try again when it has ended"
            )
        if code == sqlite3.SQLITE_FULL:
            return NoSpace(f"there is no room for {self.path}; free some and save again")
        if code == sqlite3.SQLITE_READONLY:
            return ReadOnly(f"{self.path} cannot be written ({error}); check its permissions or choose another place")
        return StorageError(f"the database {self.path} cannot be used ({error}); repair it or move it away")


def find_statement(
    parent_id: str | None,
    branch: str | None,
    since: float | None,
    until: float | None,
    lowest_microdollars: int | None,
    highest_microdollars: int | None,
) -> tuple[str, list[object]]:
    """The SQL of :meth:`SQLiteSessionStorage.find` with its values. Each condition is answered by an index."""
    conditions = {
        "parent_id = ?": parent_id,
        "created_at >= ?": since,
        "created_at < ?": until,
        "branch = ?": branch,
        "cost_microdollars >= ?": lowest_microdollars,
        "cost_microdollars <= ?": highest_microdollars,
    }
    given = {condition: value for condition, value in conditions.items() if value is not None}
    of_facets = branch is not None or lowest_microdollars is not None or highest_microdollars is not None
    table = "session_facets JOIN sessions USING (session_id)" if of_facets else "sessions"
    where = " AND ".join(given) or "TRUE"
    statement = f"SELECT session_id FROM {table} WHERE {where} ORDER BY created_at, session_id"  # noqa: S608 - ours
    return statement, list(given.values())


def _prepare(connection: sqlite3.Connection) -> None:
    """Add what is missing, all or nothing. The journal's mode cannot change inside a transaction, so it comes first."""
    if connection.execute(_IS_PREPARED).fetchone() is not None:
        return
    _use_wal(connection)
    connection.execute("BEGIN IMMEDIATE")
    if connection.execute(_IS_PREPARED).fetchone() is None:
        for statement in _ADDITIONS:
            connection.execute(statement)
    connection.execute("COMMIT")


def _use_wal(connection: sqlite3.Connection) -> None:
    """SQLite does not wait for others when the mode changes, whatever the timeout says: it is asked again."""
    deadline = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(ASK_AGAIN_SECONDS)


def _settle_due(connection: sqlite3.Connection) -> None:
    """Take the facets of what others have written."""
    if connection.execute("SELECT 1 FROM session_facets_due LIMIT 1").fetchone() is None:
        return
    connection.execute("BEGIN IMMEDIATE")
    for session_id, metadata in connection.execute(_DUE).fetchall():
        _settle(connection, session_id, decode_object(_bytes(metadata)) or {})
    connection.execute("COMMIT")


def _settle(connection: sqlite3.Connection, session_id: str, metadata: dict[str, Any] | None) -> None:
    facets = (session_id, *_facets_of(metadata or {}))
    connection.execute("INSERT OR REPLACE INTO session_facets VALUES (?, ?, ?)", facets)
    connection.execute("DELETE FROM session_facets_due WHERE session_id = ?", (session_id,))


def _facets_of(metadata: dict[str, Any]) -> tuple[str | None, int | None]:
    """The branch and the cost that metadata tells; None for what is not there or makes no sense."""
    branch, cost = metadata.get("branch"), metadata.get("cost_usd")
    microdollars_of_cost = None
    if isinstance(cost, int | float | str) and not isinstance(cost, bool):
        with contextlib.suppress(ValueError):
            microdollars_of_cost = microdollars(cost)
    return branch if isinstance(branch, str) else None, microdollars_of_cost


def _bound(name: str, cost_usd: float | None) -> int | None:
    try:
        return None if cost_usd is None else microdollars(cost_usd)
    except ValueError as error:
        raise InvalidParams(f"{name}: {error}") from None


def _is_id(session_id: object) -> bool:
    """Whether it can be loaded by this id; older programs took any text, and NULL."""
    try:
        check_session_id(session_id)
    except InvalidId:
        return False
    return True


def _as_text(value: object) -> str:
    return msgspec.json.encode(value).decode()


def _text(raw: bytes) -> str:
    """What is not UTF-8 is seen by whoever reads the one value, and not by SQLite's module at every row."""
    return raw.decode(errors="surrogateescape")


def _bytes(column: object) -> bytes:
    """The JSON text of a column, whatever type an older program gave it."""
    if isinstance(column, bytes):
        return column
    return b"null" if column is None else str(column).encode(errors="surrogateescape")

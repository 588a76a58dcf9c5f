"""The tables of ``state/index.db``, and how the file is opened.

The index is a cache: a file of another version, of another root, or one that SQLite calls damaged is removed and
built anew from the folders. Nothing here is ever migrated.
"""

from __future__ import annotations

import logging
import os
import sqlite3

from chimera.durable import make_folder
from chimera.errors import StorageError

__all__ = ["is_damage", "open_database", "open_reader", "remove_database"]

log = logging.getLogger(__name__)

SCHEMA_VERSION = 1

TABLES = """
CREATE TABLE facts (name TEXT PRIMARY KEY, value) WITHOUT ROWID;

-- One row a session folder. `listed` rows have a readable summary and a flavour's prefix. Short columns first, so
-- that reading the stamps never touches the overflow pages of a long record.
CREATE TABLE sessions (
    session_id TEXT NOT NULL UNIQUE,
    summary_stamp INTEGER NOT NULL,
    log_stamp INTEGER NOT NULL,
    log_is_file INTEGER NOT NULL,
    listed INTEGER NOT NULL,
    started_us INTEGER NOT NULL,
    day INTEGER NOT NULL,
    flavour TEXT NOT NULL,
    model TEXT NOT NULL,
    success INTEGER NOT NULL,
    pinned INTEGER NOT NULL,
    unpriced INTEGER NOT NULL,
    cost_microdollars INTEGER NOT NULL,
    input_tokens INTEGER NOT NULL,
    output_tokens INTEGER NOT NULL,
    cache_tokens INTEGER NOT NULL,
    total_tokens INTEGER NOT NULL,
    events INTEGER NOT NULL,
    cwd TEXT NOT NULL,
    tags TEXT NOT NULL,  -- a JSON array
    record BLOB NOT NULL
);
CREATE INDEX by_start ON sessions (started_us, session_id) WHERE listed = 1;
CREATE INDEX by_flavour ON sessions (flavour, started_us, session_id) WHERE listed = 1;
CREATE INDEX by_model ON sessions (model, started_us, session_id) WHERE listed = 1;
CREATE INDEX by_cwd ON sessions (cwd, started_us, session_id) WHERE listed = 1;
CREATE INDEX by_pin ON sessions (started_us, session_id) WHERE listed = 1 AND pinned = 1;

CREATE TABLE session_tags (
    tag TEXT NOT NULL,
    started_us INTEGER NOT NULL,
    session_id TEXT NOT NULL,
    PRIMARY KEY (tag, started_us, session_id)
) WITHOUT ROWID;

-- What the listed rows add up to. Changed in the transaction that changes a row: its new share minus its old one.
CREATE TABLE totals (
    day INTEGER NOT NULL,
    model TEXT NOT NULL,
    flavour TEXT NOT NULL,
    runs INTEGER NOT NULL,
    successful INTEGER NOT NULL,
    unpriced INTEGER NOT NULL,
    cost_microdollars INTEGER NOT NULL,
    input_tokens INTEGER NOT NULL,
    output_tokens INTEGER NOT NULL,
    cache_tokens INTEGER NOT NULL,
    total_tokens INTEGER NOT NULL,
    PRIMARY KEY (day, model, flavour)
) WITHOUT ROWID;
"""

_DAMAGE = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_SCHEMA, sqlite3.SQLITE_FORMAT}


def is_damage(error: sqlite3.Error) -> bool:
    """Whether the file itself is broken; a full or read-only disk is not damage."""
    return _code(error) in _DAMAGE


def _code(error: sqlite3.Error) -> int:
    """The primary result code; 0 for what Python's own module refused."""
    return int(getattr(error, "sqlite_errorcode", 0)) & 0xFF


def open_database(path: str, root: str) -> sqlite3.Connection:
    """The connection that writes; whatever stood at ``path`` and cannot be used is replaced by empty tables.

    Raises:
        StorageError: the file can neither be used nor be made.
    """
    try:
        make_folder(os.path.dirname(path))
        try:
            connection = _open_existing(path, root)
        except sqlite3.DatabaseError as error:
            if not is_damage(error) and _code(error) != sqlite3.SQLITE_ERROR:  # the latter: no such table
                raise
            log.warning("the index is damaged and will be rebuilt", extra={"ctx": {"path": path, "why": str(error)}})
            connection = None
        if connection is None:
            remove_database(path)
            connection = _create(path, root)
    except (OSError, sqlite3.Error) as error:
        raise StorageError(
            f"cannot open the index {path}: {error}; it is a cache, so remove it or free the disk and start again"
        ) from error
    return connection


def open_reader(path: str) -> sqlite3.Connection:
    """A second connection, for reading alone: in WAL mode it neither waits for the writer nor holds it up."""
    connection = _connect(path)
    connection.execute("PRAGMA query_only = 1")
    return connection


def remove_database(path: str) -> None:
    """Remove the index and what SQLite keeps beside it."""
    for suffix in ("", "-wal", "-shm", "-journal"):
        try:
            os.unlink(path + suffix)
        except FileNotFoundError:
            continue


def _connect(path: str) -> sqlite3.Connection:
    """Autocommit: transactions are begun and ended by hand. Each connection is used by one thread at a time."""
    return sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=5.0)


def _open_existing(path: str, root: str) -> sqlite3.Connection | None:
    """The connection to a file that has our version and belongs to this root; None if there is none."""
    if not os.path.exists(path):
        return None
    connection = _connect(path)
    try:
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        if version == SCHEMA_VERSION:
            _configure(connection)
            found = connection.execute("SELECT value FROM facts WHERE name = 'root'").fetchone()
            if found is not None and found[0] == os.fsencode(root):
                return connection
            why = "it belongs to another event log"
        else:
            why = f"it has version {version}, this program writes {SCHEMA_VERSION}"
    except BaseException:
        connection.close()
        raise
    connection.close()
    log.info("the index will be rebuilt", extra={"ctx": {"path": path, "why": why}})
    return None


def _create(path: str, root: str) -> sqlite3.Connection:
    connection = _connect(path)
    try:
        _configure(connection)
        connection.executescript(f"BEGIN; {TABLES} PRAGMA user_version = {SCHEMA_VERSION}; COMMIT")
        connection.execute("INSERT INTO facts VALUES ('root', ?)", (os.fsencode(root),))
    except BaseException:
        connection.close()
        raise
    return connection


def _configure(connection: sqlite3.Connection) -> None:
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = NORMAL")

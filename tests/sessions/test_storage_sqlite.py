"""Sessions in SQLite: the documented table, what older programs left and write, what is found and by which index."""

from __future__ import annotations

import json
import sqlite3
import stat
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from chimera.errors import InvalidParams, Locked, StorageError
from chimera.sessions.messages import Message
from chimera.sessions.storage import SQLiteSessionStorage, StoredSession
from chimera.sessions.storage import sqlite as sqlite_module
from chimera.sessions.storage.sqlite import find_statement
from chimera.sessions.summary import microdollars

OLDER_TABLE = """
CREATE TABLE sessions (session_id TEXT PRIMARY KEY, system TEXT, parent_id TEXT, created_at REAL, updated_at REAL,
                       metadata TEXT DEFAULT '{}', messages TEXT DEFAULT '[]')
"""
OLDER_UPSERT = """
INSERT INTO sessions VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT(session_id) DO UPDATE SET system=excluded.system,
    updated_at=excluded.updated_at, metadata=excluded.metadata, messages=excluded.messages
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "sessions.db"


@contextmanager
def database(path: Path) -> Iterator[sqlite3.Connection]:
    """The file as another program sees it; what was done is committed in the end."""
    with closing(sqlite3.connect(path)) as connection, connection:
        yield connection


def older_row(session_id: str, **changes: Any) -> tuple[Any, ...]:
    row = {
        "session_id": session_id, "system": "be kind", "parent_id": None, "created_at": 5.5, "updated_at": 6.5,
        "metadata": json.dumps({"branch": "main", "cost_usd": 0.5}),
        "messages": json.dumps([{"role": "user", "content": "hi", "tool_calls": [], "call_id": None}]),
    } | changes  # fmt: skip
    return tuple(row.values())


def session(session_id: str, created_at: float = 0.0, parent_id: str | None = None, **metadata: Any) -> StoredSession:
    return StoredSession(session_id, None, parent_id, created_at, 0.0, metadata)


def test_the_database_lies_under_the_home_readable_for_its_owner_alone(home: Path) -> None:
    storage = SQLiteSessionStorage()
    storage.save(StoredSession("mine"))
    assert stat.S_IMODE((home / "sessions.db").stat().st_mode) == 0o600
    with database(home / "sessions.db") as other:
        other.execute("SELECT * FROM sessions").fetchall()
        storage.save(StoredSession("mine"))
        for name in ("sessions.db-wal", "sessions.db-shm"):
            assert stat.S_IMODE((home / name).stat().st_mode) == 0o600


def test_a_tilde_is_expanded(tmp_path: Path) -> None:
    SQLiteSessionStorage("~/kept/mine.db").save(StoredSession("mine"))
    assert (tmp_path / "user" / "kept" / "mine.db").is_file()


def test_an_older_program_reads_and_writes_the_documented_table(path: Path) -> None:
    storage = SQLiteSessionStorage(path)
    storage.save(StoredSession("mine", "sys", "up", 1.5, 2.5, {"a": "é"}, [Message("user", "hi")]))
    with database(path) as older:
        assert older.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        columns = [(name, kind, key) for _, name, kind, _, _, key in older.execute("PRAGMA table_info(sessions)")]
        assert columns == [
            ("session_id", "TEXT", 1), ("system", "TEXT", 0), ("parent_id", "TEXT", 0), ("created_at", "REAL", 0),
            ("updated_at", "REAL", 0), ("metadata", "TEXT", 0), ("messages", "TEXT", 0),
        ]  # fmt: skip
        *plain, metadata, messages = older.execute("SELECT * FROM sessions").fetchone()
        assert plain == ["mine", "sys", "up", 1.5, 2.5]
        assert json.loads(metadata) == {"a": "é"}
        assert json.loads(messages) == [{"role": "user", "content": "hi", "tool_calls": [], "call_id": None}]
        older.execute("INSERT INTO sessions (session_id) VALUES ('bare')")
        older.execute(OLDER_UPSERT, older_row("mine"))
    assert storage.load("bare") == StoredSession("bare")
    loaded = storage.load("mine")
    assert loaded is not None
    assert (loaded.created_at, loaded.updated_at, loaded.system) == (1.5, 6.5, "be kind")


def test_a_database_of_an_older_program_is_opened_and_searched(path: Path) -> None:
    with database(path) as older:
        older.execute(OLDER_TABLE)
        older.execute(OLDER_UPSERT, older_row("first", created_at=9.0))
        older.execute(OLDER_UPSERT, older_row("second", metadata='{"cost_usd": NaN, "branch": "side"}'))
        older.execute(OLDER_UPSERT, older_row("third", created_at=None, metadata=None, messages=None))
        older.execute(OLDER_UPSERT, older_row(None))  # type: ignore[arg-type]  # SQLite's primary keys may be NULL
        older.execute(OLDER_UPSERT, older_row("not/an/id"))
    storage = SQLiteSessionStorage(path)
    assert storage.list_sessions() == ["third", "second", "first"]
    assert storage.load("third") == StoredSession("third", "be kind", updated_at=6.5)
    assert storage.find(branch="main") == ["first"]
    assert storage.find(branch="side") == ["second"]
    assert storage.find(min_cost_usd=0) == ["first"]


@pytest.mark.parametrize("policy", ["INSERT OR REPLACE", "REPLACE", "INSERT OR FAIL", "INSERT OR ROLLBACK"])
def test_what_an_older_program_writes_meanwhile_is_found_by_what_it_says_now(path: Path, policy: str) -> None:
    storage = SQLiteSessionStorage(path)
    storage.save(session("changed", branch="old", cost_usd=1))
    storage.save(session("replaced", branch="old", cost_usd=1))
    storage.save(session("deleted", branch="old", cost_usd=1))
    with database(path) as older:
        older.execute("UPDATE sessions SET metadata = '{\"branch\": \"new\"}' WHERE session_id = 'changed'")
        older.execute("DELETE FROM sessions WHERE session_id = 'deleted'")
        if "REPLACE" in policy:
            older.execute(f"{policy} INTO sessions VALUES (?, ?, ?, ?, ?, ?, ?)", older_row("replaced"))
            older.execute(f"{policy} INTO sessions VALUES (?, ?, ?, ?, ?, ?, ?)", older_row("replaced"))
        else:
            older.execute("DELETE FROM sessions WHERE session_id = 'replaced'")
            older.execute(f"{policy} INTO sessions VALUES (?, ?, ?, ?, ?, ?, ?)", older_row("replaced"))
    assert storage.find(branch="old") == []
    assert storage.find(branch="new") == ["changed"]
    assert storage.find(branch="main") == ["replaced"]
    assert storage.find(min_cost_usd=0) == ["replaced"]


@pytest.mark.parametrize(
    "changes",
    [
        {"messages": "{}"}, {"messages": "[{]"}, {"messages": '[{"role": "user"}]'}, {"messages": "x"},
        {"messages": b"5"}, {"metadata": "[]"}, {"metadata": "{"}, {"metadata": b"\xff"}, {"metadata": ""},
        {"created_at": "today"}, {"system": b"bytes"},
    ],
)  # fmt: skip
def test_a_malformed_row_is_named_listed_and_left_alone_until_it_is_deleted(
    path: Path, changes: dict[str, object]
) -> None:
    storage = SQLiteSessionStorage(path)
    storage.save(StoredSession("good"))
    row = older_row("bad", **changes)
    with database(path) as older:
        older.execute(OLDER_UPSERT, row)
    for act in (lambda: storage.load("bad"), lambda: storage.save(StoredSession("bad"))):
        with pytest.raises(StorageError, match=f"the row 'bad' of {path} is no stored session and was left as it is"):
            act()
    with database(path) as older:
        assert older.execute("SELECT * FROM sessions WHERE session_id = 'bad'").fetchone() == row
    assert storage.load("good") == StoredSession("good")
    assert sorted(storage.list_sessions()) == ["bad", "good"]
    storage.find(branch="main", min_cost_usd=0)
    storage.delete("bad")
    assert storage.list_sessions() == ["good"]


def test_text_that_is_no_utf8_in_one_row_hides_no_other(path: Path) -> None:
    storage = SQLiteSessionStorage(path)
    storage.save(StoredSession("good"))
    with database(path) as older:
        older.execute("INSERT INTO sessions (session_id, system) VALUES ('odd', CAST(X'FF' AS TEXT))")
        older.execute("INSERT INTO sessions (session_id) VALUES (CAST(X'FF' AS TEXT))")
    assert sorted(storage.list_sessions()) == ["good", "odd"]
    assert storage.load("good") == StoredSession("good")
    odd = storage.load("odd")
    assert odd is not None
    storage.save(odd)
    assert storage.load("odd") == StoredSession("odd", "\\udcff")


def test_sessions_are_listed_by_their_first_created_at(path: Path) -> None:
    storage = SQLiteSessionStorage(path)
    for session_id, created_at in (("a", 3.0), ("b", 1.0), ("c", 2.0), ("b", 9.0), ("d", 2.0)):
        storage.save(session(session_id, created_at))
    assert storage.list_sessions() == ["b", "c", "d", "a"]


def test_sessions_are_found_by_parent_branch_time_and_cost_and_by_all_of_them(path: Path) -> None:
    storage = SQLiteSessionStorage(path)
    storage.save(session("a", 1.0, branch="main", cost_usd=0.1))
    storage.save(session("b", 2.0, "a", branch="side", cost_usd=0.2))
    storage.save(session("c", 3.0, "a", branch="main"))
    storage.save(session("d", 4.0, "b", branch="side", cost_usd=0))
    assert storage.find() == ["a", "b", "c", "d"]
    assert storage.find(parent_id="a") == ["b", "c"]
    assert storage.find(branch="main") == ["a", "c"]
    assert storage.find(branch="nowhere") == []
    assert storage.find(since=2.0) == ["b", "c", "d"]
    assert storage.find(until=3.0) == ["a", "b"]
    assert storage.find(since=2.0, until=2.0) == []
    assert storage.find(max_cost_usd=0.1) == ["a", "d"]
    assert storage.find(min_cost_usd=0.1, max_cost_usd=0.1) == ["a"]
    assert storage.find(parent_id="a", branch="side", since=2.0, until=3.0, min_cost_usd=0.2) == ["b"]
    storage.save(session("b", 2.0, "c", branch="main"))
    assert storage.find(parent_id="c", branch="main") == ["b"]
    assert storage.find(min_cost_usd=0.2) == []
    storage.delete("a")
    assert storage.find(branch="main") == ["b", "c"]


def test_costs_are_compared_in_whole_microdollars(path: Path) -> None:
    storage = SQLiteSessionStorage(path)
    storage.save(session("tenths", cost_usd=0.1 + 0.2))
    assert storage.find(min_cost_usd=0.3, max_cost_usd=0.3) == ["tenths"]
    assert storage.find(min_cost_usd=0.300001) == []
    assert storage.find(max_cost_usd=0.299999) == []


@pytest.mark.parametrize("cost", [None, True, "n/a", [], {}, 10**30, "x" * 100])
def test_a_cost_that_is_none_is_never_found_by_cost(path: Path, cost: object) -> None:
    storage = SQLiteSessionStorage(path)
    storage.save(session("odd", cost_usd=cost, branch=5))
    assert storage.find(max_cost_usd=1e9) == []
    assert storage.find(branch="5") == []
    assert storage.find() == ["odd"]


def test_a_bound_that_is_no_amount_is_refused(path: Path) -> None:
    storage = SQLiteSessionStorage(path)
    with pytest.raises(InvalidParams, match="min_cost_usd: nan is not an amount of dollars"):
        storage.find(min_cost_usd=float("nan"))
    with pytest.raises(InvalidParams, match="max_cost_usd"):
        storage.find(max_cost_usd=1e300)


costs = st.none() | st.integers(0, 5) | st.floats(0, 5) | st.sampled_from([0.0000005, 0.0000015, "0.1", "x"])
some = st.lists(
    st.tuples(st.integers(0, 5), st.floats(0, 5), st.none() | st.sampled_from("ab"), st.sampled_from("xyz"), costs),
    max_size=12,
)


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    some,
    st.none() | st.sampled_from("ab"),
    st.none() | st.sampled_from("xyz"),
    st.none() | st.floats(0, 5),
    st.none() | st.floats(0, 5),
    st.none() | st.floats(0, 5),
    st.none() | st.floats(0, 5),
)
def test_find_gives_what_looking_at_every_session_gives(
    path: Path,
    saves: list[tuple[int, float, str | None, str, Any]],
    parent_id: str | None,
    branch: str | None,
    since: float | None,
    until: float | None,
    min_cost_usd: float | None,
    max_cost_usd: float | None,
) -> None:
    storage = SQLiteSessionStorage(path)
    for session_id in storage.list_sessions():
        storage.delete(session_id)
    for number, created_at, parent, on_branch, cost in saves:
        storage.save(session(f"s{number}", created_at, parent, branch=on_branch, cost_usd=cost))

    def cost_of(kept: StoredSession) -> int | None:
        given_cost = kept.metadata["cost_usd"]
        return None if given_cost in (None, "x") else microdollars(given_cost)

    def fits(kept: StoredSession) -> bool:
        cost = cost_of(kept)
        return (
            parent_id in (None, kept.parent_id)
            and branch in (None, kept.metadata["branch"])
            and (since is None or since <= kept.created_at)
            and (until is None or kept.created_at < until)
            and (min_cost_usd is None or (cost is not None and microdollars(min_cost_usd) <= cost))
            and (max_cost_usd is None or (cost is not None and cost <= microdollars(max_cost_usd)))
        )

    every = [kept for kept in map(storage.load, storage.list_sessions()) if kept is not None]
    expected = sorted((kept for kept in every if fits(kept)), key=lambda kept: (kept.created_at, kept.session_id))
    found = storage.find(
        parent_id=parent_id, branch=branch, since=since, until=until,
        min_cost_usd=min_cost_usd, max_cost_usd=max_cost_usd,
    )  # fmt: skip
    assert found == [kept.session_id for kept in expected]


@pytest.mark.parametrize(
    ("question", "index"),
    [
        ((None, None, None, None, None, None), "USING COVERING INDEX sessions_by_creation"),
        (("a", None, None, None, None, None), "USING COVERING INDEX sessions_by_parent (parent_id=?"),
        (("a", None, 1.0, 2.0, None, None), "sessions_by_parent (parent_id=? AND created_at>? AND created_at<?"),
        ((None, None, 1.0, None, None, None), "USING COVERING INDEX sessions_by_creation (created_at>?"),
        ((None, None, None, 2.0, None, None), "USING COVERING INDEX sessions_by_creation (created_at<?"),
        ((None, "main", None, None, None, None), "INDEX session_facets_by_branch (branch=?"),
        ((None, None, None, None, 1, None), "INDEX session_facets_by_cost (cost_microdollars>?"),
        ((None, None, None, None, None, 2), "INDEX session_facets_by_cost (cost_microdollars<?"),
        ((None, "main", 1.0, 2.0, 1, 2), "INDEX session_facets_by_branch (branch=?"),
    ],
)
def test_every_question_is_answered_by_an_index(path: Path, question: Any, index: str) -> None:
    storage = SQLiteSessionStorage(path)
    for number in range(50):
        storage.save(session(f"s{number}", float(number), "a", branch=f"b{number % 7}", cost_usd=number))
    statement, values = find_statement(*question)
    with database(path) as connection:
        plan = [step for *_, step in connection.execute("EXPLAIN QUERY PLAN " + statement, values)]
    assert any(index in step for step in plan), plan
    assert not any(step.startswith("SCAN") and "INDEX" not in step for step in plan), plan


def test_a_file_that_is_no_database_is_named_and_left_alone(path: Path) -> None:
    path.write_text("these are my notes, and they are no database" * 100)
    with pytest.raises(StorageError, match=f"the database {path} cannot be used"):
        SQLiteSessionStorage(path).list_sessions()
    assert path.read_text().startswith("these are my notes")


def test_a_database_with_another_table_of_that_name_gets_none_of_ours(path: Path) -> None:
    with database(path) as other:
        other.execute("CREATE TABLE sessions (cookie TEXT)")
    with pytest.raises(StorageError, match="created_at"):
        SQLiteSessionStorage(path).save(StoredSession("mine"))
    with database(path) as other:
        assert other.execute("SELECT name FROM sqlite_master").fetchall() == [("sessions",)]


def test_who_waits_too_long_for_another_writer_is_told(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_module, "BUSY_SECONDS", 0.05)
    storage = SQLiteSessionStorage(path)
    storage.save(StoredSession("mine"))
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(Locked, match=r"has been writing .* for 0\.05 s; try again"):
            storage.save(StoredSession("mine"))
        assert storage.load("mine") == StoredSession("mine")
    storage.save(StoredSession("mine"))

"""The database file: replaced when it cannot be believed, quick to ask, exact about what it covers."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from chimera.errors import InvalidParams, StorageError
from chimerad.store.index.queries import PAGE_BYTES, IndexReader, ListQuery
from chimerad.store.index.rows import SessionRow
from chimerad.store.index.schema import open_database, open_reader
from chimerad.store.index.writer import IndexWriter


class Database:
    """A writer and a reader of one file."""

    def __init__(self, path: Path, root: str = "/root") -> None:
        self.writer = IndexWriter(open_database(str(path), root))
        self.connection = open_reader(str(path))
        self.reader = IndexReader(self.connection)

    def close(self) -> None:
        self.reader.close()
        self.writer.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "index.db"


@pytest.fixture
def database(path: Path) -> Iterator[Database]:
    database = Database(path)
    yield database
    database.close()


def a_row(number: int = 1, **changes: object) -> SessionRow:
    row = SessionRow(
        session_id=f"mink-{number:06d}",
        listed=True,
        flavour="mink",
        started_us=number * 1_000_000,
        model="m",
        record=b'{"number":%d}' % number,
    )
    return msgspec.structs.replace(row, **changes)


def reopened(path: Path, root: str = "/root") -> Iterator[tuple[int, int]]:
    """Sessions and covered LSN of the file as a new process finds it."""
    database = Database(path, root)
    found = database.reader.counts().folders, database.writer.covered_lsn
    database.close()
    return found


def test_what_was_committed_is_there_for_the_next_process(path: Path, database: Database) -> None:
    database.writer.upsert([a_row(1), a_row(2)])
    database.writer.commit(41)
    database.writer.upsert([a_row(3)])
    database.close()

    assert reopened(path) == (3, 41)


@pytest.mark.parametrize("harm", ["version", "root", "garbage", "no table", "folder of garbage beside"])
def test_a_file_that_cannot_be_believed_is_replaced(path: Path, database: Database, harm: str) -> None:
    database.writer.upsert([a_row()])
    database.writer.commit(5)
    database.close()
    if harm == "version":
        change(path, "PRAGMA user_version = 99")
    elif harm == "no table":
        change(path, "DROP TABLE facts")
    elif harm == "garbage":
        path.write_bytes(b"not a database, but long enough to be taken for one" * 100)
    elif harm == "folder of garbage beside":
        path.with_name("index.db-wal").write_bytes(b"\xff" * 5000)
        path.write_bytes(b"")

    assert reopened(path, "/other" if harm == "root" else "/root") == (0, 0)


def change(path: Path, statement: str) -> None:
    connection = sqlite3.connect(path)
    connection.execute(statement)
    connection.commit()
    connection.close()


def test_a_folder_in_the_place_of_the_file_is_a_clear_error(path: Path) -> None:
    path.mkdir(parents=True)

    with pytest.raises(StorageError, match=r"index\.db"):
        open_database(str(path), "/root")


def test_a_failed_change_leaves_rows_and_totals_as_they_were(database: Database) -> None:
    database.writer.upsert([a_row(1, cost_microdollars=7)])

    with pytest.raises(OverflowError):
        database.writer.upsert([a_row(1, cost_microdollars=8), a_row(2, events=2**70)])

    assert database.reader.page(ListQuery()).total == 1
    assert [total.cost_microdollars for total in database.reader.totals()] == [7]


@pytest.mark.parametrize(
    ("query", "index"),
    [
        (ListQuery(), "by_start"),
        (ListQuery(success=True), "by_start"),
        (ListQuery(flavour="mink"), "by_flavour"),
        (ListQuery(model="m"), "by_model"),
        (ListQuery(cwd="/w"), "by_cwd"),
        (ListQuery(pinned=True), "by_pin"),
        (ListQuery(since_us=5), "by_start"),
        (ListQuery(tag="t"), "PRIMARY KEY (tag=?"),
    ],
)
def test_every_page_walks_an_index_and_sorts_nothing(database: Database, query: ListQuery, index: str) -> None:
    asked: list[str] = []
    database.connection.set_trace_callback(asked.append)
    database.reader.page(query)
    database.connection.set_trace_callback(None)
    pages = [statement for statement in asked if "ORDER BY" in statement]
    plans = ["\n".join(row[3] for row in database.connection.execute(f"EXPLAIN QUERY PLAN {page}")) for page in pages]

    assert plans
    for plan in plans:
        assert index in plan
        assert "TEMP B-TREE" not in plan
        assert "SCAN s" not in plan or " USING INDEX by_" in plan


def test_a_page_ends_at_its_bytes_and_the_next_one_goes_on(database: Database) -> None:
    body = b'"' + b"x" * (PAGE_BYTES // 3) + b'"'
    database.writer.upsert([a_row(number, record=body) for number in range(5)])

    pages, cursor = [], None
    while not pages or cursor is not None:
        page = database.reader.page(ListQuery(limit=0, cursor=cursor))
        pages.append(len(page.sessions))
        cursor = page.next_cursor

    assert pages == [2, 2, 1]


def test_a_single_record_over_the_page_is_a_page_of_its_own(database: Database) -> None:
    big = b'"' + b"x" * (PAGE_BYTES + 10) + b'"'
    database.writer.upsert([a_row(1), a_row(2, record=big), a_row(3)])

    first = database.reader.page(ListQuery(limit=0))
    second = database.reader.page(ListQuery(limit=0, cursor=first.next_cursor))

    assert [len(page.sessions) for page in (first, second)] == [1, 1]
    assert bytes(second.sessions[0]) == big


def test_a_list_without_a_limit_comes_in_pages_of_a_thousand(database: Database) -> None:
    database.writer.upsert([a_row(number) for number in range(1001)])

    first = database.reader.page(ListQuery(limit=0))
    last = database.reader.page(ListQuery(limit=0, cursor=first.next_cursor))

    assert (len(first.sessions), first.total) == (1000, 1001)
    assert (len(last.sessions), last.next_cursor) == (1, None)


def test_a_cursor_holds_when_sessions_come_and_go_between_pages(database: Database) -> None:
    database.writer.upsert([a_row(number) for number in range(1, 6)])
    first = database.reader.page(ListQuery(limit=2))
    database.writer.remove(["mink-000004"])  # the last one of the page
    database.writer.upsert([a_row(9)])

    second = database.reader.page(ListQuery(limit=2, cursor=first.next_cursor))

    assert [msgspec.json.decode(record)["number"] for record in second.sessions] == [3, 2]


@pytest.mark.parametrize("cursor", ["", "!", "x", "żółw", "MTIz\x00", "OTk5OTk5OTk5OTk5OTk5OTk5OTk5OTk5OTk5IGE="])
def test_a_made_up_cursor_is_refused(database: Database, cursor: str) -> None:
    with pytest.raises(InvalidParams, match="cursor"):
        database.reader.page(ListQuery(cursor=cursor))


def test_a_negative_limit_is_refused(database: Database) -> None:
    with pytest.raises(InvalidParams, match="limit"):
        database.reader.page(ListQuery(limit=-1))

"""The index of a running daemon: what the folders say is what lists show, whoever changed them."""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import sqlite3
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from chimera.errors import Overloaded, StorageError
from chimerad.store.index import IndexService, ListQuery, row_from_folder
from tests.support.folders import make_session, write_summary

Scenario = Callable[[], Coroutine[Any, Any, None]]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "eventlog"
    folder.mkdir()
    return folder


@asynccontextmanager
async def service(
    root: Path, *, flushed_lsn: int = 0, wait: bool = True, **options: Any
) -> AsyncIterator[IndexService]:
    index = IndexService(str(root.parent / "state" / "index.db"), str(root), **options)
    await index.start(flushed_lsn)
    if wait:
        await index.wait_ready()
    try:
        yield index
    finally:
        await index.stop()


async def listed(index: IndexService, **query: Any) -> dict[str, dict[str, Any]]:
    page = await index.list(ListQuery(limit=0, **query))
    assert page.total == len(page.sessions)
    records = [msgspec.json.decode(record) for record in page.sessions]
    return {record["session_id"]: record for record in records}


def run(scenario: Scenario) -> None:
    asyncio.run(scenario())


def test_the_first_scan_finds_what_is_there(root: Path) -> None:
    make_session(root, "mink-1", events=3)
    make_session(root, "stoat-2", lines=False, events=4)
    make_session(root, "backup-3")
    (root / ".trash").mkdir()
    (root / "badger-4.tar.gz").write_text("an export")

    async def scenario() -> None:
        async with service(root) as index:
            found = await listed(index)
            assert {name: record["events"] for name, record in found.items()} == {"mink-1": 3, "stoat-2": 4}
            assert (index.state, index.sessions) == ("ready", 3)

    run(scenario)


def test_what_changed_while_no_daemon_ran_is_found_at_the_next_start(root: Path) -> None:
    for name in ("mink-same", "mink-edited", "mink-gone"):
        make_session(root, name)

    async def scenario() -> None:
        async with service(root) as index:
            assert len(await listed(index)) == 3
        write_summary(root / "mink-edited", title="by hand")
        shutil.rmtree(root / "mink-gone")
        make_session(root, "mink-new")
        async with service(root) as index:
            found = await listed(index)
            assert set(found) == {"mink-same", "mink-edited", "mink-new"}
            assert found["mink-edited"]["title"] == "by hand"

    run(scenario)


@pytest.mark.parametrize(("committed", "flushed", "believed"), [(7, 7, True), (7, 8, False), (None, 1, False)])
def test_an_index_behind_the_journal_is_not_believed(
    root: Path, committed: int | None, flushed: int, believed: bool
) -> None:
    folder = make_session(root, "mink-1")
    for path in (*folder.iterdir(), folder):
        os.utime(path, (1_700_000_000, 1_700_000_000))  # settled: else it would be read again for being new

    async def scenario() -> None:
        async with service(root) as index:
            if committed is not None:
                assert await index.commit(committed)
        connection = sqlite3.connect(root.parent / "state" / "index.db")
        connection.execute('UPDATE sessions SET record = \'{"session_id": "stale"}\'')
        connection.commit()
        connection.close()
        async with service(root, flushed_lsn=flushed) as index:
            assert set(await listed(index)) == ({"stale"} if believed else {"mink-1"})

    run(scenario)


def edit(folder: Path) -> None:
    write_summary(folder, title="by hand", model="other")


def add_event(folder: Path) -> None:
    with (folder / "events.jsonl").open("a") as log:
        log.write("{}\n")


def add_event_file(folder: Path) -> None:
    (folder / "event-000009-note.json").write_text("{}")


def lose_summary(folder: Path) -> None:
    (folder / "summary.json").unlink()


@pytest.mark.parametrize(
    ("change", "after"),
    [
        (edit, {"title": "by hand", "model": "other"}),
        (add_event, {"events": 3}),
        (shutil.rmtree, None),
        (lose_summary, None),
    ],
)
def test_a_rescan_finds_what_nobody_told(
    root: Path, change: Callable[[Path], None], after: dict[str, Any] | None
) -> None:
    folder = make_session(root, "mink-1")
    make_session(root, "otter-2")

    async def scenario() -> None:
        async with service(root) as index:
            before = await listed(index)
            await index.rescan()
            assert await listed(index) == before
            change(folder)
            await index.rescan()
            found = await listed(index)
            assert found.get("mink-1") == (None if after is None else {**before["mink-1"], **after})
            assert found["otter-2"] == before["otter-2"]

    run(scenario)


def test_a_foreign_writer_of_event_files_is_seen(root: Path) -> None:
    folder = make_session(root, "stoat-1", lines=False)

    async def scenario() -> None:
        async with service(root) as index:
            add_event_file(folder)
            await index.rescan()
            assert (await listed(index))["stoat-1"]["events"] == 3

    run(scenario)


def test_a_copy_that_is_still_going_on_is_looked_at_until_it_is_whole(root: Path, tmp_path: Path) -> None:
    source = make_session(tmp_path / "elsewhere", "mink-1", events=5)

    async def scenario() -> None:
        async with service(root) as index:
            (root / "mink-1").mkdir()
            await index.refresh({"mink-1"})
            assert await listed(index) == {}
            assert index.sessions == 1
            shutil.copy(source / "summary.json", root / "mink-1")
            await index.rescan()
            assert (await listed(index))["mink-1"]["events"] == 0
            shutil.copy(source / "events.jsonl", root / "mink-1")
            await index.rescan()
            assert (await listed(index))["mink-1"]["events"] == 5

    run(scenario)


def test_a_small_share_gets_round_a_large_store_all_the_same(root: Path) -> None:
    folders = [make_session(root, f"mink-{number:04d}", events=1) for number in range(300)]

    async def scenario() -> None:
        async with service(root, rescan_seconds=1e-6) as index:
            for folder in folders:
                edit(folder)
            rounds = 0
            while len(await listed(index, model="other")) < len(folders):
                await index.rescan()
                rounds += 1
                assert rounds < 1000

    run(scenario)


def test_a_session_open_for_writing_is_left_to_the_store_until_its_folder_goes(root: Path) -> None:
    folder = make_session(root, "mink-1")
    told: list[str] = []
    open_sessions: set[str] = set()

    async def scenario() -> None:
        async with service(root, is_open=open_sessions.__contains__, on_gone=told.extend) as index:
            open_sessions.add("mink-1")
            edit(folder)
            await index.rescan()
            await index.refresh({"mink-1"})
            assert (await listed(index))["mink-1"]["title"] is None
            shutil.rmtree(folder)
            await index.refresh({"mink-1"})
            assert await listed(index) == {}
            assert told == ["mink-1"]

    run(scenario)


def test_what_the_store_writes_while_a_folder_is_read_is_not_overwritten(root: Path) -> None:
    folder = make_session(root, "mink-1", events=2)
    reading, go_on = threading.Event(), threading.Event()

    def is_open(_name: str) -> bool:
        """Called in the middle of a look at a session: holds it up until the store has written."""
        reading.set()
        go_on.wait()
        return False

    async def scenario() -> None:
        go_on.set()
        async with service(root, is_open=is_open) as index:
            go_on.clear()
            reading.clear()
            edit(folder)
            looking = asyncio.create_task(index.refresh({"mink-1"}))
            await asyncio.to_thread(reading.wait)
            row = row_from_folder(str(root), "mink-1")
            assert row is not None
            newer = msgspec.structs.replace(row, record=b'{"session_id": "from the store"}')
            await index.upsert([newer])
            go_on.set()
            await looking
            assert set(await listed(index)) == {"from the store"}

    run(scenario)


def test_what_the_store_puts_in_and_takes_out_is_listed_at_once(root: Path) -> None:
    async def scenario() -> None:
        async with service(root) as index:
            make_session(root, "mink-1")
            row = row_from_folder(str(root), "mink-1")
            assert row is not None
            await index.upsert([row])
            assert set(await listed(index)) == {"mink-1"}
            await index.remove(["mink-1"])
            assert await listed(index) == {}

    run(scenario)


def test_lists_wait_for_the_first_scan_and_say_so_when_it_takes_too_long(root: Path) -> None:
    root.rmdir()

    async def scenario() -> None:
        async with service(root, wait=False, patience_seconds=0.01) as index:
            with pytest.raises(Overloaded, match="being built"):
                await index.list(ListQuery())
            assert index.state == "rebuilding"
            assert not await index.commit(3)
            make_session(root, "mink-1")
            await index.rescan()
            assert index.state == "ready"
            assert set(await listed(index)) == {"mink-1"}

    run(scenario)


def test_a_rebuild_reads_every_folder_anew(root: Path) -> None:
    make_session(root, "mink-1", events=3)
    make_session(root, "backup-2", events=4)

    async def scenario() -> None:
        async with service(root) as index:
            connection = sqlite3.connect(root.parent / "state" / "index.db")
            connection.execute("UPDATE totals SET runs = 99")
            connection.commit()
            connection.close()
            rebuilt = await index.rebuild()
            assert (rebuilt.sessions, rebuilt.events) == (1, 7)
            assert [total.runs for total in await index.totals()] == [1]
            assert (await index.list(ListQuery())).total == 1

    run(scenario)


def test_rebuilds_appends_and_lists_at_once_end_with_every_session(root: Path) -> None:
    for number in range(50):
        make_session(root, f"mink-{number}")

    async def put(index: IndexService, number: int) -> None:
        make_session(root, f"otter-{number}")
        row = row_from_folder(str(root), f"otter-{number}")
        assert row is not None
        await index.upsert([row])

    async def scenario() -> None:
        async with service(root) as index:
            work: list[Awaitable[Any]] = [index.rebuild(), index.rebuild(), index.rescan()]
            work += [put(index, number) for number in range(50)]
            work += [index.list(ListQuery()) for _ in range(20)]
            await asyncio.gather(*work)
            assert len(await listed(index)) == 100
            assert sum(total.runs for total in await index.totals()) == 100

    run(scenario)


def test_a_database_damaged_while_it_is_used_is_replaced(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    for number in range(200):
        make_session(root, f"mink-{number}", prompt="p" * 2000)

    async def scenario() -> None:
        async with service(root) as index:
            path = root.parent / "state" / "index.db"
            with path.open("r+b") as file:
                file.write(b"\xff" * path.stat().st_size)
            path.with_name("index.db-wal").write_bytes(b"")
            with pytest.raises((StorageError, Overloaded)):
                await listed(index)
            await index.rescan()
            assert len(await listed(index)) == 200
            assert index.state == "ready"

    with caplog.at_level(logging.ERROR):
        run(scenario)
    assert [record.message for record in caplog.records].count("the index is damaged and is being rebuilt") == 1


def test_a_list_that_would_leave_out_what_the_disk_refused_says_so_until_it_is_made_good(
    root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = make_session(root, "mink-1")

    async def scenario() -> None:
        async with service(root) as index:
            blocker = sqlite3.connect(root.parent / "state" / "index.db", isolation_level=None)
            blocker.execute(
                "CREATE TRIGGER no BEFORE INSERT ON sessions BEGIN SELECT RAISE(ABORT, 'disk is full'); END"
            )
            edit(folder)
            await index.rescan()
            await index.rescan()
            with pytest.raises(StorageError, match="lacks 1 sessions, for its disk refused them; make room"):
                await listed(index)
            blocker.execute("DROP TRIGGER no")
            blocker.close()
            await index.rescan()
            assert (await listed(index))["mink-1"]["title"] == "by hand"

    with caplog.at_level(logging.ERROR):
        run(scenario)
    assert [record.message for record in caplog.records].count("the index cannot be used") == 1

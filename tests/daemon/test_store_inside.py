"""The store in this process: races too narrow to be met over a socket, each brought about on purpose."""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import sqlite3
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from chimera.config import Config, StoreConfig
from chimera.errors import NoSpace, SessionNotFound, StorageError
from chimera.sessions.eventlog.journal import read_journal
from chimera.sessions.eventlog.writer import NewEvent
from chimerad.store import open_sessions
from chimerad.store.batches import AppendCall, AppendOutcome
from chimerad.store.index.queries import ListQuery
from chimerad.store.store import Store
from tests.support.appender import Outcome, Telling

Life = Callable[[Store], Awaitable[None]]


def live(home: Path, life: Life, **settings: Any) -> None:
    """Start a store, let it live, and stop it."""

    async def run() -> None:
        (home / "eventlog").mkdir(parents=True, exist_ok=True)
        (home / "state").mkdir(exist_ok=True)
        store = Store(str(home), Config(store=StoreConfig(**settings)))
        await store.start()
        try:
            await life(store)
        finally:
            await store.stop()

    asyncio.run(run())


async def until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110 - what ends it is a thread of the store's
        await asyncio.sleep(0.01)


async def create(store: Store, session_id: str = "mink-a", layout: str | None = None) -> str:
    made = await store.create(
        flavour="mink", session_id=session_id, prompt="", title=None, model="", cwd="", layout=layout, tags=[]
    )
    return made.session_id


def send(
    store: Store, session_id: str, event_id: str | None = None, durability: str = "durable"
) -> asyncio.Future[Outcome]:
    """An append on its way."""
    answered: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
    event = NewEvent("user_message", id=event_id)
    store.append([AppendCall(session_id, [event], None, durability == "durable", Telling(answered.set_result))])
    return answered


async def append(store: Store, session_id: str) -> AppendOutcome:
    outcome = await send(store, session_id)
    assert isinstance(outcome, AppendOutcome), outcome
    return outcome


def test_holders_of_a_session_never_overlap_and_every_call_is_answered(home: Path) -> None:
    """One lets go while another waits, and a third comes at that very moment."""

    async def life(store: Store) -> None:
        session_id = await create(store)
        await append(store, session_id)
        inside: list[int] = []
        answers: list[asyncio.Future[Outcome]] = []

        async def hold(number: int) -> None:
            async with store._registry.hold(session_id):
                inside.append(number)
                answers.append(send(store, session_id))
                for _ in range(3):
                    await asyncio.sleep(0)
                    assert inside == [number]
                inside.remove(number)

        waiting = {asyncio.ensure_future(hold(number)) for number in range(5)}
        number = 5
        while waiting:
            done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            for one in done:
                one.result()
            if number < 40:
                waiting.add(asyncio.ensure_future(hold(number)))
                number += 1
        outcomes = await asyncio.gather(*answers)
        assert sorted(one.first_seq for one in outcomes if isinstance(one, AppendOutcome)) == list(range(2, 42))

    live(home, life)


def test_holding_sessions_that_are_not_there_leaves_nothing_behind(home: Path) -> None:
    async def life(store: Store) -> None:
        for number in range(50):
            with pytest.raises(SessionNotFound):
                await store.rename(f"mink-{number}", "title")
        assert not store._registry._turns
        assert not store._registry._held

    live(home, life)


def test_a_holder_waits_for_every_opening_that_is_under_way(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A first opening fails, a second begins before the holder sees that: it must not find the session half open."""
    real = open_sessions.open_session
    openings = 0

    def open_session(root: str, session_id: str) -> open_sessions.OpenSession:
        nonlocal openings
        openings += 1
        if openings == 1:
            raise StorageError("not this time")
        return real(root, session_id)

    monkeypatch.setattr("chimerad.store.registry.open_session", open_session)

    async def life(store: Store) -> None:
        session_id = await create(store)
        second: list[asyncio.Future[Outcome]] = []
        refused = asyncio.get_running_loop().create_future()

        def done(outcome: Outcome) -> None:
            refused.set_result(outcome)
            second.append(send(store, session_id))

        event = NewEvent("user_message")
        store.append([AppendCall(session_id, [event], None, True, Telling(done))])
        async with store._registry.hold(session_id) as session:
            assert isinstance(await refused, StorageError)
            assert session is not None
            assert store._registry.open[session_id] is session
        assert isinstance(await second[0], AppendOutcome)

    live(home, life)


def test_a_mistake_in_one_answer_leaves_nobody_else_waiting(home: Path) -> None:
    async def life(store: Store) -> None:
        session_id = await create(store)
        await append(store, session_id)
        before = [send(store, session_id) for _ in range(3)]

        def broken(_outcome: Outcome) -> None:
            raise ValueError("a bug of ours")

        store.append([AppendCall(session_id, [NewEvent("user_message")], None, True, Telling(broken))])
        behind = [send(store, session_id, f"behind-{number}") for number in range(3)]
        assert all(isinstance(one, AppendOutcome) for one in await asyncio.gather(*before))
        for outcome in await asyncio.gather(*behind):
            assert isinstance(outcome, StorageError)
            assert outcome.details["outcome"] == "unknown"
        await until(lambda: store._committer.suspended is None)
        page = await store.read(session_id, 1, 100)
        assert len(page.events) == 8  # all had been durable

    live(home, life)


def test_a_session_that_is_gone_when_its_turn_comes_fails_alone(home: Path) -> None:
    """Its calls are numbered and not yet synced when the flush lets go of it."""

    async def life(store: Store) -> None:
        doomed, other = await create(store, "mink-doomed"), await create(store, "mink-other")
        await append(store, doomed)
        await append(store, other)
        buffered = send(store, doomed, durability="buffered")
        elsewhere = send(store, other, durability="buffered")
        await asyncio.gather(buffered, elsewhere)
        shutil.rmtree(os.path.join(store.root, doomed))
        store._session_gone(store._registry.open[doomed])
        late, after = send(store, doomed), send(store, other)
        assert isinstance(await late, SessionNotFound)
        assert isinstance(await after, AppendOutcome)
        assert store._committer.suspended is None

    live(home, life)


def test_low_space_refuses_appends_and_nothing_else(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def life(store: Store) -> None:
        session_id = await create(store)
        await append(store, session_id)
        full = os.statvfs_result((4096, 4096, 1000, 0, 0, 0, 0, 0, 0, 255))
        monkeypatch.setattr(os, "statvfs", lambda _: full)
        store._committer.begin_flush()  # it looks at the disk again
        outcome = await send(store, session_id)
        assert isinstance(outcome, NoSpace)
        assert "outcome" not in outcome.details
        assert (await store.verify(session_id)).problems == []
        assert (await store.rename(session_id, "title")).title == "title"
        assert len((await store.read(session_id, 1, 10)).events) == 1

    live(home, life)
    assert read_journal(str(home / "eventlog" / ".journal")).frames == []


def test_a_list_shows_what_was_acknowledged_before_it_was_asked(home: Path) -> None:
    """While another list is still on its way, and whatever that one had seen."""

    async def life(store: Store) -> None:
        session_id = await create(store)
        query = ListQuery(limit=20)

        async def events_listed() -> int:
            listing = await store.list_sessions(query)
            [record] = listing.sessions
            return int(msgspec.json.decode(record)["events"])

        for number in range(1, 60):
            await append(store, session_id)
            early = asyncio.ensure_future(events_listed())
            await asyncio.sleep(0)
            assert await events_listed() == number
            assert await early == number

    live(home, life)


def test_a_list_that_the_disk_of_the_index_made_wrong_is_refused_until_it_is_right(home: Path) -> None:
    async def life(store: Store) -> None:
        session_id = await create(store)
        await store.list_sessions(ListQuery(limit=20))
        database = sqlite3.connect(home / "state" / "index.db", isolation_level=None)
        for change in ("INSERT", "UPDATE"):
            database.execute(
                f"CREATE TRIGGER no_{change} BEFORE {change} ON sessions BEGIN SELECT RAISE(ABORT, 'disk is full'); END"
            )
        await append(store, session_id)
        with pytest.raises(StorageError, match="lacks 1 sessions"):
            await store.list_sessions(ListQuery(limit=20))
        assert len((await store.read(session_id, 1, 10)).events) == 1
        for change in ("INSERT", "UPDATE"):
            database.execute(f"DROP TRIGGER no_{change}")
        database.close()
        [record] = (await store.list_sessions(ListQuery(limit=20))).sessions
        assert msgspec.json.decode(record)["events"] == 1

    live(home, life)


def test_what_cannot_be_kept_in_lost_keeps_its_place_in_the_journal(home: Path) -> None:
    """.lost cannot be written: the segments stay until it can."""

    async def life(store: Store) -> None:
        session_id = await create(store)
        await append(store, session_id)
        (home / "eventlog" / ".lost").touch()
        shutil.rmtree(os.path.join(store.root, session_id))
        await store._flusher.flush()
        assert store._committer.suspended is not None
        assert store._committer.suspended.errno in (errno.ENOTDIR, errno.EEXIST)
        (home / "eventlog" / ".lost").unlink()
        await until(lambda: store._committer.suspended is None)
        lost = home / "eventlog" / ".lost" / f"{session_id}.jsonl"
        assert lost.read_bytes().count(b"\n") == 1

    live(home, life, flush_interval_ms=60_000)

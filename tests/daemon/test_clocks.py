"""Clocks label, ``seq`` orders (store rule 18): what a wall clock that jumps does to a log, and what it does not."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import msgspec
import pytest

from chimera.config import Config
from chimera.identifiers import epoch_microseconds, format_timestamp
from chimera.sessions.eventlog.writer import NewEvent
from chimerad.store.batches import AppendCall, AppendOutcome
from chimerad.store.index.queries import ListQuery
from chimerad.store.store import Store
from tests.support.appender import Outcome, Telling

HOUR = 3600 * 10**9


class Clock:
    """The machine's wall clock, as somebody sets it."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.ahead = 0
        real_ns, real = time.time_ns, time.time
        patch.setattr(time, "time_ns", lambda: real_ns() + self.ahead)
        patch.setattr(time, "time", lambda: real() + self.ahead / 1e9)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


async def append(store: Store, session_id: str) -> None:
    answered: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
    store.append([AppendCall(session_id, [NewEvent("user_message")], None, True, Telling(answered.set_result))])
    assert isinstance(await answered, AppendOutcome)


def test_events_stand_in_the_order_of_their_numbers_whatever_the_clock_did(home: Path, clock: Clock) -> None:
    (home / "eventlog").mkdir(parents=True)
    (home / "state").mkdir()
    labels: list[str] = []

    async def life(first: bool) -> None:
        store = Store(str(home), Config())
        await store.start()
        try:
            if first:
                await store.create(
                    flavour="mink", session_id="mink-a", prompt="", title=None, model="", cwd="", layout=None, tags=[]
                )
            for jump in (0, -HOUR, 26 * HOUR, -49 * HOUR):
                clock.ahead += jump
                labels.append(format_timestamp(time.time_ns()))
                await append(store, "mink-a")
            page = await store.read("mink-a", 1, 100)
            events = [msgspec.json.decode(event) for event in page.events]
            assert [event["seq"] for event in events] == list(range(1, len(labels) + 1))
            for event, label in zip(events, labels, strict=True):
                assert abs(epoch_microseconds(event["ts"]) - epoch_microseconds(label)) < HOUR / 1000
            assert (await store.verify("mink-a")).problems == []
            [record] = (await store.list_sessions(ListQuery(limit=20))).sessions
            assert msgspec.json.decode(record)["events"] == len(labels)
        finally:
            await store.stop()

    asyncio.run(life(first=True))
    asyncio.run(life(first=False))

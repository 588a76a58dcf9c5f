"""Many calls in flight, notifications, and tails that lose neither their place nor an event."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from chimera.client import following, link
from chimera.client.streaming import AsyncClient, TailEvent
from chimera.errors import ChimeraError, ConnectionLost, DaemonUnreachable, SessionNotFound, TooLarge, WrongVersion
from tests.support.canned import CLOSE, HELLO, CannedDaemon, polite, refusal, reply
from tests.support.daemon import RunningDaemon


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "s"


def event(seq: int, session_id: str = "mink-1", generation: str = "g1", subscription: str = "sub-1") -> dict[str, Any]:
    body = {"seq": seq, "id": f"e{seq}", "type": "t", "ts": "", "metadata": {}}
    params = {"subscription": subscription, "session_id": session_id, "generation": generation, "event": body}
    return {"jsonrpc": "2.0", "method": "session.event", "params": params}


def lagged(seq: int, session_id: str = "mink-1", subscription: str = "sub-1") -> dict[str, Any]:
    resume = {"generation": "g1", "seq": seq}
    params = {"subscription": subscription, "session_id": session_id, "resume": resume}
    return {"jsonrpc": "2.0", "method": "session.lagged", "params": params}


def subscribed(request: dict[str, Any], head_seq: int, generation: str = "g1", number: int = 1) -> dict[str, Any]:
    return reply(request, {"subscription": f"sub-{number}", "generation": generation, "head_seq": head_seq})


class FakeLog:
    """Sessions in memory behind a canned daemon: subscribe, read and list answer from them."""

    def __init__(self) -> None:
        self.heads: dict[str, int] = {}
        self.generation = "g1"

    def __call__(self, request: dict[str, Any], number: int) -> Sequence[object]:
        params = request["params"]
        name = f"sub-{number}"
        match request["method"]:
            case "sessions.subscribe":
                session_id = params["session_id"]
                head = self.heads.get(session_id, 0)
                since = params.get("since")
                first = head + 1
                if since:
                    first = since["seq"] + 1 if since["generation"] == self.generation and since["seq"] <= head else 1
                replay = [event(seq, session_id, self.generation, name) for seq in range(first, head + 1)]
                return [subscribed(request, head, self.generation, number), *replay]
            case "sessions.read":
                head = self.heads[params["session_id"]]
                first = params["from_seq"]
                events = [event(seq)["params"]["event"] for seq in range(first, min(head, first + 2) + 1)]
                next_seq = first + 3 if head >= first + 3 else None
                return [reply(request, {"events": events, "next_seq": next_seq, "generation": self.generation})]
            case "sessions.list":
                records = [{"session_id": session_id} for session_id in self.heads]
                return [reply(request, {"sessions": records, "next_cursor": None, "total": len(records)})]
        return []


async def take(stream: Any, count: int) -> list[Any]:
    async with asyncio.timeout(20):
        return [await anext(stream) for _ in range(count)]


def seen(items: Sequence[TailEvent]) -> list[tuple[str, int, bool]]:
    return [(item.generation, item.seq, item.new_generation) for item in items]


def test_answers_find_their_calls_in_whatever_order_they_come(path: Path) -> None:
    held: list[dict[str, Any]] = []

    def script(request: dict, number: int) -> list[object]:
        held.append(request)
        return [reply(one, one["params"]["n"]) for one in reversed(held)] if len(held) == 3 else []

    async def body() -> None:
        async with AsyncClient(path, start=False) as client:
            results = await asyncio.gather(*[client.call("m", n=n) for n in range(3)])
            assert results == [0, 1, 2]

    with CannedDaemon(path, polite(script)):
        asyncio.run(body())


def test_a_lost_connection_fails_every_call_in_flight_and_the_next_connects_again(path: Path) -> None:
    def script(request: dict, number: int) -> list[object]:
        return [reply(request, number)] if number > 1 else [] if request["params"]["n"] else [CLOSE]

    async def body() -> None:
        async with AsyncClient(path, start=False) as client:
            results = await asyncio.gather(*[client.call("m", n=n) for n in (1, 2, 0)], return_exceptions=True)
            assert [type(result) for result in results] == [ConnectionLost] * 3
            assert await client.call("m", n=1) == 2

    with CannedDaemon(path, polite(script)):
        asyncio.run(body())


def test_an_append_whose_answer_was_lost_is_sent_again_with_the_same_ids(path: Path) -> None:
    def script(request: dict, number: int) -> list[object]:
        return [CLOSE] if number == 1 else [reply(request, {"last_seq": 1})]

    async def body() -> None:
        async with AsyncClient(path, start=False) as client:
            assert await client.append("mink-1", [{"type": "a"}]) == {"last_seq": 1}

    with CannedDaemon(path, polite(script)) as canned:
        asyncio.run(body())
        first, second = canned.requests
        assert first["params"] == second["params"]
        assert first["params"]["events"][0]["id"]


def test_a_call_that_is_cancelled_leaves_the_others_alone(path: Path) -> None:
    def script(request: dict, number: int) -> list[object]:
        return [] if request["method"] == "slow" else [reply(request, "quick")]

    async def body() -> None:
        async with AsyncClient(path, start=False) as client:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.02):
                    await client.call("slow")
            assert await client.call("quick") == "quick"
            with pytest.raises(TooLarge):
                await client.call("m", text="x" * (16 << 20))

    with CannedDaemon(path, polite(script)):
        asyncio.run(body())


def test_notifications_that_come_in_one_piece_with_the_reply_are_not_lost(path: Path) -> None:
    def script(request: dict, number: int) -> list[object]:
        return [subscribed(request, 3), event(1), event(2), event(3)]

    async def body() -> None:
        async with AsyncClient(path, start=False) as client:
            subscription = await client.subscribe("mink-1", {"generation": "g1", "seq": 0})
            assert subscription.head_seq == 3
            assert [params["event"]["seq"] for _, params in await take(subscription, 3)] == [1, 2, 3]
            client.unsubscribe(subscription)
            with pytest.raises(StopAsyncIteration):
                await anext(subscription)

    with CannedDaemon(path, polite(script)) as canned:
        asyncio.run(body())
        canned.wait_for_requests(2)
        assert canned.requests[1]["method"] == "sessions.unsubscribe"
        assert "id" not in canned.requests[1]


def test_a_slow_consumer_is_told_where_to_resume_and_holds_nobody_up(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(link, "QUEUE_NOTIFICATIONS", 4)

    def script(request: dict, number: int) -> list[object]:
        if request["method"] == "sessions.subscribe":
            return [subscribed(request, 9), *[event(seq) for seq in range(1, 10)]]
        return [reply(request, "still answered"), event(10)]

    async def body() -> None:
        async with AsyncClient(path, start=False) as client:
            subscription = await client.subscribe("mink-1", {"generation": "g1", "seq": 0})
            assert await client.call("m") == "still answered"
            items = await take(subscription, 5)
            assert [params["event"]["seq"] for _, params in items[:4]] == [1, 2, 3, 4]
            assert items[4] == ("session.lagged", lagged(4)["params"])
            assert await client.call("m") == "still answered"
            assert (await take(subscription, 1))[0][1]["event"]["seq"] == 10

    with CannedDaemon(path, polite(script)):
        asyncio.run(body())


def test_an_event_that_is_larger_than_the_queue_comes_through(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link, "QUEUE_BYTES", 100)

    async def body() -> None:
        async with AsyncClient(path, start=False) as client:
            stream = client.tail("mink-1", {"generation": "g1", "seq": 0})
            assert [item.seq for item in await take(stream, 3)] == [1, 2, 3]
            await stream.aclose()

    log = FakeLog()
    log.heads["mink-1"] = 3
    with CannedDaemon(path, polite(log)):
        asyncio.run(body())


def test_a_tail_goes_on_from_its_cursor_when_the_daemon_says_that_it_lags(path: Path) -> None:
    subscriptions: list[dict] = []

    def script(request: dict, number: int) -> list[object]:
        if request["method"] != "sessions.subscribe":
            return []
        subscriptions.append(request["params"])
        if len(subscriptions) == 1:
            return [subscribed(request, 5), event(6), event(7), lagged(7)]
        return [subscribed(request, 9, number=2), *[event(seq, subscription="sub-2") for seq in (7, 8, 9)]]

    async def body() -> None:
        async with AsyncClient(path, start=False) as client:
            stream = client.tail("mink-1")
            assert [item.seq for item in await take(stream, 4)] == [6, 7, 8, 9]
            await stream.aclose()

    with CannedDaemon(path, polite(script)):
        asyncio.run(body())
    assert "since" not in subscriptions[0]
    assert subscriptions[1]["since"] == {"generation": "g1", "seq": 7}


def test_a_tail_waits_for_a_daemon_that_went_away_and_misses_nothing(path: Path) -> None:
    log = FakeLog()
    log.heads["mink-1"] = 2
    lost: list[str] = []

    async def body() -> None:
        gone = asyncio.Event()

        def on_lost(error: ChimeraError) -> None:
            lost.append(error.kind)
            gone.set()

        first = CannedDaemon(path, polite(log))
        async with AsyncClient(path, start=False) as client:
            stream = client.tail("mink-1", {"generation": "g1", "seq": 0}, on_lost=on_lost)
            items = await take(stream, 2)
            first.close()
            waiting = asyncio.ensure_future(take(stream, 2))
            await gone.wait()
            path.unlink()
            log.heads["mink-1"] = 4
            with CannedDaemon(path, polite(log)):
                items += await waiting
                await stream.aclose()
        assert [item.seq for item in items] == [1, 2, 3, 4]

    asyncio.run(body())
    assert lost == ["connection_lost"]


@pytest.mark.parametrize("since", [{"generation": "g0", "seq": 2}, {"generation": "g1", "seq": 9}])
def test_a_history_that_is_another_one_begins_again_and_is_said(path: Path, since: dict) -> None:
    """A cursor of another generation, or beyond the head: the daemon replays from 1."""
    log = FakeLog()
    log.heads["mink-1"] = 2

    async def body() -> None:
        async with AsyncClient(path, start=False) as client:
            stream = client.tail("mink-1", since)
            assert seen(await take(stream, 2)) == [("g1", 1, True), ("g1", 2, False)]
            await stream.aclose()

    with CannedDaemon(path, polite(log)):
        asyncio.run(body())


def test_a_history_that_is_replaced_while_it_is_followed_is_said(path: Path) -> None:
    def script(request: dict, number: int) -> list[object]:
        return [subscribed(request, 1), event(2), event(1, generation="g2"), event(2, generation="g2")]

    async def body() -> None:
        async with AsyncClient(path, start=False) as client:
            stream = client.tail("mink-1")
            assert seen(await take(stream, 3)) == [("g1", 2, False), ("g2", 1, True), ("g2", 2, False)]
            await stream.aclose()

    with CannedDaemon(path, polite(script)):
        asyncio.run(body())


def test_a_tail_of_a_session_that_is_not_there_says_so(path: Path) -> None:
    def script(request: dict, number: int) -> list[object]:
        return [refusal(request, -32004, "session_not_found")]

    async def body() -> None:
        async with AsyncClient(path, start=False) as client:
            with pytest.raises(SessionNotFound):
                await take(client.tail("mink-1"), 1)

    with CannedDaemon(path, polite(script)):
        asyncio.run(body())


def test_a_tail_that_never_reached_a_daemon_says_so_and_one_that_met_another_version_ends(path: Path) -> None:
    async def unreachable() -> None:
        with pytest.raises(DaemonUnreachable):
            await take(AsyncClient(path, start=False).tail("mink-1"), 1)

    asyncio.run(unreachable())

    def script(request: dict, number: int) -> list[object]:
        if request["method"] == "daemon.hello":
            return [reply(request, HELLO if number == 1 else {**HELLO, "protocol": 2})]
        return [subscribed(request, 0), CLOSE]

    async def replaced() -> None:
        async with AsyncClient(path, start=False) as client:
            with pytest.raises(WrongVersion):
                await take(client.tail("mink-1"), 1)

    with CannedDaemon(path, script):
        asyncio.run(replaced())


def test_a_tail_of_all_sessions_catches_up_after_the_daemon_was_away(path: Path) -> None:
    """With what it had seen, and with sessions that began meanwhile."""
    log = FakeLog()

    async def body() -> None:
        first = CannedDaemon(path, polite(log))
        async with AsyncClient(path, start=False) as client:
            stream = client.tail("*")
            waiting = asyncio.ensure_future(take(stream, 2))
            await asyncio.to_thread(first.wait_for_answers, 1)
            first.send(event(7, "mink-1"), event(1, "otter-1"))
            assert [(item.session_id, item.seq) for item in await waiting] == [("mink-1", 7), ("otter-1", 1)]
            first.close()
            path.unlink()
            log.heads = {"mink-1": 12, "otter-1": 1, "stoat-new": 2}
            with CannedDaemon(path, polite(log)) as second:
                items = [(item.session_id, item.seq) for item in await take(stream, 7)]
                assert sorted(items) == [*[("mink-1", seq) for seq in range(8, 13)], ("stoat-new", 1), ("stoat-new", 2)]
                second.send(event(12, "mink-1"), event(13, "mink-1"))
                assert [item.seq for item in await take(stream, 1)] == [13]
                log.heads["mink-1"] = 16
                second.send(event(16, "mink-1"))
                assert [item.seq for item in await take(stream, 3)] == [14, 15, 16], "a hole is read from the log"
                await stream.aclose()

    asyncio.run(body())


def test_a_tail_of_all_sessions_that_is_too_slow_reads_what_it_missed(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(link, "QUEUE_NOTIFICATIONS", 3)
    log = FakeLog()

    async def body() -> None:
        with CannedDaemon(path, polite(log)) as canned:
            async with AsyncClient(path, start=False) as client:
                stream = client.tail("*")
                waiting = asyncio.ensure_future(take(stream, 1))
                await asyncio.to_thread(canned.wait_for_answers, 1)
                log.heads = {"mink-1": 5, "otter-1": 3}
                canned.send(*[event(seq) for seq in range(1, 6)], *[event(seq, "otter-1") for seq in (2, 3)])
                items = await waiting + await take(stream, 6)
                assert [(item.session_id, item.seq) for item in items] == [
                    *[("mink-1", seq) for seq in range(1, 6)],
                    ("otter-1", 2),
                    ("otter-1", 3),
                ]
                await stream.aclose()

    asyncio.run(body())


def test_a_tail_that_is_left_unsubscribes(path: Path) -> None:
    log = FakeLog()
    log.heads["mink-1"] = 1

    async def body() -> None:
        async with AsyncClient(path, start=False) as client:
            async for item in client.tail("mink-1", {"generation": "g1", "seq": 0}):
                assert item.seq == 1
                break

    with CannedDaemon(path, polite(log)) as canned:
        asyncio.run(body())
        canned.wait_for_requests(1)
    assert following.LONGEST_PAUSE_SECONDS <= 1.0


@pytest.mark.parametrize("session_id", ["mink-1", "*"])
def test_tails_see_every_event_once_over_daemons_that_are_killed(
    start_daemon: Callable[..., RunningDaemon], session_id: str
) -> None:
    """Twelve batches, every fourth while the daemon is killed, whenever that hits the writer and the tail."""
    running = start_daemon()
    batches = [[{"type": "a", "metadata": {"n": 20 * batch + n}} for n in range(20)] for batch in range(12)]

    async def numbers_of(stream: AsyncIterator[TailEvent], last: int) -> list[int]:
        numbers: list[int] = []
        async with asyncio.timeout(60):
            async for item in stream:
                if item.event["type"] == "a":
                    numbers.append(item.event["metadata"]["n"])
                if numbers and numbers[-1] == last:
                    break
        return numbers

    async def body(running: RunningDaemon) -> None:
        home = running.home
        async with AsyncClient(home=home, start=False) as writer, AsyncClient(home=home, start=False) as reader:
            await writer.call("sessions.create", session_id="mink-1")
            stream = reader.tail(session_id)
            first = asyncio.ensure_future(take(stream, 1))
            while not first.done():  # until it has subscribed, whenever that is
                await writer.append("mink-1", [{"type": "begin"}])
            await first
            reading = asyncio.ensure_future(numbers_of(stream, 239))
            for number, batch in enumerate(batches):
                appending = asyncio.ensure_future(writer.append("mink-1", batch))
                if number % 4 == 3:
                    await asyncio.sleep(0)
                    running.kill()
                    running = await asyncio.to_thread(start_daemon)
                await appending
            assert await reading == list(range(240))
            await stream.aclose()

    asyncio.run(body(running))

"""Five hundred clients at once on one daemon: every append acknowledged is there once, in order, for everybody."""

from __future__ import annotations

import asyncio

from tests.support.daemon import RunningDaemon
from tests.support.memory_store import Client, request

CLIENTS = 500
SESSIONS = 20
APPENDS = 4


def test_500_clients_append_and_read_at_once(daemon: RunningDaemon) -> None:
    with daemon.connect() as connection:
        names = [connection.call("sessions.create")["session_id"] for _ in range(SESSIONS)]

    async def work(client: Client, number: int) -> dict[str, int]:
        session_id, acknowledged = names[number % SESSIONS], {}
        for step in range(APPENDS):
            event_id = f"evt-{number}-{step}"
            events = [{"type": "a", "id": event_id, "metadata": {"client": number}}]
            answer = (await client.call("sessions.append", session_id=session_id, events=events))["result"]
            assert answer["ids"] == [event_id]
            acknowledged[event_id] = answer["first_seq"]
        page = await client.call(
            "sessions.read", session_id=session_id, from_seq=acknowledged[f"evt-{number}-0"], limit=1
        )
        assert page["result"]["events"][0]["id"] == f"evt-{number}-0"
        return acknowledged

    async def scenario() -> list[dict[str, int]]:
        clients = [await Client.connect(daemon.socket_path) for _ in range(CLIENTS)]
        try:
            await asyncio.gather(*(client.call("daemon.hello") for client in clients))  # a connect is no accept yet
            assert (await clients[0].call("daemon.status"))["result"]["clients"] == CLIENTS
            return await asyncio.gather(*(work(client, number) for number, client in enumerate(clients)))
        finally:
            for client in clients:
                await client.close()

    acknowledged = asyncio.run(scenario())
    with daemon.connect() as connection:
        for place, session_id in enumerate(names):
            events = connection.call("sessions.read", session_id=session_id, limit=100_000)["events"]
            assert [event["seq"] for event in events] == list(range(1, CLIENTS // SESSIONS * APPENDS + 1))
            promised = {name: seq for one in acknowledged[place::SESSIONS] for name, seq in one.items()}
            assert {event["id"]: event["seq"] for event in events} == promised
        assert connection.call("sessions.verify")["problems"] == []
        assert connection.call("daemon.status")["open_sessions"] <= SESSIONS


def test_clients_that_come_and_go_leave_nothing_behind(daemon: RunningDaemon) -> None:
    async def scenario() -> None:
        for _ in range(5):
            clients = [await Client.connect(daemon.socket_path) for _ in range(100)]
            for number, client in enumerate(clients):
                client.writer.write(request("daemon.hello", 1) + b"\n" + b"x" * number)
            for client in clients:
                await client.close()
        stays = await Client.connect(daemon.socket_path)
        while (await stays.call("daemon.status"))["result"]["clients"] > 1:
            pass
        await stays.close()

    asyncio.run(scenario())

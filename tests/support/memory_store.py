"""An RPC server in this process over a store of nothing but memory, which answers when a test says so.

For tests of the connection and of dispatch alone: order, bounds, back-pressure. Everything else is tested with the
real daemon.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chimera.errors import SessionNotFound
from chimera.sessions.eventlog.writer import NewEvent
from chimerad.rpc import RpcServer, ServiceInfo
from chimerad.store.batches import AppendCall, AppendOutcome


@dataclass
class MemorySubscription:
    sink: Any
    subscription: str = "sub-1"
    generation: str = "0" * 16
    head_seq: int = 0

    def start(self) -> None:
        self.sink.write_line(b'{"jsonrpc":"2.0","method":"session.event","params":{}}')


class MemoryStore:
    """Sessions are lists of events.

    Attributes:
        calls: what began, in order.
        holding: appends are answered by :meth:`answer` instead of at once.
        gate: other calls wait for it.
        failure: what ``read`` raises.
        dropped: the sinks of connections that have closed.
    """

    def __init__(self) -> None:
        self.sessions: dict[str, list[NewEvent]] = {}
        self.calls: list[str] = []
        self.holding = False
        self.held: list[Callable[[], None]] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.failure: Exception | None = None
        self.dropped: list[object] = []
        self.sinks: list[Any] = []

    def append(self, calls: list[AppendCall]) -> None:
        for call in calls:
            self._append(call)

    def _append(self, call: AppendCall) -> None:
        self.calls.append(f"append {call.session_id}")
        log = self.sessions.setdefault(call.session_id, [])
        log.extend(call.events)
        ids = [event.id or "evt-0" for event in call.events]
        outcome = AppendOutcome(len(log) - len(call.events) + 1, len(log), ids, "0" * 16)
        if self.holding:
            self.held.append(lambda: call.appender.answered([(call, outcome)]))
        else:
            call.appender.answered([(call, outcome)])

    def commit_now(self) -> None:
        """Nothing is ever kept waiting here."""

    def answer(self) -> None:
        """Answer the appends that are held."""
        ready, self.held = self.held, []
        for done in ready:
            done()

    async def read(self, session_id: str, from_seq: int, limit: int) -> dict[str, Any]:
        self.calls.append(f"read {session_id}")
        await self.gate.wait()
        if self.failure is not None:
            raise self.failure
        if session_id not in self.sessions:
            raise SessionNotFound(f"there is no session {session_id!r}")
        events = self.sessions[session_id][from_seq - 1 : from_seq - 1 + limit]
        return {"events": [event.metadata for event in events], "next_seq": None, "generation": "0" * 16}

    async def subscribe(self, session_id: str, since: object, sink: Any) -> MemorySubscription:
        self.calls.append(f"subscribe {session_id}")
        self.sinks.append(sink)
        await self.gate.wait()
        return MemorySubscription(sink)

    def drop_sink(self, sink: object) -> None:
        self.dropped.append(sink)


class Client:
    """One connection to a server in this process."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def connect(cls, path: str) -> Client:
        return cls(*await asyncio.open_unix_connection(path, limit=64 << 20))

    async def send(self, *lines: bytes) -> None:
        self.writer.write(b"".join(line + b"\n" for line in lines))
        await self.writer.drain()

    async def read(self) -> Any:
        line = await self.reader.readline()
        if not line:
            raise EOFError
        return json.loads(line)

    async def call(self, method: str, **params: Any) -> Any:
        await self.send(request(method, 0, **params))
        return await self.read()

    async def close(self) -> None:
        self.writer.transport.abort()
        with suppress(ConnectionError):
            await self.writer.wait_closed()


@dataclass
class Serving:
    server: RpcServer
    store: MemoryStore
    path: str
    shutdowns: list[None]

    def __post_init__(self) -> None:
        self.clients: list[Client] = []

    async def connect(self) -> Client:
        self.clients.append(await Client.connect(self.path))
        return self.clients[-1]


@asynccontextmanager
async def serving(folder: Path) -> AsyncIterator[Serving]:
    """A started server with its socket in ``folder``/run; stopped at the end."""
    store, shutdowns = MemoryStore(), []
    path = os.path.join(folder, "run", "s")
    server = RpcServer(
        store=store,  # type: ignore[arg-type]
        service=ServiceInfo(str(folder), path, "0.0.0", "2026-01-01T00:00:00Z"),
        request_shutdown=lambda: shutdowns.append(None),
    )
    await server.start(path)
    served = Serving(server, store, path, shutdowns)
    try:
        yield served
    finally:
        store.answer()
        store.gate.set()
        for client in served.clients:
            await client.close()
        await server.stop()


def request(method: str, request_id: object, **params: Any) -> bytes:
    return json.dumps({"jsonrpc": "2.0", "id": request_id, "method": method, "params": params}).encode()


def append(session_id: str, request_id: object = 1, content: str = "") -> bytes:
    events = [{"type": "user_message", "metadata": {"content": content}}]
    return request("sessions.append", request_id, session_id=session_id, events=events)


async def until(true: Callable[[], object]) -> None:
    """Let the loop run until it is so; the test's time limit ends what never becomes so."""
    while not true():  # noqa: ASYNC110 - gives way, waits for no time
        await asyncio.sleep(0)

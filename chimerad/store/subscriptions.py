"""Who watches which session: replay from a cursor, then live, nothing missing and nothing twice (store rule 13).

A subscriber that does not keep up is told so and dropped; it never slows the writer or the others. Knows connections
only as sinks.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

import msgspec

from chimera.errors import ChimeraError

__all__ = ["Cursor", "ReadPage", "Sink", "Subscription", "Subscriptions"]

EVERY_SESSION = "*"
PAGE_EVENTS = 500


class Cursor(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The last event that a client has seen, in which history of the session."""

    generation: str
    seq: int


class Sink(Protocol):
    """A connection, as the store sees it."""

    def write_line(self, line: bytes) -> None:
        """Send one whole notification, given without its newline."""

    def backlog(self) -> int:
        """Bytes written that the client has not taken yet."""

    async def drained(self) -> None:
        """Return when the backlog is small again; raises ConnectionError when the client has gone."""


ReadPage = Callable[[str, int, int], Awaitable[list[tuple[int, bytes]]]]
"""Session id, first seq, how many: the events of a session that are shown, as (seq, JSON)."""


@dataclass(slots=True, eq=False)
class Subscription:
    """One ``sessions.subscribe``. Silent until :meth:`start`, so that the reply precedes the first notification.

    Attributes:
        subscription: its id, as the client knows it.
        head_seq: the session's head when it was made; 0 for ``*``.
        next_seq: the next event to send.
        live: whether events are sent as they are shown; until then they are read from the files.
    """

    subscription: str
    session_id: str
    generation: str
    head_seq: int
    sink: Sink
    registry: Subscriptions
    next_seq: int
    live: bool = False

    def start(self) -> None:
        """Begin to send: what the cursor has not seen, then what comes."""
        if self.session_id == EVERY_SESSION or self.next_seq > self.registry.shown_seq(self.session_id):
            self.live = True
        else:
            self.registry.replay(self)


class Subscriptions:
    """All subscriptions of the daemon. On the event loop only."""

    def __init__(self, read_page: ReadPage, shown_seq: Callable[[str], int], most_backlog_bytes: int) -> None:
        self.shown_seq = shown_seq
        self._read_page = read_page
        self._most_backlog = most_backlog_bytes
        self._by_session: dict[str, list[Subscription]] = {}
        self._numbers = itertools.count(1)
        self._replays: set[asyncio.Task[None]] = set()

    def add(self, session_id: str, generation: str, head_seq: int, since: Cursor | None, sink: Sink) -> Subscription:
        """Register a subscriber; a cursor of another generation or beyond the head replays from 1."""
        next_seq = head_seq + 1
        if since is not None:
            known = since.generation == generation and 0 <= since.seq <= head_seq
            next_seq = since.seq + 1 if known else 1
        name = f"sub-{next(self._numbers)}"
        subscription = Subscription(name, session_id, generation, head_seq, sink, self, next_seq)
        self._by_session.setdefault(session_id, []).append(subscription)
        return subscription

    def remove(self, name: str, sink: Sink) -> bool:
        """End a subscription of this sink; False when it has none of that name."""
        for subscriptions in self._by_session.values():
            for subscription in subscriptions:
                if subscription.subscription == name and subscription.sink is sink:
                    self._forget(subscription)
                    return True
        return False

    def drop_sink(self, sink: Sink) -> None:
        """A connection has closed: end all that it subscribed to."""
        for subscription in [one for many in self._by_session.values() for one in many if one.sink is sink]:
            self._forget(subscription)

    def watched(self, session_id: str) -> bool:
        return session_id in self._by_session

    def publish(self, session_id: str, generation: str, first_seq: int, records: list[bytes]) -> None:
        """Send newly shown events to everybody who is live on this session, or on all."""
        for key in (session_id, EVERY_SESSION):
            for subscription in tuple(self._by_session.get(key, ())):
                if subscription.live:
                    self._send(subscription, session_id, generation, first_seq, records)

    def interrupt(self, session_id: str | None = None) -> None:
        """What is shown may have jumped (a recovery, a session removed): tell subscribers where to go on from."""
        keys = list(self._by_session) if session_id is None else [session_id]
        for subscription in [one for key in keys for one in self._by_session.get(key, ())]:
            self._lag(subscription, subscription.session_id, subscription.generation)

    def replay(self, subscription: Subscription) -> None:
        """Send from the files until the head is reached, then go live."""
        task = asyncio.get_running_loop().create_task(self._replay(subscription))
        self._replays.add(task)
        task.add_done_callback(self._replays.discard)

    async def stop(self) -> None:
        for task in tuple(self._replays):
            task.cancel()
        self._by_session.clear()

    async def _replay(self, subscription: Subscription) -> None:
        session_id = subscription.session_id
        try:
            while subscription in self._by_session.get(session_id, ()):
                if subscription.next_seq > self.shown_seq(session_id):
                    subscription.live = True
                    return
                page = await self._read_page(session_id, subscription.next_seq, PAGE_EVENTS)
                if not page:
                    subscription.live = True  # the numbers up to the head are missing from the log
                    return
                for seq, record in page:
                    subscription.sink.write_line(_event_line(subscription, session_id, subscription.generation, record))
                    subscription.next_seq = seq + 1
                await subscription.sink.drained()
        except ConnectionError:
            self._forget(subscription)
        except ChimeraError:
            self._lag(subscription, session_id, subscription.generation)

    def _send(
        self, subscription: Subscription, session_id: str, generation: str, first_seq: int, records: list[bytes]
    ) -> None:
        if subscription.sink.backlog() > self._most_backlog:
            self._lag(subscription, session_id, generation, first_seq - 1)
            return
        if subscription.session_id != EVERY_SESSION:
            records = records[max(subscription.next_seq - first_seq, 0) :]
            subscription.next_seq = max(subscription.next_seq, first_seq + len(records))
        for record in records:
            subscription.sink.write_line(_event_line(subscription, session_id, generation, record))

    def _lag(self, subscription: Subscription, session_id: str, generation: str, seq: int | None = None) -> None:
        """Say where to resume, and end the subscription."""
        self._forget(subscription)
        resume = Cursor(generation, subscription.next_seq - 1 if seq is None else seq)
        params = {"subscription": subscription.subscription, "session_id": session_id, "resume": resume}
        line = msgspec.json.encode({"jsonrpc": "2.0", "method": "session.lagged", "params": params})
        subscription.sink.write_line(line)

    def _forget(self, subscription: Subscription) -> None:
        subscription.live = False
        left = [one for one in self._by_session.get(subscription.session_id, ()) if one is not subscription]
        if left:
            self._by_session[subscription.session_id] = left
        else:
            self._by_session.pop(subscription.session_id, None)


def _event_line(subscription: Subscription, session_id: str, generation: str, record: bytes) -> bytes:
    """A ``session.event`` notification; the record's bytes go out as they lie in the log."""
    return (
        b'{"jsonrpc":"2.0","method":"session.event","params":{"subscription":"%b","session_id":%b,"generation":"%b",'
        b'"event":%b}}'
        % (subscription.subscription.encode(), msgspec.json.encode(session_id), generation.encode(), record)
    )

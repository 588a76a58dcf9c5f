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


ReadPage = Callable[[str, int, int], Awaitable[tuple[list[tuple[int, bytes]], str]]]
"""Session id, first seq, how many: the events of a session that are shown, as (seq, JSON), and its generation."""


@dataclass(slots=True, eq=False)
class Subscription:
    """One ``sessions.subscribe``. Silent until :meth:`start`, so that the reply precedes the first notification.

    Attributes:
        subscription: its id, as the client knows it.
        head_seq: the session's head when it was made; 0 for ``*``.
        next_seq: the next event to send.
        newest_seq: the newest event that is known to be shown.
        live: whether events are sent as they are shown; until then they are read from the files.
    """

    subscription: str
    session_id: str
    generation: str
    head_seq: int
    sink: Sink
    registry: Subscriptions
    next_seq: int
    newest_seq: int
    live: bool = False

    def start(self) -> None:
        """Begin to send: what the cursor has not seen, then what comes."""
        if self.session_id == EVERY_SESSION or self.next_seq > self.newest_seq:
            self.live = True
        else:
            self.registry.replay(self)


class Subscriptions:
    """All subscriptions of the daemon. On the event loop only."""

    def __init__(self, read_page: ReadPage, most_backlog_bytes: int) -> None:
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
        subscription = Subscription(name, session_id, generation, head_seq, sink, self, next_seq, head_seq)
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

    @property
    def anybody(self) -> bool:
        return bool(self._by_session)

    def publish(self, session_id: str, generation: str, first_seq: int, records: list[bytes]) -> None:
        """Send newly shown events to everybody who is live on this session, or on all."""
        for subscription in tuple(self._by_session.get(session_id, ())):
            subscription.newest_seq = first_seq + len(records) - 1
            if subscription.live:
                self._send(subscription, generation, first_seq, records)
        for subscription in tuple(self._by_session.get(EVERY_SESSION, ())):
            if subscription.live:
                self._send_to_all_watcher(subscription, session_id, generation, first_seq, records)

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
        try:
            while subscription.next_seq <= subscription.newest_seq:
                newest = subscription.newest_seq
                page, generation = await self._read_page(subscription.session_id, subscription.next_seq, PAGE_EVENTS)
                if not self._is_registered(subscription):
                    return
                if self._is_another_history(subscription, generation):
                    self._lag(subscription, subscription.session_id, subscription.generation)
                    return
                for seq, record in page:
                    subscription.sink.write_line(_event_line(subscription, subscription.session_id, generation, record))
                    subscription.next_seq = seq + 1
                if not page:
                    subscription.next_seq = newest + 1  # the numbers up to there are missing from the log
                await subscription.sink.drained()
            subscription.live = self._is_registered(subscription)
        except ConnectionError:
            self._forget(subscription)
        except ChimeraError:
            if self._is_registered(subscription):
                self._lag(subscription, subscription.session_id, subscription.generation)

    def _send(self, subscription: Subscription, generation: str, first_seq: int, records: list[bytes]) -> None:
        session_id = subscription.session_id
        if subscription.sink.backlog() > self._most_backlog or self._is_another_history(subscription, generation):
            self._lag(subscription, session_id, subscription.generation)
        elif first_seq > subscription.next_seq:  # something came to be shown that was not appended through us
            subscription.live = False
            self.replay(subscription)
        else:
            for record in records[subscription.next_seq - first_seq :]:
                subscription.sink.write_line(_event_line(subscription, session_id, generation, record))
            subscription.next_seq = subscription.newest_seq + 1

    def _send_to_all_watcher(
        self, subscription: Subscription, session_id: str, generation: str, first_seq: int, records: list[bytes]
    ) -> None:
        if subscription.sink.backlog() > self._most_backlog:
            self._lag(subscription, session_id, generation, first_seq - 1)
            return
        for record in records:
            subscription.sink.write_line(_event_line(subscription, session_id, generation, record))

    def _is_registered(self, subscription: Subscription) -> bool:
        return subscription in self._by_session.get(subscription.session_id, ())

    def _is_another_history(self, subscription: Subscription, generation: str) -> bool:
        """Whether this is not the generation that was subscribed to; a log without events had none yet."""
        if not subscription.generation:
            subscription.generation = generation
        return subscription.generation != generation

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

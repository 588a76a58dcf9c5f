"""A tail: the events of a session, or of all, for ever; over slow consumers and daemons that go away.

Keeps one place (generation, seq) for each session and nothing else, so that whatever happens in between,
what comes next is asked for by cursor. Must not know how a connection is come by (streaming).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from typing import Any, NamedTuple, Protocol

from chimera.client.link import Link
from chimera.errors import ChimeraError, DaemonUnreachable, SessionNotFound, WrongVersion
from chimera.identifiers import summary_timestamp

__all__ = ["EVERY_SESSION", "Follower", "TailEvent"]

EVERY_SESSION = "*"
FIRST_PAUSE_SECONDS = 0.02
LONGEST_PAUSE_SECONDS = 1.0
"""Between two looks for a daemon that went away."""


class TailEvent(NamedTuple):
    """One event that a tail saw.

    ``new_generation``: the session's history is not the one this tail had followed so far (repaired, imported
    again): what was seen before does not count any more, and this is the first event of the new history.
    """

    session_id: str
    generation: str
    event: dict[str, Any]
    new_generation: bool = False

    @property
    def seq(self) -> int:
        return int(self.event["seq"])


class _Place:
    """Where a tail stands in one session. ``fresh``: in a history of which nothing was given yet."""

    def __init__(self, generation: str, seq: int) -> None:
        self.generation = generation
        self.seq = seq
        self.fresh = False

    def cursor(self) -> dict[str, Any]:
        return {"generation": self.generation, "seq": self.seq}

    def enter(self, generation: str) -> None:
        """Go to the beginning of another history, if it is another."""
        if generation != self.generation:
            self.generation, self.seq, self.fresh = generation, 0, True

    def advance(self, session_id: str, event: dict[str, Any]) -> TailEvent:
        self.seq = event["seq"]
        seen = TailEvent(session_id, self.generation, event, self.fresh)
        self.fresh = False
        return seen


class _Linked(Protocol):
    """The connection as it is now, made anew where it was lost; raises DaemonUnreachable."""

    async def __call__(self, *, may_start: bool) -> Link: ...


class Follower:
    """One tail. ``events`` is its only use, once."""

    def __init__(self, linked: _Linked, session_id: str, since: Mapping[str, Any] | None) -> None:
        self._linked = linked
        self._session_id = session_id
        self._since = since
        self._places: dict[str, _Place] = {}
        self._began = ""

    async def events(self, on_lost: Callable[[ChimeraError], None] | None) -> AsyncGenerator[TailEvent, None]:
        """See AsyncClient.tail."""
        every = self._session_id == EVERY_SESSION and self._since is None
        pause = FIRST_PAUSE_SECONDS
        lost = False
        while True:
            try:
                link = await self._linked(may_start=not self._began)
                lost = False
                async with aclosing(self._every_session(link) if every else self._one_session(link)) as stream:
                    async for seen in stream:
                        pause = FIRST_PAUSE_SECONDS
                        yield seen
            except WrongVersion:
                raise
            except DaemonUnreachable as error:
                if not self._began:
                    raise
                if on_lost is not None and not lost:
                    on_lost(error)
                lost = True
            await asyncio.sleep(pause)
            pause = min(pause * 2, LONGEST_PAUSE_SECONDS)

    async def _one_session(self, link: Link) -> AsyncGenerator[TailEvent, None]:
        """Until the subscription lags; raises when the connection ends."""
        session_id = self._session_id
        place = self._places.get(session_id)
        since = self._since if place is None else place.cursor()
        subscription = await link.subscribe(session_id, since, deltas=False)
        self._began = self._began or summary_timestamp(time.time())
        if place is None:
            seq = subscription.head_seq if since is None else since["seq"]
            place = _Place(subscription.generation if since is None else since["generation"], seq)
            self._places[session_id] = place
        place.enter(subscription.generation)
        if place.seq > subscription.head_seq:  # the daemon replays from 1: that head is of a shorter history
            place.seq, place.fresh = 0, True
        try:
            async for method, params in subscription:
                if method == "session.lagged":
                    return
                if method == "session.event":
                    place.enter(params["generation"])
                    if params["event"]["seq"] > place.seq:
                        yield place.advance(session_id, params["event"])
        finally:
            link.unsubscribe(subscription)

    async def _every_session(self, link: Link) -> AsyncGenerator[TailEvent, None]:
        """Until the daemon ends the subscription, which it does when it lags; raises when the connection ends."""
        subscription = await link.subscribe(EVERY_SESSION, None, deltas=False)
        try:
            if self._began:
                await self._find_new_sessions(link)
                for session_id in tuple(self._places):
                    async for seen in self._catch_up(link, session_id):
                        yield seen
            self._began = self._began or summary_timestamp(time.time())
            async for method, params in subscription:
                if method == "session.lagged" and params["session_id"] != EVERY_SESSION:
                    resume = params["resume"]
                    self._places.setdefault(params["session_id"], _Place(resume["generation"], resume["seq"]))
                    async for seen in self._catch_up(link, params["session_id"]):
                        yield seen
                elif method == "session.event":
                    async for seen in self._take(link, params["session_id"], params["generation"], params["event"]):
                        yield seen
        finally:
            link.unsubscribe(subscription)

    async def _take(
        self, link: Link, session_id: str, generation: str, event: dict[str, Any]
    ) -> AsyncGenerator[TailEvent, None]:
        """One event of one of all sessions, and before it whatever is missing between the last one and it."""
        place = self._places.get(session_id)
        if place is None:
            place = self._places[session_id] = _Place(generation, event["seq"] - 1)
        if generation != place.generation or event["seq"] > place.seq + 1:
            async for seen in self._catch_up(link, session_id):
                yield seen
        if generation == place.generation and event["seq"] > place.seq:
            yield place.advance(session_id, event)

    async def _catch_up(self, link: Link, session_id: str) -> AsyncGenerator[TailEvent, None]:
        """What the log holds beyond our place."""
        place = self._places[session_id]
        from_seq = place.seq + 1
        while from_seq is not None:
            try:
                page = await link.call("sessions.read", {"session_id": session_id, "from_seq": from_seq})
            except SessionNotFound:
                del self._places[session_id]
                return
            if place.generation not in ("", page["generation"]):
                place.enter(page["generation"])
                from_seq = 1
                continue
            place.generation = page["generation"]
            for event in page["events"]:
                if event["seq"] > place.seq:
                    yield place.advance(session_id, event)
            from_seq = page["next_seq"]

    async def _find_new_sessions(self, link: Link) -> None:
        """Sessions that began since we did and that we have not seen: from their first event on."""
        params: dict[str, Any] = {"since": self._began, "limit": 0}
        while True:
            page = await link.call("sessions.list", params)
            for record in page["sessions"]:
                self._places.setdefault(record["session_id"], _Place("", 0))
            if page["next_cursor"] is None:
                return
            params["cursor"] = page["next_cursor"]

"""``AsyncClient``: many calls in flight and notifications, over one connection; a tail that survives the daemon."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from types import TracebackType
from typing import Any

from chimera.client import discovery
from chimera.client.following import Follower, TailEvent
from chimera.client.link import Link, Subscription
from chimera.client.protocol import MAX_LINE_BYTES
from chimera.client.retry import AppendRetry
from chimera.errors import ChimeraError
from chimera.identifiers import new_event_id

__all__ = ["AsyncClient", "Subscription", "TailEvent"]


class AsyncClient:
    """A client of the daemon for asyncio. ``async with`` connects and closes it.

    Args:
        socket_path: which socket; by default as chimera.paths says.
        home: the state home; by default ``$CHIMERA_HOME`` or ``~/.chimera``.
        start: whether to start a daemon where none answers. A tail that lost its daemon waits for one instead:
            whoever stopped it meant it.
    """

    def __init__(
        self,
        socket_path: str | os.PathLike[str] | None = None,
        home: str | os.PathLike[str] | None = None,
        *,
        start: bool = True,
    ) -> None:
        self._socket_path = None if socket_path is None else os.fspath(socket_path)
        self._home = None if home is None else os.fspath(home)
        self._start = start
        self._link: Link | None = None
        self._connecting = asyncio.Lock()

    async def __aenter__(self) -> AsyncClient:
        await self.linked()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        link, self._link = self._link, None
        if link is not None:
            await link.close()

    async def call(self, method: str, /, **params: Any) -> Any:
        """The result of a method; its error is raised as the class of its kind (chimera.errors)."""
        link = await self.linked()
        return await link.call(method, params)

    async def append(
        self,
        session_id: str,
        events: Sequence[Mapping[str, Any]],
        *,
        expect_seq: int | None = None,
        durability: str = "durable",
    ) -> dict[str, Any]:
        """Append events, all or nothing, each once even when an answer is lost; first_seq, last_seq, ids, chain."""
        named = [event if event.get("id") is not None else {**event, "id": new_event_id()} for event in events]
        params: dict[str, Any] = {"session_id": session_id, "events": named, "durability": durability}
        if expect_seq is not None:
            params["expect_seq"] = expect_seq
        retry = AppendRetry()
        while True:
            try:
                result: dict[str, Any] = await self.call("sessions.append", **params)
            except ChimeraError as error:
                await asyncio.sleep(retry.pause_after(error))
            else:
                return result

    async def subscribe(
        self, session_id: str, since: Mapping[str, Any] | None = None, *, deltas: bool = False
    ) -> Subscription:
        """Notifications of one session, or of all (``"*"``), from a cursor ``{generation, seq}`` on or from now on.

        :meth:`tail` is the same with reconnection; this one ends with the connection.
        """
        link = await self.linked()
        return await link.subscribe(session_id, since, deltas=deltas)

    def unsubscribe(self, subscription: Subscription) -> None:
        """End a subscription; it gives nothing more."""
        if self._link is not None:
            self._link.unsubscribe(subscription)

    def tail(
        self,
        session_id: str,
        since: Mapping[str, Any] | None = None,
        *,
        on_lost: Callable[[ChimeraError], None] | None = None,
    ) -> AsyncGenerator[TailEvent, None]:
        """Every event of a session after the cursor ``{generation, seq}`` (None: from now on), for ever.

        Nothing is missing and nothing comes twice: a slow consumer and a daemon that went away resume by cursor.
        ``"*"`` follows all sessions, from now on; what a session that this tail has never seen got while no daemon
        could be asked is given only if the session began after the tail did.

        Args:
            on_lost: called each time the daemon has gone, before the tail waits for it.

        Raises:
            SessionNotFound: there is no such session, or it was removed.
        """
        return Follower(self.linked, session_id, since).events(on_lost)

    async def linked(self, *, may_start: bool = True) -> Link:
        """The connection, made anew where it was lost."""
        async with self._connecting:
            if self._link is None or self._link.lost is not None:
                start = self._start and may_start
                answer = await asyncio.to_thread(discovery.connect, self._home, self._socket_path, start)
                assert answer.connection is not None
                connected = socket.socket(fileno=answer.connection.detach())
                connected.setblocking(False)
                self._link = Link(*await asyncio.open_unix_connection(sock=connected, limit=MAX_LINE_BYTES))
            return self._link

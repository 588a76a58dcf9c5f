"""Which sessions are open for writing, which are being opened, and which are held for a change.

Every call for a session goes through here to the committer, in order of arrival. Knows neither files nor the index.
"""

from __future__ import annotations

import asyncio
import logging
import resource
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import Executor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from chimera.errors import ChimeraError, InternalError, Locked, Overloaded
from chimerad.store.batches import AppendCall
from chimerad.store.committer import Committer, storage_failure
from chimerad.store.open_sessions import OpenSession, open_session

__all__ = ["SessionRegistry"]

log = logging.getLogger(__name__)

DESCRIPTORS_KEPT_FREE = 300
DESCRIPTORS_A_SESSION = 2


@dataclass(slots=True, eq=False)
class _Turn:
    """Who may hold a session next; kept while anybody does or wants to."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    users: int = 0


class SessionRegistry:
    """The open sessions by id. On the event loop only; opening itself happens in a thread.

    Args:
        on_gone: told of an open session whose folder is no more, or is another; closes it.
        settle: makes sure, before a folder is used again whose predecessor of the same id was removed, that nothing of
            that one waits in the journal.
    """

    def __init__(
        self,
        root: str,
        committer: Committer,
        threads: Executor,
        *,
        on_gone: Callable[[OpenSession], None],
        settle: Callable[[str], Awaitable[None]],
    ) -> None:
        self.open: dict[str, OpenSession] = {}
        self._root = root
        self._committer = committer
        self._threads = threads
        self._on_gone = on_gone
        self._settle = settle
        self._opening: dict[str, list[AppendCall]] = {}
        self._opened: dict[str, asyncio.Task[None]] = {}
        self._held: dict[str, list[AppendCall]] = {}
        self._turns: dict[str, _Turn] = {}
        limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        self._most_open = max((limit - DESCRIPTORS_KEPT_FREE) // DESCRIPTORS_A_SESSION, 16)

    def dispatch(self, calls: list[AppendCall]) -> None:
        """Hand calls to the committer in this order, opening a session first where it is not open."""
        now = time.monotonic()
        ready: list[tuple[OpenSession, AppendCall]] = []
        for call in calls:
            session = self.open.get(call.session_id)
            if session is not None and call.session_id not in self._held:
                session.last_used = now
                ready.append((session, call))
            else:
                self._keep(call)
        if ready:
            self._committer.submit(ready)

    def _keep(self, call: AppendCall) -> None:
        """A call whose session is held, or is being opened, or is to be opened for it."""
        if call.session_id in self._held:
            self._held[call.session_id].append(call)
        elif call.session_id in self._opening:
            self._opening[call.session_id].append(call)
        elif self._committer.suspended is not None:  # recovery holds the sessions' locks: nobody may open one
            call.refuse(storage_failure(self._committer.suspended, "nothing was appended"))
        elif len(self.open) + len(self._opening) >= self._most_open and not self._close_longest_idle():
            call.refuse(Overloaded("too many sessions are being written at once; retry in a moment"))
        else:
            self._opening[call.session_id] = [call]
            task = asyncio.get_running_loop().create_task(self._open(call.session_id))
            self._opened[call.session_id] = task

    @asynccontextmanager
    async def hold(self, session_id: str) -> AsyncIterator[OpenSession | None]:
        """Keep everybody else out of a session; yields it as it is open, with everything submitted before shown.

        Calls that arrive meanwhile wait and go on afterwards.

        Raises:
            StorageError, NoSpace: the disk failed.
        """
        turn = self._turns.setdefault(session_id, _Turn())
        turn.users += 1
        try:
            async with turn.lock:
                while session_id in self._opened:  # another one may have begun when the first has failed
                    await asyncio.wait([self._opened[session_id]])
                self._held[session_id] = []
                try:
                    yield await self._still(session_id)
                finally:
                    self.dispatch(self._held.pop(session_id))
        finally:
            turn.users -= 1
            if not turn.users:
                del self._turns[session_id]

    @asynccontextmanager
    async def hold_open(self, session_id: str) -> AsyncIterator[OpenSession]:
        """As :meth:`hold`, with the session open for writing: whoever holds it hands its calls to the committer itself.

        Raises:
            SessionNotFound, Locked, Overloaded, StorageError, NoSpace.
        """
        async with self.hold(session_id) as held:
            session = held if held is not None else await self._opened_for_holder(session_id)
            session.last_used = time.monotonic()
            yield session

    async def _opened_for_holder(self, session_id: str) -> OpenSession:
        if len(self.open) + len(self._opening) >= self._most_open and not self._close_longest_idle():
            raise Overloaded("too many sessions are being written at once; retry in a moment")
        loop = asyncio.get_running_loop()
        session = await loop.run_in_executor(self._threads, open_session, self._root, session_id)
        if self._committer.suspended is not None:  # recovery holds the sessions' locks: nobody may open one
            session.close()
            raise storage_failure(self._committer.suspended, "nothing was changed")
        self.open[session_id] = session
        return session

    async def _still(self, session_id: str) -> OpenSession | None:
        """The held session, with everything submitted before shown; None when it is not open, or gone by now."""
        if session_id in self.open:
            await self._committer.barrier()
        session = self.open.get(session_id)
        if session is not None and session.is_gone():
            self._on_gone(session)
            session = None
        await self._settle(session_id)
        return session

    def close(self, session: OpenSession) -> None:
        """Let go of a session's files and lock; the next call opens it anew."""
        if self.open.get(session.session_id) is session:
            del self.open[session.session_id]
        if not session.closed:
            session.close()

    def close_idle(self, seconds: float) -> None:
        """Close what has been clean and idle that long, so that others may write it."""
        oldest = time.monotonic() - seconds
        for session in tuple(self.open.values()):
            if session.last_used < oldest and self._may_close(session):
                self.close(session)

    def close_all(self) -> None:
        for session in tuple(self.open.values()):
            self.close(session)

    def _may_close(self, session: OpenSession) -> bool:
        busy = session.writer.seq != session.shown_seq or session.dirty or session.session_id in self._held
        return not busy and not self._committer.awaits(session)

    def _close_longest_idle(self) -> bool:
        closable = [session for session in self.open.values() if self._may_close(session)]
        if not closable:
            return False
        self.close(min(closable, key=lambda session: session.last_used))
        return True

    async def _open(self, session_id: str) -> None:
        loop = asyncio.get_running_loop()
        outcome: OpenSession | ChimeraError = InternalError(f"the session {session_id!r} could not be opened")
        try:
            await self._settle(session_id)
            outcome = await loop.run_in_executor(self._threads, open_session, self._root, session_id)
        except ChimeraError as error:
            outcome = error
        finally:
            del self._opened[session_id]
            calls = self._opening.pop(session_id)
            self._opened_as(session_id, outcome, calls)

    def _opened_as(self, session_id: str, outcome: OpenSession | ChimeraError, calls: list[AppendCall]) -> None:
        suspended = self._committer.suspended
        if suspended is not None and isinstance(outcome, OpenSession | Locked):
            if isinstance(outcome, OpenSession):
                outcome.close()
            outcome = storage_failure(suspended, "nothing was appended")
        if isinstance(outcome, ChimeraError):
            for call in calls:
                call.refuse(outcome)
            return
        self.open[session_id] = outcome
        self.dispatch(calls)

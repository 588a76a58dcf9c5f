"""Which sessions are open for writing, which are being opened, and which are held for a change.

Every call for a session goes through here to the committer, in order of arrival. Knows neither files nor the index.
"""

from __future__ import annotations

import asyncio
import logging
import resource
import time
from collections.abc import AsyncIterator
from concurrent.futures import Executor
from contextlib import asynccontextmanager

from chimera.errors import ChimeraError, InternalError, Overloaded
from chimerad.store.committer import AppendCall, Committer, storage_failure
from chimerad.store.open_sessions import OpenSession, open_session

__all__ = ["SessionRegistry"]

log = logging.getLogger(__name__)

DESCRIPTORS_KEPT_FREE = 300
DESCRIPTORS_A_SESSION = 2


class SessionRegistry:
    """The open sessions by id. On the event loop only; opening itself happens in a thread."""

    def __init__(self, root: str, committer: Committer, threads: Executor) -> None:
        self.open: dict[str, OpenSession] = {}
        self._root = root
        self._committer = committer
        self._threads = threads
        self._opening: dict[str, list[AppendCall]] = {}
        self._opened: dict[str, asyncio.Task[None]] = {}
        self._held: dict[str, list[AppendCall]] = {}
        self._turns: dict[str, asyncio.Lock] = {}
        limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        self._most_open = max((limit - DESCRIPTORS_KEPT_FREE) // DESCRIPTORS_A_SESSION, 16)

    def dispatch(self, call: AppendCall) -> None:
        """Hand a call to the committer, opening the session first where it is not open."""
        session = self.open.get(call.session_id)
        if session is not None and call.session_id not in self._held:
            session.last_used = time.monotonic()
            self._committer.submit(session, call)
        elif call.session_id in self._held:
            self._held[call.session_id].append(call)
        elif call.session_id in self._opening:
            self._opening[call.session_id].append(call)
        elif len(self.open) + len(self._opening) >= self._most_open and not self._close_longest_idle():
            call.done(Overloaded("too many sessions are being written at once; retry in a moment"))
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
        turn = self._turns.setdefault(session_id, asyncio.Lock())
        async with turn:
            if session_id in self._opened:
                await asyncio.wait([self._opened[session_id]])
            self._held[session_id] = []
            try:
                if session_id in self.open:
                    await self._committer.barrier()
                yield self.open.get(session_id)
            finally:
                waiting = self._held.pop(session_id)
                for call in waiting:
                    self.dispatch(call)
        if not turn.locked() and self._turns.get(session_id) is turn:
            del self._turns[session_id]

    def close(self, session_id: str) -> OpenSession | None:
        """Let go of a session's files and lock; the next call opens it anew."""
        session = self.open.pop(session_id, None)
        if session is not None:
            session.close()
        return session

    def close_idle(self, seconds: float) -> None:
        """Close what has been clean and idle that long, so that others may write it."""
        oldest = time.monotonic() - seconds
        for session in tuple(self.open.values()):
            if session.last_used < oldest and self._may_close(session):
                self.close(session.session_id)

    def close_all(self) -> None:
        for session_id in tuple(self.open):
            self.close(session_id)

    def _may_close(self, session: OpenSession) -> bool:
        busy = session.writer.seq != session.shown_seq or session.dirty or session.session_id in self._held
        return not busy and not self._committer.awaits(session)

    def _close_longest_idle(self) -> bool:
        closable = [session for session in self.open.values() if self._may_close(session)]
        if not closable:
            return False
        self.close(min(closable, key=lambda session: session.last_used).session_id)
        return True

    async def _open(self, session_id: str) -> None:
        loop = asyncio.get_running_loop()
        outcome: OpenSession | ChimeraError = InternalError(f"the session {session_id!r} could not be opened")
        try:
            outcome = await loop.run_in_executor(self._threads, open_session, self._root, session_id)
        except ChimeraError as error:
            outcome = error
        finally:
            del self._opened[session_id]
            calls = self._opening.pop(session_id)
            self._opened_as(session_id, outcome, calls)

    def _opened_as(self, session_id: str, outcome: OpenSession | ChimeraError, calls: list[AppendCall]) -> None:
        suspended = self._committer.suspended
        if isinstance(outcome, OpenSession) and suspended is not None:
            outcome.close()
            outcome = storage_failure(suspended, "nothing was appended")
        if isinstance(outcome, ChimeraError):
            for call in calls:
                call.done(outcome)
            return
        self.open[session_id] = outcome
        for call in calls:
            self.dispatch(call)

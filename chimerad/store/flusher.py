"""The flush: dirty session files made durable, the index committed, then journal segments dropped (store rules 6, 9).

Each second or each 8 MiB, in a thread, one at a time. Also notices sessions that were removed or touched by others.
Knows no call and no client.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor

from chimera import durable
from chimerad.store.committer import Committer
from chimerad.store.open_sessions import OpenSession
from chimerad.store.registry import SessionRegistry

__all__ = ["Flusher"]

log = logging.getLogger(__name__)

FLOOD_BYTES_A_FILE = 512 * 1024
"""A flush that is larger gives the kernel its cache back: a flood must not push out what others read (1.2x as fast)."""

CACHE_BLOCK_BYTES = 64 * 1024
"""A multiple of any page of memory."""


class Flusher:
    """A component: :meth:`start`, :meth:`stop`; :meth:`flush` whenever somebody needs one now."""

    def __init__(
        self,
        committer: Committer,
        registry: SessionRegistry,
        threads: Executor,
        *,
        interval_seconds: float,
        idle_close_seconds: float,
        commit_index: Callable[[int], Awaitable[None]],
        session_gone: Callable[[OpenSession], None],
        segments_may_go: Callable[[], Awaitable[None]],
    ) -> None:
        self.one_at_a_time = asyncio.Lock()
        self._committer = committer
        self._registry = registry
        self._threads = threads
        self._interval = interval_seconds
        self._idle_close = idle_close_seconds
        self._commit_index = commit_index
        self._session_gone = session_gone
        self._segments_may_go = segments_may_go
        self._due = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._reading_anew: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def stop(self) -> None:
        """Never in the middle of a flush: what it has taken to make durable nobody else would make durable."""
        if self._reading_anew:
            await asyncio.wait(self._reading_anew)
        async with self.one_at_a_time:
            if self._task is not None:
                self._task.cancel()
        if self._task is not None:
            await asyncio.wait([self._task])

    def hurry(self) -> None:
        """Enough has piled up: flush now rather than at the end of the interval."""
        self._due.set()

    async def flush(self) -> None:
        """Make everything that is shown now durable in its own files.

        A failure of the disk suspends the store; it is not raised here.
        """
        async with self.one_at_a_time:
            await self._flush()

    async def _run(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._due.wait(), self._interval)
            hurried = self._due.is_set()
            self._due.clear()
            try:
                if self._committer.unflushed_bytes or hurried:
                    await self.flush()
                self._registry.close_idle(self._idle_close)
            except Exception:
                log.exception("a flush failed; the next one tries again")

    async def _flush(self) -> None:
        feed = self._committer.feed
        if feed is None or self._committer.suspended is not None:
            return
        mark = self._committer.begin_flush()
        sessions = [session for session in self._registry.open.values() if session.dirty]
        gone = [session for session in sessions if session.is_gone()]
        touched = [session for session in sessions if session not in gone and session.was_touched()]
        folders = {session.folder for session in sessions if session.folder_dirty}
        dirty = [path for session in sessions for path in _take_dirty(session)]
        try:
            unreachable = await asyncio.get_running_loop().run_in_executor(
                self._threads, durable.make_durable, dirty, folders
            )
            if mark.bytes - self._committer.flushed_bytes > FLOOD_BYTES_A_FILE * len(dirty):
                await asyncio.get_running_loop().run_in_executor(self._threads, _drop_from_cache, dirty)
        except OSError as error:
            log.error("a flush failed: %s", error.strerror or error)
            self._committer.fail(error)
            return
        lacking = {os.path.dirname(path) for path, _ in unreachable} | {path for path, _ in unreachable}
        gone.extend(session for session in sessions if session.folder in lacking and session not in gone)
        for session in gone:
            self._session_gone(session)
        try:
            await self._segments_may_go()
        except OSError as error:
            log.error("what removed sessions lack could not be kept: %s", error.strerror or error)
            self._committer.fail(error)
            return
        await self._commit_index(mark.lsn)
        if self._committer.feed is not feed or self._committer.suspended is not None:
            return
        try:
            await feed.flushed(mark.lsn)
        except OSError as error:
            log.warning("a journal segment that is flushed cannot be removed: %s", error.strerror or error)
        self._committer.flushed(mark)
        self._committer.note_flushed()
        for session in touched:
            if session not in gone:
                self._read_anew_soon(session)

    def _read_anew_soon(self, session: OpenSession) -> None:
        """Not within the flush: whoever holds the session may be waiting for it."""
        task = asyncio.get_running_loop().create_task(self._read_anew(session))
        self._reading_anew.add(task)
        task.add_done_callback(self._reading_anew.discard)

    async def _read_anew(self, session: OpenSession) -> None:
        """Somebody wrote into a log that we hold: let go of it, so that the next call reads what is there."""
        log.warning("the log of %s was changed by another program; it is read anew", session.session_id)
        async with self._registry.hold(session.session_id) as held:
            if held is session:
                await self.flush()
                if not session.dirty:
                    self._registry.close(session)


def _drop_from_cache(paths: list[str]) -> None:
    """Give back the memory in which the kernel keeps these files, but for their ends, which the next appends go on."""
    if not hasattr(os, "posix_fadvise"):  # macOS
        return
    for path in paths:
        with contextlib.suppress(OSError):  # it is advice, no more
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                length = os.fstat(descriptor).st_size // CACHE_BLOCK_BYTES * CACHE_BLOCK_BYTES
                os.posix_fadvise(descriptor, 0, length, os.POSIX_FADV_DONTNEED)
            finally:
                os.close(descriptor)


def _take_dirty(session: OpenSession) -> list[str]:
    paths = [os.path.join(session.folder, name) for name in session.dirty]
    session.dirty, session.folder_dirty = set(), False
    return paths

"""The journal's segments in use: the one being written, the spare, and the full ones that wait to be flushed.

Belongs to the committer; segments are made and removed in threads. Knows frames, not sessions.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable
from concurrent.futures import Executor

from chimera import durable
from chimera.sessions.eventlog.journal import Entry, SegmentWriter, write_resting_segment

__all__ = ["SegmentFeed"]

log = logging.getLogger(__name__)


class SegmentFeed:
    """Gives every frame a place. One spare segment is always ready or being made.

    Attributes:
        failure: why no segment can be made, while that is so.
        written_lsn, synced_lsn, flushed_lsn: the frames written, durable, and no longer needed.
    """

    def __init__(self, folder: str, number: int, next_lsn: int, threads: Executor, on_ready: Callable[[], None]):
        self.folder = folder
        self.failure: OSError | None = None
        self.written_lsn = self.synced_lsn = self.flushed_lsn = next_lsn - 1
        self._number = number
        self._threads = threads
        self._on_ready = on_ready
        self._current: SegmentWriter | None = None
        self._spare: SegmentWriter | None = None
        self._full: list[SegmentWriter] = []
        self._making: asyncio.Task[None] | None = None
        self._abandoned = False

    @property
    def segments(self) -> int:
        return len(self._full) + (self._current is not None)

    def make_spare(self) -> None:
        """Start making the next segment, unless one is ready or on its way."""
        if self._spare is None and self._making is None and not self._abandoned:
            self._making = asyncio.get_running_loop().create_task(self._make())

    def has_room(self, size: int) -> bool:
        """Whether a frame with ``size`` bytes of entries can be written now; goes on to the spare where it must."""
        if self._current is not None and size <= self._current.room():
            return True
        if self._spare is None:
            self.make_spare()
            return False
        if self._current is not None:
            if self._current.last_lsn > self.synced_lsn:
                return False  # one segment is synced before the next is used
            self._full.append(self._current)
        self._current, self._spare = self._spare, None
        self._current.begin(self.written_lsn + 1, self.flushed_lsn)
        self.make_spare()
        return size <= self._current.room()

    def room(self) -> int:
        """Bytes of entries that the current segment can still take."""
        return self._current.room() if self._current is not None else 0

    def write(self, entries: list[Entry]) -> int:
        """Write one frame; returns its LSN. There must be room."""
        assert self._current is not None
        lsn = self.written_lsn + 1
        self._current.write(entries, lsn, self.synced_lsn, self.flushed_lsn)
        self.written_lsn = lsn
        return lsn

    def sync(self) -> int:
        """Make every frame written so far durable; returns the last of them. May run in a thread."""
        assert self._current is not None
        lsn = self.written_lsn
        self._current.sync()
        return lsn

    async def flushed(self, lsn: int) -> None:
        """Everything up to ``lsn`` is in the sessions' files for good: drop the segments that hold nothing else.

        The oldest first, each durably before the next, so that what is missing is always the beginning.

        Raises:
            OSError: one could not be removed; it is tried again with the next flush.
        """
        self.flushed_lsn = max(self.flushed_lsn, lsn)
        loop = asyncio.get_running_loop()
        while self._full and self._full[0].last_lsn <= self.flushed_lsn:
            await loop.run_in_executor(self._threads, durable.remove_files, [self._full[0].path])
            self._full.pop(0).close()

    async def abandon(self) -> None:
        """Close everything and never write here again; the files stay for recovery."""
        self._abandoned = True
        if self._making is not None:
            await asyncio.wait([self._making])
        for segment in (self._current, self._spare, *self._full):
            if segment is not None:
                segment.close()

    async def rest(self) -> None:
        """After the last flush of a clean stop: leave no frame, only the trace that keeps the numbers going."""
        await self.abandon()
        paths_of_all = [segment.path for segment in (self._current, self._spare, *self._full) if segment is not None]
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(
            self._threads, write_resting_segment, self.folder, self._number, self.written_lsn + 1
        )
        await loop.run_in_executor(self._threads, durable.remove_files, paths_of_all)

    async def _make(self) -> None:
        segment = SegmentWriter(self.folder, self._number)
        self._number += 1
        loop = asyncio.get_running_loop()
        try:
            await loop.run_in_executor(self._threads, self._prepare, segment)
        except OSError as error:
            log.error("no journal segment can be made: %s", error.strerror or error)
            self.failure = error
            self._making = None
            loop.call_later(1.0, self.make_spare)
        else:
            self.failure, self._spare = None, segment
            self._making = None
        self._on_ready()

    def _prepare(self, segment: SegmentWriter) -> None:
        durable.make_folder(self.folder)
        try:
            segment.prepare()
        except OSError:
            if os.path.exists(segment.path):
                durable.remove_file(segment.path)
            raise

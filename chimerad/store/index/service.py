"""The index as the event loop sees it: what the store puts in, what lists ask, and what a rescan finds.

Three threads, one call at a time in each: one writes the database, one reads what is too long for the loop, one looks
at folders. The index is a cache, so a disk that refuses it never fails a session: what could not be written is
found again by the next rescan, and a damaged file is replaced by an empty one and filled from the folders.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any, TypeVar

import msgspec

from chimera.errors import Overloaded, StorageError
from chimerad.store.index.queries import IndexReader, Listing, ListQuery, Total
from chimerad.store.index.rebuild import read_rows
from chimerad.store.index.rescan import Rescan
from chimerad.store.index.rows import SessionRow
from chimerad.store.index.schema import is_damage, open_database, open_reader, remove_database
from chimerad.store.index.stamps import NO_STAMP, Stamp
from chimerad.store.index.writer import IndexWriter

__all__ = ["IndexService", "Rebuilt"]

logger = logging.getLogger("chimerad.index")

ROWS_A_TRANSACTION = 256
LONGEST_INLINE_PAGE = 100
"""Rows that are read on the loop itself: that takes less time than a hop to a thread and back."""

Result = TypeVar("Result")


class Rebuilt(msgspec.Struct, frozen=True, kw_only=True):
    """The answer of ``index.rebuild``."""

    sessions: int
    events: int
    seconds: float


def _never_open(_session_id: str) -> bool:
    return False


def _tell_nobody(_session_ids: Sequence[str]) -> None:
    return


class IndexService:
    """Keeps ``state/index.db`` in step with the sessions.

    Args:
        path: the database file.
        root: the event-log root.
        is_open: whether the store has a session open for writing; its row then comes from the store alone.
            Called from a thread.
        on_gone: told of sessions whose folders somebody removed, after their rows are gone.
        rescan_seconds: CPU time that one call of :meth:`rescan` may take.
        patience_seconds: how long a list waits for the first scan before it says that it cannot answer yet.
    """

    def __init__(
        self,
        path: str,
        root: str,
        *,
        is_open: Callable[[str], bool] = _never_open,
        on_gone: Callable[[Sequence[str]], None] = _tell_nobody,
        rescan_seconds: float = 0.01,
        patience_seconds: float = 10.0,
    ) -> None:
        self._path = path
        self._root = root
        self._is_open = is_open
        self._on_gone = on_gone
        self._patience = patience_seconds
        self._known: dict[str, Stamp] = {}
        self._rescan = Rescan(root, self._known, is_open, rescan_seconds)
        self._ready = asyncio.Event()
        self._scanning = asyncio.Lock()
        self._written_meanwhile: set[str] = set()
        self._first_scan: asyncio.Task[None] | None = None
        self._writer: IndexWriter | None = None
        self._loop_reader: IndexReader | None = None
        self._long_reader: IndexReader | None = None
        self._write_thread = ThreadPoolExecutor(1, "index-write")
        self._read_thread = ThreadPoolExecutor(1, "index-read")
        self._scan_thread = ThreadPoolExecutor(1, "index-scan")
        self._complaint: str | None = None

    @property
    def state(self) -> str:
        """``ready``, or ``rebuilding`` until everything in the root has been looked at once."""
        return "ready" if self._ready.is_set() else "rebuilding"

    @property
    def sessions(self) -> int:
        """How many session folders there are, as far as is known."""
        return len(self._known)

    async def start(self, flushed_lsn: int = 0) -> None:
        """Open the database and begin to compare it with the folders in the background.

        Args:
            flushed_lsn: the journal's; an index that covers less is not believed, every folder is read (rule 15).

        Raises:
            StorageError: the database can neither be used nor be made.
        """
        covered = await self._in(self._write_thread, self._open)
        self._first_scan = asyncio.create_task(self._scan_all(believe=covered >= flushed_lsn))

    async def stop(self) -> None:
        """Close everything; what was committed stays."""
        if self._first_scan is not None:
            self._first_scan.cancel()
            await asyncio.gather(self._first_scan, return_exceptions=True)
        await self._close_readers()
        if self._writer is not None:
            await self._in(self._write_thread, self._writer.close)
        for thread in (self._scan_thread, self._read_thread, self._write_thread):
            await asyncio.to_thread(thread.shutdown)

    async def wait_ready(self) -> None:
        """Return when everything has been looked at once.

        Raises:
            Overloaded: that takes longer than a client should wait.
        """
        if self._ready.is_set():
            return
        try:
            async with asyncio.timeout(self._patience):
                await self._ready.wait()
        except TimeoutError:
            raise Overloaded(
                f"the index is being built, {len(self._known)} sessions so far; try again in a moment"
            ) from None

    async def page(self, query: ListQuery) -> Listing:
        """One page of ``sessions.list``.

        Raises:
            InvalidParams: a bad limit or cursor.
            Overloaded: the index is being built.
            StorageError: the index cannot be read.
        """
        short = 0 < query.limit <= LONGEST_INLINE_PAGE
        narrow = query.since_us is None and query.cwd is None and query.tag is None  # else the count may be long
        return await self._read(lambda reader: reader.page(query), inline=short and narrow)

    async def totals(self, *, flavour: str | None = None, since_us: int | None = None) -> Sequence[Total]:
        """The groups of day, model and flavour that match; raises as :meth:`page`."""
        return await self._read(lambda reader: reader.totals(flavour=flavour, since_us=since_us), inline=False)

    async def upsert(self, rows: Sequence[SessionRow]) -> None:
        """The store's own changes. Returns when a list shows them; never raises for the index's disk."""
        self._written_meanwhile.update(row.session_id for row in rows)
        await self._put(rows)

    async def remove(self, session_ids: Sequence[str]) -> None:
        """Sessions that the store moved away."""
        self._written_meanwhile.update(session_ids)
        await self._take_out(session_ids)

    async def commit(self, lsn: int) -> bool:
        """Make what was put in durable, naming the journal's LSN that it covers (rule 6).

        False when that could not be done: nothing is lost, the next start then reads every folder.
        """
        if not self._ready.is_set():
            return False
        return await self._write(lambda writer: writer.commit(lsn))

    async def refresh(self, names: Iterable[str]) -> None:
        """Look at these folders again: something says that they came, went or changed."""
        async with self._scanning:
            await self._read_again(names, self._known)

    async def rescan(self) -> None:
        """One bounded look for changes that nobody told of; to be called on a period.

        Raises:
            OSError: the root cannot be read.
        """
        if not self._ready.is_set():
            if self._first_scan is None or self._first_scan.done():
                self._first_scan = asyncio.create_task(self._scan_all(believe=True))
            return
        async with self._scanning:
            suspects = await self._in(self._scan_thread, self._rescan.tick)
            await self._read_again(suspects, self._known)

    async def rebuild(self) -> Rebuilt:
        """Throw the database away and read every folder.

        Raises:
            StorageError: the database cannot be made anew, or the root cannot be read.
        """
        started = time.monotonic()
        async with self._scanning:
            await self._start_afresh()
            try:
                await self._fill()
            except OSError as error:
                raise StorageError(f"cannot read {self._root}: {error.strerror}; check its permissions") from error
            counts = await self._read(lambda reader: reader.counts(), inline=False)
        return Rebuilt(sessions=counts.listed, events=counts.events, seconds=round(time.monotonic() - started, 3))

    async def _scan_all(self, *, believe: bool) -> None:
        """The first scan. What stops it is logged; the next rescan begins it again."""
        async with self._scanning:
            try:
                if believe:
                    await self._in(self._scan_thread, self._load_stamps)
                await self._fill()
            except (OSError, sqlite3.Error) as error:
                logger.error("the first scan of the event log failed", extra={"ctx": {"why": str(error)}})  # noqa: TRY400

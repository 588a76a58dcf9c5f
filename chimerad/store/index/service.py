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

log = logging.getLogger(__name__)

ROWS_A_TRANSACTION = 256
LONGEST_INLINE_PAGE = 100
"""Rows that are read on the loop itself: that takes less time than a hop to a thread and back."""

LOOKING_SECONDS = 10.0
LOOKING_FACTOR = 10
"""While somebody asks for lists, a rescan may take so many times its share, so that what they see is fresh."""

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
        rescan_seconds: CPU time that one call of :meth:`rescan` may take while nobody asks for lists.
        patience_seconds: how long a list waits for the first scan before it says that it cannot answer yet.
    """

    def __init__(
        self,
        path: str,
        root: str,
        *,
        is_open: Callable[[str], bool] = _never_open,
        on_gone: Callable[[Sequence[str]], None] = _tell_nobody,
        rescan_seconds: float = 0.009,
        patience_seconds: float = 10.0,
    ) -> None:
        self._path = path
        self._root = root
        self._is_open = is_open
        self._on_gone = on_gone
        self._patience = patience_seconds
        self._known: dict[str, Stamp] = {}
        self._rescan = Rescan(root, self._known, is_open)
        self._rescan_seconds = rescan_seconds
        self._asked_at = -LOOKING_SECONDS
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
        self._believed = True
        self._loaded = False
        self._complaint: str | None = None
        self._lacking: set[str] = set()  # sessions whose row the disk refused

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
        self._believed = covered >= flushed_lsn
        if not self._believed and covered:
            log.info("the index covers LSN %d, the journal %d: every session is read again", covered, flushed_lsn)
        self._first_scan = asyncio.create_task(self._scan_all())

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

    async def list(self, query: ListQuery) -> Listing:
        """One page of ``sessions.list``.

        Raises:
            InvalidParams: a bad limit or cursor.
            Overloaded: the index is being built.
            StorageError: the index cannot be read, or its disk refused what the list should show.
        """
        short = 0 < query.limit <= LONGEST_INLINE_PAGE
        quickly_counted = query.since_us is None and query.cwd is None and query.tag is None
        return await self._read(lambda reader: reader.page(query), inline=short and quickly_counted)

    async def totals(self, *, flavour: str | None = None, since_us: int | None = None) -> Sequence[Total]:
        """The groups of day, model and flavour that match; raises as :meth:`list`."""
        return await self._read(lambda reader: reader.totals(flavour=flavour, since_us=since_us), inline=False)

    async def upsert(self, rows: Sequence[SessionRow]) -> bool:
        """The store's own changes. Returns when a list shows them; False when the index's disk refused them."""
        self._written_meanwhile.update(row.session_id for row in rows)
        return await self._put(rows)

    async def remove(self, session_ids: Sequence[str]) -> bool:
        """Sessions that the store moved away; as :meth:`upsert`."""
        self._written_meanwhile.update(session_ids)
        return await self._take_out(session_ids)

    async def commit(self, lsn: int) -> bool:
        """Make what was put in durable, naming the journal's LSN that it covers (store rule 6).

        False when that could not be done: nothing is lost, the next start then reads every folder.
        """
        return self._ready.is_set() and await self._write(lambda writer: writer.commit(lsn))

    async def refresh(self, names: Iterable[str]) -> None:
        """Look at these folders again: something says that they came, went or changed."""
        async with self._scanning:
            await self._read_again(names)

    async def rescan(self) -> None:
        """One bounded look for changes that nobody told of; to be called on a period.

        Raises:
            OSError: the root cannot be read.
        """
        if not self._ready.is_set():
            await self._scan_all()
            return
        async with self._scanning:
            looking = time.monotonic() - self._asked_at < LOOKING_SECONDS
            seconds = self._rescan_seconds * (LOOKING_FACTOR if looking else 1)
            await self._read_again(await self._in(self._scan_thread, self._rescan.tick, seconds))

    async def rebuild(self) -> Rebuilt:
        """Throw the database away and read every folder.

        Raises:
            StorageError: the database cannot be made anew, or the root cannot be read.
        """
        started = time.monotonic()
        async with self._scanning:
            self._believed = False
            try:
                await self._fill()
            except OSError as error:
                raise StorageError(f"cannot read {self._root}: {error.strerror}; check its permissions") from error
        counts = await self._read(lambda reader: reader.counts(), inline=False)
        return Rebuilt(sessions=counts.listed, events=counts.events, seconds=round(time.monotonic() - started, 3))

    async def _scan_all(self) -> None:
        """The first scan. What stops it is logged; the next rescan does it again."""
        async with self._scanning:
            if self._ready.is_set():  # somebody else has done it while we waited
                return
            try:
                await self._fill()
            except (OSError, StorageError) as error:
                log.error("the event log could not be scanned; lists wait", extra={"ctx": {"why": str(error)}})
            except sqlite3.Error as error:
                self._complain(error)

    async def _fill(self) -> None:
        """Compare every folder with its row, and be ready; begins with empty tables if those there may be wrong."""
        self._ready.clear()
        self._complaint = None
        if not self._believed:
            await self._start_afresh()
        elif not self._loaded:
            await self._in(self._scan_thread, self._load_stamps)
            self._loaded = True
        slices = self._rescan.everything()
        while (suspects := await self._in(self._scan_thread, _next_of, slices)) is not None:
            await self._read_again(suspects)
        if self._believed and self._complaint is None:  # else rows are missing
            self._ready.set()

    async def _start_afresh(self) -> None:
        await self._close_readers()
        await self._in(self._write_thread, self._reopen)
        # Only now: what the store had put in before has been noted by now, and went with the old database.
        self._known.clear()
        self._lacking.clear()
        self._believed = self._loaded = True

    async def _read_again(self, names: Iterable[str]) -> None:
        self._written_meanwhile.clear()
        waiting = iter(names)
        while chunk := [*islice(waiting, ROWS_A_TRANSACTION)]:
            self._written_meanwhile.clear()
            rows, gone = await self._in(self._scan_thread, read_rows, self._root, chunk, self._known, self._is_open)
            # What the store wrote since we began to read is newer than what we read.
            await self._put([row for row in rows if row.session_id not in self._written_meanwhile])
            await self._take_out([name for name in gone if name not in self._written_meanwhile], tell=True)

    async def _put(self, rows: Sequence[SessionRow]) -> bool:
        if not rows:
            return True
        written = await self._write(lambda writer: writer.upsert(rows))
        for row in rows:
            self._known[row.session_id] = row.stamp if written else NO_STAMP
            self._rescan.note(row.session_id)
        self._note_lacking([row.session_id for row in rows], written)
        return written

    async def _take_out(self, session_ids: Sequence[str], *, tell: bool = False) -> bool:
        known = [name for name in session_ids if name in self._known]
        if not known:
            return True
        removed = await self._write(lambda writer: writer.remove(known))
        self._note_lacking(known, removed)
        if removed:
            for name in known:
                self._known.pop(name, None)
            if tell:
                self._on_gone(known)
        return removed

    def _note_lacking(self, session_ids: Sequence[str], written: bool) -> None:
        if written:
            self._lacking.difference_update(session_ids)
        else:
            self._lacking.update(session_ids)

    async def _write(self, change: Callable[[IndexWriter], None]) -> bool:
        """Whether the change was made; if not, the reason is logged once."""
        try:
            await self._in(self._write_thread, lambda: change(self._the_writer()))
        except sqlite3.Error as error:
            self._complain(error)
            return False
        self._complaint = None
        return True

    async def _read(self, question: Callable[[IndexReader], Result], *, inline: bool) -> Result:
        self._asked_at = time.monotonic()
        await self.wait_ready()
        if self._lacking:
            raise StorageError(
                f"the index lacks {len(self._lacking)} sessions, for its disk refused them; make room there and ask "
                "again, or read single sessions by their id meanwhile"
            )
        try:
            if inline:
                if self._loop_reader is None:
                    self._loop_reader = IndexReader(open_reader(self._path))
                return question(self._loop_reader)
            return await self._in(self._read_thread, self._ask_long, question)
        except sqlite3.Error as error:
            self._complain(error)
            raise StorageError(f"the index cannot be read: {error}; try again in a moment") from error

    def _ask_long(self, question: Callable[[IndexReader], Result]) -> Result:
        if self._long_reader is None:
            self._long_reader = IndexReader(open_reader(self._path))
        return question(self._long_reader)

    def _complain(self, error: sqlite3.Error) -> None:
        """Say once what is wrong; a damaged file is replaced by the next rescan."""
        if is_damage(error) and self._believed:
            self._believed = False
            self._ready.clear()
            log.error("the index is damaged and is being rebuilt", extra={"ctx": {"why": str(error)}})
        elif str(error) != self._complaint:
            self._complaint = str(error)
            log.error("the index cannot be used", extra={"ctx": {"path": self._path, "why": str(error)}})

    async def _close_readers(self) -> None:
        if self._loop_reader is not None:
            self._loop_reader.close()
            self._loop_reader = None
        await self._in(self._read_thread, self._close_long_reader)

    def _close_long_reader(self) -> None:
        if self._long_reader is not None:
            self._long_reader.close()
            self._long_reader = None

    def _the_writer(self) -> IndexWriter:
        assert self._writer is not None, "the index is used before start or after stop"
        return self._writer

    def _open(self) -> int:
        self._writer = IndexWriter(open_database(self._path, self._root))
        return self._writer.covered_lsn

    def _reopen(self) -> None:
        if self._writer is not None:
            self._writer.close()
        remove_database(self._path)
        self._open()

    def _load_stamps(self) -> None:
        reader = IndexReader(open_reader(self._path))
        try:
            for stamps in reader.stamps():
                self._known.update(stamps)
        finally:
            reader.close()

    @staticmethod
    async def _in(thread: ThreadPoolExecutor, function: Callable[..., Result], *arguments: Any) -> Result:
        return await asyncio.get_running_loop().run_in_executor(thread, function, *arguments)


def _next_of(slices: Iterator[set[str]]) -> set[str] | None:
    return next(slices, None)

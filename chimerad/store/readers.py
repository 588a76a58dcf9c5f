"""Reading sessions for clients: pages, details, verification; whether the session is open for writing or not.

Never writes. Events that are ours are forwarded as they lie; nothing is decoded to be encoded again.
"""

from __future__ import annotations

import asyncio
import os
from collections import OrderedDict
from concurrent.futures import Executor
from typing import Any

import msgspec

from chimera import paths
from chimera.errors import MalformedSummary, NoSummary, StorageError, TooLarge
from chimera.events.event import Problem
from chimera.identifiers import check_session_id
from chimera.sessions.eventlog.places import Places
from chimera.sessions.eventlog.reader import read_log
from chimera.sessions.eventlog.verify import verify_session
from chimera.sessions.summary import read_summary
from chimerad.store.open_sessions import session_not_found
from chimerad.store.registry import SessionRegistry

__all__ = ["PAGE_BYTES", "Detail", "Page", "Readers", "Verified"]

PAGE_BYTES = 8 * 1024 * 1024
CLOSED_LOGS_KEPT = 16


class Page(msgspec.Struct):
    """Some events of a session in order; ``next_seq`` is where the next page begins, or None."""

    events: list[msgspec.Raw]
    next_seq: int | None
    generation: str


class Detail(msgspec.Struct, omit_defaults=True):
    session_id: str
    path: str
    summary: dict[str, Any]
    events: list[msgspec.Raw] | None = None


class Verified(msgspec.Struct):
    sessions: int
    events: int
    problems: list[Problem]


class _ClosedLog(msgspec.Struct):
    """A session that nobody here writes, as it was when its files had these stamps."""

    stamps: tuple[object, ...]
    places: Places
    generation: str
    head_seq: int


class Readers:
    """Reads for the store. A few closed logs are kept, so that paging through one reads it once."""

    def __init__(self, root: str, registry: SessionRegistry, threads: Executor) -> None:
        self._root = root
        self._registry = registry
        self._threads = threads
        self._closed: OrderedDict[str, _ClosedLog] = OrderedDict()

    async def head(self, session_id: str) -> tuple[str, int]:
        """Generation and head of a session.

        Raises:
            InvalidId, SessionNotFound, StorageError.
        """
        session = self._registry.open.get(check_session_id(session_id))
        if session is not None and not session.is_gone():
            return session.generation, session.shown_seq
        closed = await self._closed_log(session_id)
        session = self._registry.open.get(session_id)  # it may have been opened, and appended to, while we read
        if session is not None and not session.is_gone():
            return session.generation, session.shown_seq
        return closed.generation, closed.head_seq

    async def page(
        self, session_id: str, from_seq: int, count: int, most_bytes: int = PAGE_BYTES
    ) -> tuple[list[tuple[int, bytes]], str, int]:
        """Events from ``from_seq`` on as (seq, JSON), with generation and head.

        Raises:
            InvalidId, SessionNotFound, StorageError.
        """
        check_session_id(session_id)
        try:
            return await self._page(session_id, from_seq, count, most_bytes)
        except StorageError:  # its files have been moved or changed since they were looked at: look again
            self._closed.pop(session_id, None)
            return await self._page(session_id, from_seq, count, most_bytes)

    async def _page(
        self, session_id: str, from_seq: int, count: int, most_bytes: int
    ) -> tuple[list[tuple[int, bytes]], str, int]:
        session = self._registry.open.get(session_id)
        if session is not None and not session.is_gone():
            rows = session.writer.places.read(from_seq, session.shown_seq, count, most_bytes)
            return rows, session.generation, session.shown_seq
        closed = await self._closed_log(session_id)
        rows = await asyncio.get_running_loop().run_in_executor(
            self._threads, closed.places.read, from_seq, closed.head_seq, count, most_bytes
        )
        return rows, closed.generation, closed.head_seq

    async def read(self, session_id: str, from_seq: int, limit: int) -> Page:
        """A page for ``sessions.read``: at most ``limit`` events and 8 MiB."""
        rows, generation, head_seq = await self.page(session_id, from_seq, limit)
        more = rows and rows[-1][0] < head_seq
        return Page([msgspec.Raw(event) for _, event in rows], rows[-1][0] + 1 if more else None, generation)

    async def get(self, session_id: str, with_events: bool) -> Detail:
        """A session's summary, and its events where asked.

        Raises:
            SessionNotFound, NoSummary, MalformedSummary; TooLarge: over 8 MiB of events, read them in pages.
        """
        folder = paths.session_folder(self._root, check_session_id(session_id))
        if not os.path.isdir(folder):
            raise session_not_found(session_id)
        raw, _ = read_summary(folder)
        detail = Detail(session_id, folder, raw)
        if with_events:
            rows, _, head_seq = await self.page(session_id, 1, 1 << 62)
            if rows and rows[-1][0] < head_seq:
                raise TooLarge(
                    f"the events of {session_id!r} do not fit one reply; read them in pages with sessions.read"
                )
            detail.events = [msgspec.Raw(event) for _, event in rows]
        return detail

    async def verify(self, session_ids: list[str]) -> Verified:
        """Check the logs of these sessions, each held still while it is read."""
        loop = asyncio.get_running_loop()
        verified = Verified(0, 0, [])
        for session_id in session_ids:
            folder = paths.session_folder(self._root, session_id)
            async with self._registry.hold(session_id):
                if not os.path.isdir(folder):
                    continue
                try:
                    events, problems = await loop.run_in_executor(self._threads, verify_session, folder)
                except FileNotFoundError:
                    continue  # it was removed just now
            verified.sessions += 1
            verified.events += events
            verified.problems.extend(problems)
        return verified

    def forget(self, session_id: str) -> None:
        self._closed.pop(session_id, None)

    async def _closed_log(self, session_id: str) -> _ClosedLog:
        folder = paths.session_folder(self._root, session_id)
        stamps = _stamps(folder)
        if stamps is None:
            self._closed.pop(session_id, None)
            raise session_not_found(session_id)
        closed = self._closed.get(session_id)
        if closed is None or closed.stamps != stamps:
            loop = asyncio.get_running_loop()
            closed = await loop.run_in_executor(self._threads, _load, folder, session_id, stamps)
            self._closed[session_id] = closed
            while len(self._closed) > CLOSED_LOGS_KEPT:
                self._closed.popitem(last=False)
        self._closed.move_to_end(session_id)
        return closed


def _load(folder: str, session_id: str, stamps: tuple[object, ...]) -> _ClosedLog:
    try:
        reading = read_log(folder)
    except FileNotFoundError:
        raise session_not_found(session_id) from None
    except OSError as error:
        raise StorageError(f"the session {session_id!r} cannot be read: {error.strerror or error}") from error
    generation = reading.records[0].chain.decode() if reading.records else ""
    try:
        _, view = read_summary(folder)
        generation = view.generation or generation
    except (NoSummary, MalformedSummary):
        pass  # the events are readable all the same
    return _ClosedLog(stamps, Places.of_reading(reading), generation, reading.head_seq)


def _stamps(folder: str) -> tuple[object, ...] | None:
    """What changes when anything in a session's folder does; None when there is no such folder."""
    try:
        status = os.stat(folder)
    except OSError:
        return None
    stamps: list[object] = [status.st_ino, status.st_mtime_ns]
    for name in ("events.jsonl", "summary.json"):
        try:
            file = os.stat(os.path.join(folder, name))
            stamps += [file.st_ino, file.st_mtime_ns, file.st_size]
        except OSError:
            stamps.append(None)
    return tuple(stamps)

"""The histories of sessions, for whoever wants to know where a session stands or to move it.

A piece of work gets the session's history in a thread; while it adds to it, everybody else's appends wait, so what it
decided on is what is there. A few trees are kept and extended as their logs grow. Knows no method, and of a session's
files its blobs' folder alone.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TypeVar

import msgspec

from chimera import paths
from chimera.blobs import BlobStore
from chimera.errors import LogGapError, ReadOnly
from chimera.events.check import encode_metadata
from chimera.events.event import Event
from chimera.identifiers import format_timestamp
from chimera.sessions.event_tree import EventTree
from chimera.sessions.eventlog.writer import NewEvent, check_events
from chimera.sessions.history import History
from chimera.sessions.lineage import inherited_events
from chimera.sessions.proposals import Proposal
from chimera.sessions.recorder import Recorder, event_of
from chimerad.store.batches import AppendCall, AppendOutcome, OneAnswer
from chimerad.store.open_sessions import OpenSession
from chimerad.store.readers import Readers

__all__ = ["Trees"]

TREES_KEPT = 8
EVENTS_KEPT = 200_000
"""Of all trees together."""

PAGE_EVENTS = 5000
PAGE_BYTES = 8 * 1024 * 1024
MISSING_NAMED = 1000
THREADS = 4
"""Of its own: a piece of work waits for appends, which need the store's threads."""

Result = TypeVar("Result")
_decode_lines = msgspec.json.Decoder(Event).decode_lines


class _Kept(msgspec.Struct):
    tree: EventTree
    generation: str
    head_seq: int = 0


class Trees:
    """Histories by session.

    Args:
        hold: keeps everybody else out of a session and gives it open for writing.
        submit: queues a call for a session that is held.
    """

    def __init__(
        self,
        root: str,
        readers: Readers,
        *,
        hold: Callable[[str], AbstractAsyncContextManager[OpenSession]],
        submit: Callable[[list[tuple[OpenSession, AppendCall]]], None],
    ) -> None:
        self._root = root
        self._readers = readers
        self._hold = hold
        self._submit = submit
        self._loop = asyncio.get_running_loop()
        self._threads = ThreadPoolExecutor(THREADS, "tree")
        self._kept: OrderedDict[str, _Kept] = OrderedDict()
        self._turns: dict[str, asyncio.Lock] = {}

    def stop(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    def blobs_of(self, session_id: str) -> BlobStore:
        """Where the session keeps what its files were."""
        return BlobStore(paths.blobs_folder(paths.session_folder(self._root, session_id)))

    async def look(self, session_id: str, do: Callable[[History], Result]) -> Result:
        """Let ``do`` read the session's history, in a thread.

        Raises:
            InvalidId, SessionNotFound, StorageError. LogGapError: events are missing. What ``do`` raises.
        """
        async with self._turn(session_id):
            kept = await self._caught_up(session_id)
            return await self._run(do, History(_NoRecorder(kept), tree=kept.tree))

    async def work(self, session_id: str, do: Callable[[History], Result]) -> Result:
        """Let ``do`` read and add to the session's history, in a thread; appends of others wait until it is done.

        Raises:
            what :meth:`look` and an append raise. Locked: another process writes the session; nothing was done.
        """
        async with self._turn(session_id):
            await self._caught_up(session_id)  # the most of it while others still append
            async with self._hold(session_id) as session:
                kept = await self._caught_up(session_id)
                return await self._run(do, History(_StoreRecorder(self, session, kept), tree=kept.tree))

    def append_from_thread(self, session: OpenSession, events: list[NewEvent], head_seq: int) -> AppendOutcome:
        """Append to a held session, for a piece of work; raises what an append raises."""
        size = check_events(events)
        return asyncio.run_coroutine_threadsafe(self._append(session, events, head_seq, size), self._loop).result()

    async def _append(self, session: OpenSession, events: list[NewEvent], head_seq: int, size: int) -> AppendOutcome:
        waiting = OneAnswer()
        self._submit([(session, AppendCall(session.session_id, events, head_seq, True, waiting, size=size))])
        return await waiting.future

    async def _run(self, do: Callable[[History], Result], history: History) -> Result:
        return await self._loop.run_in_executor(self._threads, do, history)

    @asynccontextmanager
    async def _turn(self, session_id: str) -> AsyncIterator[None]:
        """One piece of work at a time for a session."""
        lock = self._turns.setdefault(session_id, asyncio.Lock())
        try:
            async with lock:
                yield
        finally:
            self._trim()

    async def _caught_up(self, session_id: str) -> _Kept:
        generation, head_seq = await self._readers.head(session_id)
        kept = self._kept.get(session_id)
        if kept is None or kept.generation != generation or kept.head_seq > head_seq:
            folder = paths.session_folder(self._root, session_id)
            inherited = await self._loop.run_in_executor(self._threads, inherited_events, folder)
            kept = self._kept[session_id] = _Kept(EventTree(inherited), generation)
        self._kept.move_to_end(session_id)
        while kept.head_seq < head_seq:
            rows, page_generation, _ = await self._readers.page(session_id, kept.head_seq + 1, PAGE_EVENTS, PAGE_BYTES)
            seqs = [seq for seq, _ in rows]
            expected = list(range(kept.head_seq + 1, kept.head_seq + len(seqs) + 1))
            if not rows or page_generation != generation or seqs != expected:
                del self._kept[session_id]
                raise _gap(session_id, kept.head_seq, seqs, head_seq)
            lines = b"\n".join([event for _, event in rows])
            events = await self._loop.run_in_executor(self._threads, _decode_lines, lines)
            for event in events:
                kept.tree.add(event)
            kept.head_seq = seqs[-1]
        return kept

    def _trim(self) -> None:
        while len(self._kept) > TREES_KEPT or sum(len(one.tree.events) for one in self._kept.values()) > EVENTS_KEPT:
            self._kept.popitem(last=False)
        for session_id in [one for one, lock in self._turns.items() if not lock.locked() and one not in self._kept]:
            del self._turns[session_id]


class _NoRecorder(Recorder):
    """Of a history that is only looked at."""

    def __init__(self, kept: _Kept) -> None:
        self._kept = kept

    def load(self) -> list[Event]:
        return list(self._kept.tree.events)

    def record(self, proposals: Sequence[Proposal]) -> list[Event]:  # noqa: ARG002
        raise ReadOnly("this history is only looked at; nothing can be added to it")


class _StoreRecorder(Recorder):
    """Records through the store; used in a thread."""

    def __init__(self, trees: Trees, session: OpenSession, kept: _Kept) -> None:
        self._trees = trees
        self._session = session
        self._kept = kept

    def load(self) -> list[Event]:
        return list(self._kept.tree.events)

    def record(self, proposals: Sequence[Proposal]) -> list[Event]:
        now = format_timestamp(time.time_ns())
        encoded = [encode_metadata(proposal.metadata) for proposal in proposals]
        events = [
            NewEvent(proposal.type, msgspec.Raw(metadata), None, proposal.parent_id, now)
            for proposal, metadata in zip(proposals, encoded, strict=True)
        ]
        outcome = self._trees.append_from_thread(self._session, events, self._kept.head_seq)
        self._kept.head_seq = outcome.last_seq
        added = []
        leaf = self._kept.tree.leaf
        for number, (proposal, metadata) in enumerate(zip(proposals, encoded, strict=True)):
            event_id = outcome.ids[number]
            seq = outcome.first_seq + number
            added.append(event_of(seq, event_id, proposal, leaf, now, msgspec.json.decode(metadata)))
            leaf = event_id
        return added


def _gap(session_id: str, known: int, seqs: list[int], head_seq: int) -> LogGapError:
    """What is missing behind what is known: between the numbers that are there, or up to the head."""
    last = seqs[-1] if seqs else head_seq
    there = set(seqs)
    missing = [seq for seq in range(known + 1, last + 1) if seq not in there][:MISSING_NAMED]
    named = ", ".join(map(str, missing[:10])) + (", ..." if len(missing) > 10 else "")
    return LogGapError(
        f"the log of {session_id!r} lacks events ({named}); sessions.verify says what is wrong with it",
        missing=missing,
    )

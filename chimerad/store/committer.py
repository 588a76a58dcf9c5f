"""The lane: the one place where numbers, ids, heads and the order of everything change (store rules 1, 2, 7).

A batch is all calls that wait: numbered, one journal frame, one sync, the session files, the answers, then whoever
subscribed. One batch is in flight. Knows no socket, no summary and no index.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import time
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass, field

import msgspec

from chimera.errors import ChimeraError, NoSpace, StorageError
from chimera.identifiers import format_timestamp
from chimera.sessions.eventlog.journal import Entry
from chimera.sessions.eventlog.journal import barrier as barrier_entry
from chimera.sessions.eventlog.recovery import ONE_FOLDER_ERRORS
from chimera.sessions.eventlog.writer import NewEvent, NumberedEvents
from chimerad.store.open_sessions import OpenSession, session_not_found
from chimerad.store.segments import SegmentFeed

__all__ = ["AppendCall", "AppendOutcome", "Committer", "FlushMark", "storage_failure"]

log = logging.getLogger(__name__)

INLINE_SYNC_SECONDS = 0.001
"""A disk that syncs faster than this is synced on the loop: a thread hop costs 65 us (docs/performance.md)."""

BUFFERED_SHOW_SECONDS = 0.01
"""How long a buffered append may wait for its sync: shown within 20 ms with the sync itself."""

MAX_BATCH_BYTES = 4 * 1024 * 1024
SPACE_CHECK_BYTES = 1024 * 1024
SPACE_RESERVE_BYTES = 32 * 1024 * 1024


class AppendOutcome(msgspec.Struct):
    """The answer to an append, as the contract has it."""

    first_seq: int
    last_seq: int
    ids: list[str]
    chain: str


@dataclass(slots=True, eq=False)
class AppendCall:
    """One ``sessions.append``: its checked events, its conditions, and who waits for the answer."""

    session_id: str
    events: list[NewEvent]
    expect_seq: int | None
    durable: bool
    size: int
    done: Callable[[AppendOutcome | ChimeraError], None]


class FlushMark(msgspec.Struct, frozen=True):
    """How far a flush reaches: the LSN, and the counters of the committer at its beginning."""

    lsn: int
    bytes: int
    events: int


@dataclass(slots=True, eq=False)
class _Share:
    """What one batch adds to one session."""

    session: OpenSession
    calls: list[NumberedEvents] = field(default_factory=list)
    records: list[bytes] = field(default_factory=list)
    body: bytes = b""


@dataclass(slots=True, eq=False)
class _Batch:
    """Calls that are numbered together: in one frame, shown together."""

    shares: dict[str, _Share] = field(default_factory=dict)
    answers: list[tuple[AppendCall, AppendOutcome | ChimeraError]] = field(default_factory=list)
    barriers: list[asyncio.Future[None]] = field(default_factory=list)
    marks: list[str] = field(default_factory=list)
    wants_sync: bool = False
    frame: bool = False
    size: int = 0


@dataclass(slots=True, eq=False)
class _Barrier:
    """A place in the queue: resolved when everything before it is durable and shown.

    With a ``session_id`` a frame says that this session is about to be changed other than by appending; with
    ``frame`` one is written in any case.
    """

    reached: asyncio.Future[None]
    session_id: str | None = None
    frame: bool = False

    @property
    def needs_frame(self) -> bool:
        return self.frame or self.session_id is not None


class Committer:
    """Numbers, journals, writes, answers, publishes. All on the event loop but the sync of a slow disk.

    Attributes:
        feed: the journal; None while suspended.
        suspended: why nothing is accepted at the moment.
        finished_lsn: every frame up to it has its events in the session files.
        journalled_bytes, journalled_events: shown since the start.
        flushed_bytes, flushed_events: of these, what a flush has made durable in the session files.
    """

    def __init__(
        self,
        root: str,
        threads: Executor,
        *,
        on_shown: Callable[[OpenSession, int, list[bytes]], None],
        on_broken_session: Callable[[OpenSession, OSError], None],
        on_failure: Callable[[OSError], None],
        on_pressure: Callable[[], None],
        flush_bytes: int,
    ) -> None:
        self.feed: SegmentFeed | None = None
        self.suspended: OSError | None = None
        self.finished_lsn = 0
        self.journalled_bytes = self.journalled_events = 0
        self.flushed_bytes = self.flushed_events = 0
        self.waiting_bytes = 0
        self._root = root
        self._threads = threads
        self._on_shown = on_shown
        self._on_broken_session = on_broken_session
        self._on_failure = on_failure
        self._on_pressure = on_pressure
        self._flush_bytes = flush_bytes
        self._queue: list[tuple[OpenSession, AppendCall] | _Barrier] = []
        self._unsynced: list[_Batch] = []
        self._tick_due = False
        self._syncing = False
        self._sync_in_thread: asyncio.Future[tuple[int, float]] | None = None
        self._sync_timer: asyncio.TimerHandle | None = None
        self._sync_seconds = 0.0
        self._space_checked_at = -SPACE_CHECK_BYTES
        self._flush_began_at = 0
        self._loop = asyncio.get_running_loop()

    def use(self, feed: SegmentFeed) -> None:
        """Begin, or go on after a recovery, with a fresh journal."""
        self.feed, self.suspended = feed, None
        self.finished_lsn = feed.written_lsn
        self._space_checked_at = -SPACE_CHECK_BYTES
        feed.make_spare()
        self.wake()

    def submit(self, session: OpenSession, call: AppendCall) -> None:
        """Queue a call; it is answered exactly once."""
        if self.suspended is not None:
            call.done(storage_failure(self.suspended, "nothing was appended"))
            return
        self.waiting_bytes += call.size
        self._queue.append((session, call))
        self.wake()

    def note_flushed(self) -> None:
        """With nothing else to write, write a frame for its flushed LSN alone: what is flushed needs no recovery."""
        if self.feed is not None and self.feed.flushed_lsn == self.feed.written_lsn and not self._queue:
            self._queue.append(_Barrier(self._loop.create_future(), frame=True))
            self.wake()

    async def barrier(self, session_id: str | None = None) -> None:
        """Wait until everything submitted before is shown; see :class:`_Barrier` for ``session_id``.

        Raises:
            StorageError, NoSpace: the disk failed in between.
        """
        if self.suspended is not None:
            raise storage_failure(self.suspended, "nothing was changed")
        waiting = _Barrier(self._loop.create_future(), session_id)
        self._queue.append(waiting)
        self.wake()
        await waiting.reached

    def awaits(self, session: OpenSession) -> bool:
        """Whether a call for this very session is still in the queue."""
        return any(not isinstance(item, _Barrier) and item[0] is session for item in self._queue)

    async def sync_ended(self) -> None:
        """Wait for a sync that still runs in its thread, whatever becomes of it."""
        if self._sync_in_thread is not None:
            await asyncio.wait([self._sync_in_thread])

    def wake(self) -> None:
        """See on the next turn of the loop whether there is something to commit."""
        if not self._tick_due:
            self._tick_due = True
            self._loop.call_soon(self._tick)

    def fail(self, error: OSError) -> None:
        """The disk failed: answer everybody, accept nothing until a recovery has succeeded (store rule 7)."""
        if self.suspended is not None:
            return
        self.suspended = error
        if self._sync_timer is not None:
            self._sync_timer.cancel()
            self._sync_timer = None
        unsynced, self._unsynced = self._unsynced, []
        queue, self._queue = self._queue, []
        self.waiting_bytes = 0
        for batch in unsynced:
            self._refuse(batch, error)
        for item in queue:
            if isinstance(item, _Barrier):
                _refuse_barrier(item.reached, storage_failure(error, "nothing was changed"))
            else:
                item[1].done(storage_failure(error, "nothing was appended"))
        self._on_failure(error)

    def _tick(self) -> None:
        """One turn of the lane. A mistake of ours must not leave callers waiting: it is treated as a failed disk."""
        self._tick_due = False
        try:
            self._commit_next()
        except Exception:
            log.exception("the committer failed")
            self.fail(OSError(errno.EIO, "internal error"))

    def _commit_next(self) -> None:
        if self._syncing or not self._queue or self.suspended is not None or self.feed is None:
            return
        if not self.feed.has_room(self._size_of_next()):
            if self._unsynced:
                self._sync()
                self.wake()
            elif self.feed.failure is not None:
                self._refuse_queue(self.feed.failure)
            return  # the feed wakes us when the segment is ready
        lack = self._lack_of_space()
        if lack is not None:
            self._refuse_queue(lack)
            return
        batch = self._take_batch(self.feed.room())
        entries = _entries_of(batch)
        try:
            if entries or batch.frame:
                self.feed.write(entries)
        except OSError as error:
            self._unsynced.append(batch)
            self.fail(error)
            return
        self._unsynced.append(batch)
        self._answer_buffered(batch)
        if batch.wants_sync or not batch.shares:
            self._sync()
        elif self._sync_timer is None:
            self._sync_timer = self._loop.call_later(BUFFERED_SHOW_SECONDS, self._sync_due)
        if self._queue:
            self.wake()

    def _size_of_next(self) -> int:
        item = self._queue[0]
        return 1024 if isinstance(item, _Barrier) else item[1].size

    def _take_batch(self, room: int) -> _Batch:
        """Number the calls that fit one frame, in order of arrival."""
        batch = _Batch()
        now = format_timestamp(time.time_ns())
        most = min(room, MAX_BATCH_BYTES)
        taken = 0
        for item in self._queue:
            if isinstance(item, _Barrier):
                batch.size += 1024
                batch.barriers.append(item.reached)
                batch.wants_sync = True
                batch.frame = item.frame
                if item.session_id is not None:
                    batch.marks.append(item.session_id)
                taken += 1
                break  # what comes behind it belongs to a later batch
            session, call = item
            if batch.size + call.size > most and taken:
                break
            taken += 1
            batch.size += call.size
            self.waiting_bytes -= call.size
            _number(batch, session, call, now)
        del self._queue[:taken]
        return batch

    def _answer_buffered(self, batch: _Batch) -> None:
        """Buffered calls are answered before the sync: what they say survives a kill, not a power cut."""
        if all(call.durable for call, _ in batch.answers):
            return
        buffered = [answer for answer in batch.answers if not answer[0].durable]
        batch.answers = [answer for answer in batch.answers if answer[0].durable]
        for call, outcome in buffered:
            call.done(outcome)

    def _sync_due(self) -> None:
        self._sync_timer = None
        if not self._syncing and self.suspended is None:
            self._sync()

    def _sync(self) -> None:
        """Make all written frames durable, here or in a thread as the disk's speed advises, then show them."""
        assert self.feed is not None
        if self._sync_timer is not None:
            self._sync_timer.cancel()
            self._sync_timer = None
        if self.feed.written_lsn == self.feed.synced_lsn:
            self._finish(self.feed, self.feed.synced_lsn)
        elif self._sync_seconds > INLINE_SYNC_SECONDS:
            self._syncing = True
            self._sync_in_thread = self._loop.run_in_executor(self._threads, _timed_sync, self.feed)
            self._sync_in_thread.add_done_callback(self._synced_in_thread)
        else:
            try:
                lsn, seconds = _timed_sync(self.feed)
            except OSError as error:
                self.fail(error)
                return
            self._note_sync(seconds)
            self._finish(self.feed, lsn)

    def _synced_in_thread(self, task: asyncio.Future[tuple[int, float]]) -> None:
        self._syncing = False
        error = task.exception()
        if error is not None:
            assert isinstance(error, OSError)
            self.fail(error)
            return
        lsn, seconds = task.result()
        self._note_sync(seconds)
        if self.feed is not None and self.suspended is None:
            self._finish(self.feed, lsn)
            self.wake()

    def _note_sync(self, seconds: float) -> None:
        self._sync_seconds = seconds if self._sync_seconds == 0.0 else self._sync_seconds * 0.9 + seconds * 0.1

    def _finish(self, feed: SegmentFeed, lsn: int) -> None:
        """Show what is durable, batch by batch. A mistake of ours must not leave the other callers waiting."""
        feed.synced_lsn = lsn
        try:
            while self._unsynced:
                self._show(self._unsynced[0])
                del self._unsynced[0]
        except OSError as error:
            self.fail(error)
            return
        except Exception:
            log.exception("showing a batch failed")
            self.fail(OSError(errno.EIO, "internal error"))
            return
        self.finished_lsn = lsn
        if self.journalled_bytes - self._flush_began_at >= self._flush_bytes:
            self._flush_began_at = self.journalled_bytes
            self._on_pressure()

    def _show(self, batch: _Batch) -> None:
        """Session files, heads, answers, notifications, in this order (store rule 1).

        Raises:
            OSError: the disk refused; whoever is not answered yet is still in the batch.
        """
        for share in batch.shares.values():
            try:
                share.session.write(share.calls, share.body)
            except OSError as error:
                if error.errno not in ONE_FOLDER_ERRORS:
                    raise
                self._break_session(batch, share, error)
                continue
            self.journalled_bytes += len(share.body)
            self.journalled_events += len(share.records)
        batch.answers.reverse()
        while batch.answers:
            call, outcome = batch.answers.pop()
            call.done(outcome)
        for share in batch.shares.values():
            if share.session.shown_seq >= share.calls[-1].last_seq:
                self._on_shown(share.session, share.calls[0].first_seq, share.records)
        for barrier in batch.barriers:
            if not barrier.done():
                barrier.set_result(None)

    def _break_session(self, batch: _Batch, share: _Share, error: OSError) -> None:
        """One folder is gone or closed to us: its calls fail, the store goes on."""
        self._on_broken_session(share.session, error)
        session_id = share.session.session_id
        failure: ChimeraError = session_not_found(session_id)
        if error.errno not in (errno.ENOENT, errno.ENOTDIR):
            failure = StorageError(
                f"the session {session_id!r} cannot be written ({error.strerror}); its last events are kept in .lost"
            )
        batch.answers = [
            (call, failure if call.session_id == session_id and isinstance(outcome, AppendOutcome) else outcome)
            for call, outcome in batch.answers
        ]

    def _refuse(self, batch: _Batch, error: OSError) -> None:
        failure = storage_failure(error, "what became of the call is not known; retry with the same event ids")
        failure.details["outcome"] = "unknown"
        for call, outcome in batch.answers:
            call.done(failure if isinstance(outcome, AppendOutcome) else outcome)
        for barrier in batch.barriers:
            _refuse_barrier(barrier, failure)

    def _refuse_queue(self, error: OSError) -> None:
        """Before numbering: nothing has happened yet, so nothing needs recovery. Who only waits needs no room."""
        queue, self._queue = self._queue, []
        self.waiting_bytes = 0
        waiting: list[asyncio.Future[None]] = []
        for item in queue:
            failure = storage_failure(error, "nothing was changed")
            if not isinstance(item, _Barrier):
                item[1].done(failure)
            elif item.needs_frame:
                _refuse_barrier(item.reached, failure)
            else:
                waiting.append(item.reached)
        if waiting:
            self._unsynced.append(_Batch(barriers=waiting))
            self._sync()

    def _lack_of_space(self) -> OSError | None:
        """ENOSPC before the disk says so: what is journalled must also fit into the session files (store rule 7)."""
        if self.journalled_bytes - self._space_checked_at < SPACE_CHECK_BYTES:
            return None
        status = os.statvfs(self._root)
        if status.f_bavail * status.f_frsize < 2 * self.unflushed_bytes + SPACE_RESERVE_BYTES:
            return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._space_checked_at = self.journalled_bytes
        return None

    @property
    def unflushed_bytes(self) -> int:
        return self.journalled_bytes - self.flushed_bytes

    def begin_flush(self) -> FlushMark:
        """What a flush that begins now will cover: hand it to :meth:`flushed` when all of it is durable."""
        self._flush_began_at = self.journalled_bytes
        self._space_checked_at = -SPACE_CHECK_BYTES
        return FlushMark(self.finished_lsn, self.journalled_bytes, self.journalled_events)

    def flushed(self, mark: FlushMark) -> None:
        self.flushed_bytes, self.flushed_events = mark.bytes, mark.events


def storage_failure(error: OSError, outcome: str) -> ChimeraError:
    """The error of the contract for a disk that refused."""
    reason = error.strerror or str(error)
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return NoSpace(f"the disk has no room ({reason}); {outcome}; free some space and try again")
    return StorageError(f"the disk failed ({reason}); {outcome}; the daemon tries to recover by itself each second")


def _refuse_barrier(reached: asyncio.Future[None], failure: ChimeraError) -> None:
    if not reached.done():
        reached.set_exception(failure)
        reached.exception()  # it may be that nobody waits for this one any more


def _number(batch: _Batch, session: OpenSession, call: AppendCall, now: str) -> None:
    """Number one call into the batch, or note why it is refused."""
    if session.closed:  # it was removed while the call waited
        batch.answers.append((call, session_not_found(session.session_id)))
        return
    try:
        numbered = session.writer.number(call.events, call.expect_seq, now)
    except ChimeraError as refusal:
        batch.answers.append((call, refusal))
        return
    outcome = AppendOutcome(numbered.first_seq, numbered.last_seq, numbered.ids, numbered.chain.decode())
    batch.answers.append((call, outcome))
    batch.wants_sync = batch.wants_sync or call.durable
    if not numbered.records:
        return
    share = batch.shares.get(session.session_id)
    if share is None:
        share = batch.shares[session.session_id] = _Share(session)
    share.calls.append(numbered)
    share.records.extend(numbered.records)


def _entries_of(batch: _Batch) -> list[Entry]:
    """The batch as one frame: a run of events for ``events.jsonl``, an entry a file in the other layouts."""
    entries = [barrier_entry(session_id) for session_id in batch.marks]
    for share in batch.shares.values():
        share.records.append(b"")
        share.body = b"\n".join(share.records)
        share.records.pop()
        session_id, first = share.session.session_id, share.calls[0]
        if not share.session.writer.layout.one_file_an_event:
            entries.append(Entry(session_id, "events.jsonl", first.offset, first.first_seq, first.previous, share.body))
            continue
        for numbered in share.calls:
            previous, seq = numbered.previous, numbered.first_seq
            for record, file in zip(numbered.records, numbered.files, strict=True):
                entries.append(Entry(session_id, file, 0, seq, previous, record + b"\n"))
                previous = record[-18:-2]
                seq += 1
    return entries


def _timed_sync(feed: SegmentFeed) -> tuple[int, float]:
    started = time.perf_counter()
    lsn = feed.sync()
    return lsn, time.perf_counter() - started

"""The lane: the one place where numbers, ids, heads and the order of everything change (store rules 1, 2, 7).

Takes what waits as one batch: numbered, one journal frame, one sync, the session files, the answers, then whoever
subscribed. Knows no socket, no summary and no index.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import time
from collections.abc import Callable
from concurrent.futures import Executor

import msgspec

from chimera.errors import ChimeraError, NoSpace, StorageError
from chimera.identifiers import format_timestamp
from chimera.sessions.eventlog.recovery import ONE_FOLDER_ERRORS
from chimerad.store.batches import BARRIER_BYTES, Answer, AppendCall, Appender, AppendOutcome, Barrier, Batch, Share
from chimerad.store.open_sessions import OpenSession, session_not_found
from chimerad.store.segments import SegmentFeed

__all__ = ["Committer", "FlushMark", "storage_failure"]

log = logging.getLogger(__name__)

INLINE_SYNC_SECONDS = 0.001
"""A disk that syncs faster than this is synced on the loop: a thread hop costs 65 us (docs/architecture.md)."""

BUFFERED_SHOW_SECONDS = 0.01
"""How long a buffered append may wait for its sync: shown within 20 ms with the sync itself."""

ENOUGH_CALLS = 1024
"""So many calls are not kept waiting for others to share their sync."""

MAX_BATCH_BYTES = 4 * 1024 * 1024
SPACE_CHECK_BYTES = 1024 * 1024
SPACE_RESERVE_BYTES = 32 * 1024 * 1024


_Waiting = tuple[OpenSession, AppendCall] | Barrier


class FlushMark(msgspec.Struct, frozen=True):
    """How far a flush reaches: the LSN, and the counters of the committer at its beginning."""

    lsn: int
    bytes: int
    events: int


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
        self._queue: list[_Waiting] = []
        self._unsynced: list[Batch] = []
        self._tick_due = False
        self._waited = 0  # how many calls waited one turn ago
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

    def submit(self, calls: list[tuple[OpenSession, AppendCall]]) -> None:
        """Queue calls, each with its session; each is answered exactly once."""
        if self.suspended is not None:
            for _, call in calls:
                call.refuse(storage_failure(self.suspended, "nothing was appended"))
            return
        for _, call in calls:
            self.waiting_bytes += call.size
        self._queue.extend(calls)
        if not self._tick_due:
            self.wake()

    def commit_now(self) -> None:
        """Not on the next turn of the loop: whoever asks knows that nobody else could share the sync."""
        if self._tick_due:
            self._tick()

    def note_flushed(self) -> None:
        """With nothing else to write, write a frame for its flushed LSN alone: what is flushed needs no recovery."""
        if self.feed is not None and self.feed.flushed_lsn == self.feed.written_lsn and not self._queue:
            self._queue.append(Barrier(self._loop.create_future(), frame=True))
            self.wake()

    async def barrier(self, session_id: str | None = None) -> None:
        """Wait until everything submitted before is shown; see :class:`Barrier` for ``session_id``.

        Raises:
            StorageError, NoSpace: the disk failed in between.
        """
        if self.suspended is not None:
            raise storage_failure(self.suspended, "nothing was changed")
        waiting = Barrier(self._loop.create_future(), session_id)
        self._queue.append(waiting)
        self.wake()
        await waiting.reached

    def awaits(self, session: OpenSession) -> bool:
        """Whether a call for this very session is still in the queue."""
        return any(not isinstance(item, Barrier) and item[0] is session for item in self._queue)

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
            if isinstance(item, Barrier):
                _refuse_barrier(item.reached, storage_failure(error, "nothing was changed"))
            else:
                item[1].refuse(storage_failure(error, "nothing was appended"))
        self._on_failure(error)

    def _tick(self) -> None:
        """One turn of the lane. A mistake of ours must not leave callers waiting: it is treated as a failed disk."""
        self._tick_due = False
        if self._more_are_coming():
            self.wake()
            return
        try:
            self._commit_next()
        except Exception:
            log.exception("the committer failed")
            self.fail(OSError(errno.EIO, "internal error"))

    def _more_are_coming(self) -> bool:
        """Whether to look once more before the sync: while several wait and each turn of the loop brings others.

        Who comes now shares this sync instead of waiting for the next; somebody alone is never kept waiting.
        """
        waiting, before, self._waited = len(self._queue), self._waited, 0
        if waiting < 2 or waiting <= before or waiting >= ENOUGH_CALLS or self._syncing:
            return False
        self._waited = waiting
        return True

    def _commit_next(self) -> None:
        if self._syncing or not self._queue or self.suspended is not None or self.feed is None:
            return
        if not self.feed.has_room(_size_of(self._queue[0])):
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
        entries = batch.seal()
        try:
            if entries or batch.needs_frame:
                self.feed.write(entries)
        except OSError as error:
            self._unsynced.append(batch)
            self.fail(error)
            return
        self._unsynced.append(batch)
        _answer(batch.buffered)  # before the sync: what they say survives a kill, not a power cut
        if batch.wants_sync or not batch.shares:
            self._sync()
        elif self._sync_timer is None:
            self._sync_timer = self._loop.call_later(BUFFERED_SHOW_SECONDS, self._sync_due)
        if self._queue:
            self.wake()

    def _take_batch(self, room: int) -> Batch:
        """Number the calls that fit one frame, in order of arrival."""
        batch = Batch()
        now = format_timestamp(time.time_ns())
        most = min(room, MAX_BATCH_BYTES)
        taken = size = 0
        for item in self._queue:
            if isinstance(item, Barrier):
                if not taken or size + BARRIER_BYTES <= most:
                    batch.add_barrier(item)
                    taken += 1
                break
            session, call = item
            if taken and size + call.size > most:
                break
            size += call.size
            taken += 1
            batch.add(session, call, now)
        del self._queue[:taken]
        self.waiting_bytes -= size
        return batch

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

    def _show(self, batch: Batch) -> None:
        """Session files, heads, answers, notifications, in this order (store rule 1).

        Raises:
            OSError: the disk refused; whoever is not answered yet is still in the batch.
        """
        for share in batch.shares:
            try:
                share.session.write(share.run, share.bodies)
            except OSError as error:
                if error.errno not in ONE_FOLDER_ERRORS:
                    raise
                self._break_session(batch, share, error)
                continue
            self.journalled_bytes += sum(len(body) for _, body in share.bodies)
            self.journalled_events += len(share.run.records)
        _answer(batch.answers)
        for share in batch.shares:
            if share.session.shown_seq >= share.run.last_seq:
                self._on_shown(share.session, share.run.first_seq, share.run.records)
        for barrier in batch.barriers:
            if not barrier.done():
                barrier.set_result(None)

    def _break_session(self, batch: Batch, share: Share, error: OSError) -> None:
        """One folder is gone or closed to us: its calls fail, the store goes on."""
        self._on_broken_session(share.session, error)
        session_id = share.session.session_id
        failure: ChimeraError = session_not_found(session_id)
        if error.errno not in (errno.ENOENT, errno.ENOTDIR):
            failure = StorageError(
                f"the session {session_id!r} cannot be written ({error.strerror}); its last events are kept in .lost"
            )
        for appender, answers in batch.answers.items():
            batch.answers[appender] = [
                (call, failure if call.session_id == session_id and isinstance(outcome, AppendOutcome) else outcome)
                for call, outcome in answers
            ]

    def _refuse(self, batch: Batch, error: OSError) -> None:
        failure = storage_failure(error, "what became of the call is not known; retry with the same event ids")
        failure.details["outcome"] = "unknown"
        for appender, answers in (*batch.buffered.items(), *batch.answers.items()):
            appender.answered(
                [(call, failure if isinstance(outcome, AppendOutcome) else outcome) for call, outcome in answers]
            )
        for barrier in batch.barriers:
            _refuse_barrier(barrier, failure)

    def _refuse_queue(self, error: OSError) -> None:
        """Before numbering: nothing has happened yet, so nothing needs recovery. Who only waits needs no room."""
        queue, self._queue = self._queue, []
        self.waiting_bytes = 0
        waiting: list[asyncio.Future[None]] = []
        for item in queue:
            failure = storage_failure(error, "nothing was changed")
            if not isinstance(item, Barrier):
                item[1].refuse(failure)
            elif item.needs_frame:
                _refuse_barrier(item.reached, failure)
            else:
                waiting.append(item.reached)
        if waiting:
            self._unsynced.append(Batch(barriers=waiting))
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


def _size_of(item: _Waiting) -> int:
    return BARRIER_BYTES if isinstance(item, Barrier) else item[1].size


def _answer(answers: dict[Appender, list[Answer]]) -> None:
    """Whoever is not answered yet when this raises is still there."""
    while answers:
        appender = next(iter(answers))
        appender.answered(answers.pop(appender))


def _refuse_barrier(reached: asyncio.Future[None], failure: ChimeraError) -> None:
    if not reached.done():
        reached.set_exception(failure)
        reached.exception()  # it may be that nobody waits for this one any more


def _timed_sync(feed: SegmentFeed) -> tuple[int, float]:
    started = time.perf_counter()
    lsn = feed.sync()
    return lsn, time.perf_counter() - started

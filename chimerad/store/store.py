"""The store: what the RPC methods call. The only writer of the event log while a daemon runs.

Puts the parts together (committer, registry, flusher, readers, subscriptions, index) and says in which order they act.
All on the event loop; what blocks goes to threads.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Coroutine, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from chimera import paths
from chimera.config import Config
from chimera.errors import ChimeraError, InvalidParams, Overloaded
from chimera.identifiers import check_session_id
from chimera.sessions.eventlog.journal import read_journal
from chimera.sessions.eventlog.recovery import Recovered, keep_lost, recover_root
from chimera.sessions.eventlog.writer import check_events
from chimerad.store import lifecycle, trash
from chimerad.store.batches import AppendCall
from chimerad.store.changes import Changes
from chimerad.store.committer import Committer
from chimerad.store.flusher import Flusher
from chimerad.store.index.follower import Head, IndexFollower
from chimerad.store.index.queries import Listing, ListQuery
from chimerad.store.index.service import IndexService, Rebuilt
from chimerad.store.open_sessions import OpenSession, session_not_found
from chimerad.store.readers import Detail, Page, Readers, Verified
from chimerad.store.registry import SessionRegistry
from chimerad.store.segments import SegmentFeed
from chimerad.store.subscriptions import EVERY_SESSION, Cursor, Sink, Subscription, Subscriptions

if TYPE_CHECKING:
    from chimerad.store.trees import Trees

__all__ = ["IndexStatus", "JournalStatus", "Store", "StoreStatus"]

log = logging.getLogger(__name__)

MAX_WAITING_BYTES = 64 * 1024 * 1024
RECOVERY_SECONDS = 1.0
REPLAY_BYTES = 1024 * 1024
Result = TypeVar("Result")


class JournalStatus(msgspec.Struct):
    segments: int
    bytes: int
    unflushed_events: int


class IndexStatus(msgspec.Struct):
    state: str
    sessions: int
    lag_events: int


class StoreStatus(msgspec.Struct):
    sessions: int
    open_sessions: int
    journal: JournalStatus
    index: IndexStatus


class Store:
    """One event-log root. Its owner lock is held by whoever made the store (chimerad.daemon)."""

    def __init__(self, home: str, config: Config) -> None:
        self.root = paths.eventlog_root(home)
        self._threads = ThreadPoolExecutor(4, thread_name_prefix="store")
        self._journal_thread = ThreadPoolExecutor(1, thread_name_prefix="journal")
        self._committer = Committer(
            self.root,
            self._journal_thread,
            on_shown=self._shown,
            on_broken_session=self._broken,
            on_failure=self._failed,
            on_pressure=lambda: self._flusher.hurry(),
            flush_bytes=config.store.flush_bytes,
        )
        self._registry = SessionRegistry(
            self.root, self._committer, self._threads, on_gone=self._session_gone, settle=self._settle
        )
        self._readers = Readers(self.root, self._registry, self._threads)
        self._subscriptions = Subscriptions(self._read_for_replay, config.limits.subscriber_backlog_bytes)
        self._index = IndexService(
            paths.index_path(home),
            self.root,
            is_open=self.is_open,
            on_gone=self._folders_gone,
            rescan_seconds=config.watch.rescan_seconds,
        )
        self._indexed = IndexFollower(self.root, self._index, self._threads, self._head_of)
        self._flusher = Flusher(
            self._committer,
            self._registry,
            self._threads,
            interval_seconds=config.store.flush_interval_ms / 1000,
            idle_close_seconds=config.store.idle_close_s,
            commit_index=self._indexed.commit,
            session_gone=self._session_gone,
            segments_may_go=self._salvage,
        )
        changes = Changes(
            self.root,
            self._registry,
            self._flusher,
            self._committer,
            self._threads,
            touched=self._touched,
            moved=self._subscriptions.interrupt,
        )
        self.create, self.finish, self.fork = changes.create, changes.finish, changes.fork
        self.rename, self.tag, self.pin = changes.rename, changes.tag, changes.pin
        self.delete, self.restore = changes.delete, changes.restore
        self.trash_list, self.trash_purge = changes.trash_list, changes.trash_purge
        self._trees: Trees | None = None
        self._broken_sessions: set[str] = set()
        self._departed: dict[str, int] = {}
        self._background: set[asyncio.Task[None]] = set()
        self._stopping = False
        self._most_unflushed = config.store.max_unflushed_bytes

    # -- life of the store

    async def start(self) -> None:
        """Recover, then be ready to append. Before the socket opens."""
        recovered = await self._in_thread(self._recover)
        await self._index.start(recovered.flushed_lsn)
        self._indexed.note_all(recovered.sessions)
        self._begin(recovered)
        self._flusher.start()

    async def stop(self) -> None:
        """Show everything accepted, flush, and leave a journal without frames."""
        self._stopping = True
        if self._committer.suspended is None:
            await self._committer.barrier()
        await self._flusher.stop()
        for task in tuple(self._background):
            task.cancel()
        await self._flusher.flush()
        if self._committer.suspended is None:
            await self._committer.barrier()  # the flush may have left a frame to write
        await self._subscriptions.stop()
        feed = self._committer.feed
        if feed is not None and self._committer.suspended is None:
            await feed.rest()
            await self._index.commit(feed.written_lsn)  # the frame that notes the last flush has a number too
        self._registry.close_all()
        if self._trees is not None:
            self._trees.stop()
        await self._index.stop()
        self._threads.shutdown()
        self._journal_thread.shutdown()

    def _recover(self) -> Recovered:
        """What a start does before anything is known. In a thread."""
        lifecycle.clean_beside(self.root)
        trash.clean_trash(self.root)
        recovered = recover_root(self.root)
        for session_id in recovered.sessions:
            try:
                lifecycle.complete_recovered(paths.session_folder(self.root, session_id))
            except OSError as error:
                log.warning("the summary of %s could not be completed: %s", session_id, error.strerror or error)
        _report(recovered)
        return recovered

    def _begin(self, recovered: Recovered) -> None:
        folder = paths.journal_folder(self.root)
        feed = SegmentFeed(folder, recovered.next_number, recovered.next_lsn, self._threads, self._committer.wake)
        self._broken_sessions.clear()
        self._departed.clear()
        self._committer.use(feed)

    # -- appending

    def append(self, calls: list[AppendCall]) -> None:
        """Append the events of each call, all or nothing; its appender hears of it, at once where it is refused."""
        overload = self._overload()
        known = self._registry.open
        accepted: list[AppendCall] = []
        for call in calls:
            try:
                if call.session_id not in known:
                    check_session_id(call.session_id)
                call.size = check_events(call.events)
            except ChimeraError as refusal:
                call.refuse(refusal)
                continue
            if overload is None:
                accepted.append(call)
            else:
                call.refuse(Overloaded(f"{overload}; retry in a moment with the same event ids"))
        if accepted:
            self._registry.dispatch(accepted)

    def commit_now(self) -> None:
        """Commit what waits without looking for others to share the sync: for a client that is alone."""
        self._committer.commit_now()

    def _overload(self) -> str | None:
        """Why nothing more can be taken at the moment."""
        committer = self._committer
        if self._stopping:
            return "the daemon is stopping"
        if committer.waiting_bytes > MAX_WAITING_BYTES:
            return "too many appends are waiting"
        if committer.journalled_bytes - committer.flushed_bytes > self._most_unflushed:
            return "the disk does not keep up"
        return None

    def _shown(self, session: OpenSession, first_seq: int, records: list[bytes]) -> None:
        """After the answers: tell the subscribers, and remember what the index lacks."""
        self._indexed.note(session.session_id)
        if self._subscriptions.anybody:
            self._subscriptions.publish(session.session_id, session.generation, first_seq, records)
        if session.reopens_summary:
            session.reopens_summary = False
            self._spawn(self._reopen(session.session_id))

    def _touched(self, session_id: str) -> None:
        """A change to a session is done: the index and the readers must see it."""
        self._indexed.note(session_id)
        self._readers.forget(session_id)

    async def _reopen(self, session_id: str) -> None:
        async with self._registry.hold(session_id):
            await self._in_thread(lifecycle.reopen_recovered, paths.session_folder(self.root, session_id))
        self._touched(session_id)

    # -- reading

    async def read(self, session_id: str, from_seq: int, limit: int) -> Page:
        return await self._readers.read(session_id, from_seq, limit)

    async def get(self, session_id: str, events: bool) -> Detail:
        return await self._readers.get(session_id, events)

    async def verify(self, session_id: str | None) -> Verified:
        """Check one session, or all with what recovery has kept aside."""
        if session_id is None:
            return await self._readers.verify(sorted(self._folders()))
        if not os.path.isdir(paths.session_folder(self.root, check_session_id(session_id))):
            raise session_not_found(session_id)
        verified = await self._readers.verify([session_id])
        if not verified.sessions:
            raise session_not_found(session_id)
        return verified

    async def list_sessions(self, query: ListQuery) -> Listing:
        await self._indexed.catch_up()
        return await self._index.list(query)

    async def rebuild_index(self) -> Rebuilt:
        """Throw the index away and derive it again from the folders."""
        return await self._index.rebuild()

    async def rescan(self) -> None:
        """One bounded look for what changed behind our back."""
        await self._index.rescan()

    async def refresh(self, session_ids: Iterable[str]) -> None:
        """Look at these folders again: a hint from the watcher."""
        await self._index.refresh(session_ids)

    async def status(self) -> StoreStatus:
        feed = self._committer.feed
        unflushed = self._committer.journalled_events - self._committer.flushed_events
        return StoreStatus(
            sessions=self._index.sessions,
            open_sessions=len(self._registry.open),
            journal=JournalStatus(
                segments=feed.segments if feed is not None else 0,
                bytes=self._committer.unflushed_bytes,
                unflushed_events=unflushed,
            ),
            index=IndexStatus(
                state=self._index.state,
                sessions=self._index.sessions,
                lag_events=unflushed if self._indexed.lags else 0,
            ),
        )

    # -- where sessions stand

    @property
    def trees(self) -> Trees:
        """The trees of sessions; loaded when the first is asked for."""
        if self._trees is None:
            from chimerad.store.trees import Trees

            self._trees = Trees(self.root, self._readers, hold=self._registry.hold_open, submit=self._committer.submit)
        return self._trees

    # -- subscribing

    async def subscribe(self, session_id: str, since: Cursor | None, sink: Sink) -> Subscription:
        """Register a subscriber: everything after its cursor, then live. It is silent until started.

        Raises:
            InvalidParams: a cursor with ``*``. InvalidId, SessionNotFound.
        """
        if session_id == EVERY_SESSION:
            if since is not None:
                raise InvalidParams("since cannot go with session_id '*'; subscribe to one session, or live only")
            return self._subscriptions.add(session_id, "", 0, None, sink)
        generation, head_seq = await self._readers.head(session_id)
        return self._subscriptions.add(session_id, generation, head_seq, since, sink)

    def unsubscribe(self, subscription: str, sink: Sink) -> bool:
        return self._subscriptions.remove(subscription, sink)

    def drop_sink(self, sink: Sink) -> None:
        """A connection has closed."""
        self._subscriptions.drop_sink(sink)

    async def _read_for_replay(self, session_id: str, from_seq: int, count: int) -> tuple[list[tuple[int, bytes]], str]:
        rows, generation, _ = await self._readers.page(session_id, from_seq, count, REPLAY_BYTES)
        return rows, generation

    # -- what others do to the files

    def is_open(self, session_id: str) -> bool:
        return session_id in self._registry.open

    def _head_of(self, session_id: str) -> Head | None:
        session = self._registry.open.get(session_id)
        return None if session is None else (session.shown_seq, session.summary)

    def _folders_gone(self, session_ids: Sequence[str]) -> None:
        """Somebody removed sessions; those that we write are found gone by the flush."""
        for session_id in session_ids:
            self._readers.forget(session_id)
            if not self.is_open(session_id):
                self._subscriptions.interrupt(session_id)

    # -- the disk

    def _broken(self, session: OpenSession, error: OSError) -> None:
        """A session's folder refuses us: it alone is closed, what it lacks goes to .lost with the next flush."""
        log.warning("the session %s is closed: %s", session.session_id, error.strerror or error)
        self._let_go(session)

    def _session_gone(self, session: OpenSession) -> None:
        """A session that was open for writing was removed or replaced (store rule 9)."""
        log.warning("the folder of %s was removed while it was being written", session.session_id)
        self._let_go(session)

    def _let_go(self, session: OpenSession) -> None:
        session_id = session.session_id
        self._broken_sessions.add(session_id)
        if self._committer.feed is not None:
            self._departed[session_id] = self._committer.feed.written_lsn
        self._registry.close(session)
        self._readers.forget(session_id)
        self._subscriptions.interrupt(session_id)
        self._indexed.note(session_id)
        self._flusher.hurry()

    async def _settle(self, session_id: str) -> None:
        """See to it that recovery will not put what a removed session had into another one of the same id."""
        if session_id in self._departed:
            await self._committer.barrier()
            await self._flusher.flush()
            await self._committer.barrier(session_id)
            self._departed.pop(session_id, None)

    async def _salvage(self) -> None:
        """Before segments go: what a removed session has in the journal alone is kept in .lost."""
        if self._broken_sessions:
            broken = set(self._broken_sessions)
            await self._in_thread(_keep_unflushed, self.root, broken)
            self._broken_sessions -= broken
        feed = self._committer.feed
        flushed = feed.flushed_lsn if feed is not None else 0
        self._departed = {session_id: lsn for session_id, lsn in self._departed.items() if lsn > flushed}

    def _failed(self, error: OSError) -> None:
        """The committer is suspended: drop what is in memory and recover until it succeeds (store rule 7)."""
        log.error("the store is suspended: %s", error.strerror or error)
        self._registry.close_all()
        self._spawn(self._recover_until_done())

    async def _recover_until_done(self) -> None:
        await self._committer.sync_ended()
        feed = self._committer.feed
        if feed is not None:
            await feed.abandon()
        while True:
            await asyncio.sleep(RECOVERY_SECONDS)
            try:
                async with self._flusher.one_at_a_time:
                    recovered = await self._in_thread(recover_root, self.root)
            except (ChimeraError, OSError) as error:
                log.error("recovery has not succeeded yet: %s", error)
                continue
            break
        _report(recovered)
        self._begin(recovered)
        self._indexed.note_all(recovered.sessions)
        for session_id in recovered.sessions:
            self._readers.forget(session_id)
        self._subscriptions.interrupt()
        log.warning("the store has recovered and goes on")

    # -- helpers

    def _folders(self) -> set[str]:
        with os.scandir(self.root) as entries:
            return {entry.name for entry in entries if not entry.name.startswith(".") and entry.is_dir()}

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._background.add(task)
        task.add_done_callback(self._spawned_ended)

    def _spawned_ended(self, task: asyncio.Task[None]) -> None:
        self._background.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.error("work in the background failed", exc_info=task.exception())

    async def _in_thread(self, work: Callable[..., Result], *arguments: Any) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work, *arguments)


def _report(recovered: Recovered) -> None:
    for session_id, reason in recovered.lost.items():
        log.warning("acknowledged events of %s were kept in .lost: %s", session_id, reason)
    for sentence in recovered.damaged:
        log.error("%s; the journal was kept in .lost", sentence)


def _keep_unflushed(root: str, session_ids: set[str]) -> None:
    """Copy what the journal still holds of these sessions to ``.lost``. In a thread."""
    bodies: dict[str, list[bytes]] = {}
    for frame in read_journal(paths.journal_folder(root)).frames:
        for entry in frame.entries:
            if entry.session_id in session_ids:
                bodies.setdefault(entry.session_id, []).append(entry.body)
    for session_id, parts in bodies.items():
        keep_lost(root, session_id, b"".join(parts))

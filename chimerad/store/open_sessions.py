"""The sessions that are open for writing: each with its lock, its writer and what its head is known to be.

Opening reads the log and takes the lock in a thread; everything else happens on the event loop. Knows neither the
journal nor the index's database.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from dataclasses import dataclass, field

from chimera import durable, paths
from chimera.errors import MalformedSummary, NoSummary, SessionNotFound, StorageError
from chimera.flavours import FLAVOURS, origin_of
from chimera.sessions.eventlog.layouts import LINES_FILE
from chimera.sessions.eventlog.locks import SessionLock
from chimera.sessions.eventlog.writer import Run, SessionWriter
from chimera.sessions.summary import read_summary
from chimerad.store.index.rebuild import SeenSummary

__all__ = ["OpenSession", "open_session", "session_not_found"]


@dataclass(slots=True, eq=False)
class OpenSession:
    """A session that this daemon writes.

    Attributes:
        shown_seq: the last event that is durable and in the files; ``writer.seq`` may be ahead of it.
        own_generation: as its summary has it.
        descriptor: ``events.jsonl`` opened for appending; -1 while closed or in other layouts.
        dirty: the files written since the last flush.
        folder_dirty: the folder may hold a file that is not durable in it yet.
        closed: it was let go of; nothing is written through it any more.
        touched: a line of somebody else's was met in the log.
        summary: as it was last read for the index.
        reopens_summary: its summary was derived after a crash; the next append makes it provisional no more.
    """

    session_id: str
    folder: str
    lock: SessionLock
    writer: SessionWriter
    own_generation: str | None
    shown_seq: int
    folder_inode: tuple[int, int]
    descriptor: int = -1
    last_used: float = 0.0
    shown_chain: bytes = b""
    shown_size: int = 0
    dirty: set[str] = field(default_factory=set)
    folder_dirty: bool = True
    closed: bool = False
    touched: bool = False
    reopens_summary: bool = False
    summary: SeenSummary = field(default_factory=SeenSummary)

    @property
    def generation(self) -> str:
        """Names the history that readers see; without one of its own, the first event's chain (store rule 13)."""
        return self.own_generation or (self.writer.first_chain or b"").decode()

    def write(self, run: Run, bodies: list[tuple[str, bytes]]) -> None:
        """Put a run into the session's files: plain writes, nothing synced. ``bodies``: its own.

        Raises:
            OSError: nothing more of this run is shown; recovery writes what the journal holds of it.
        """
        if self.closed:
            raise FileNotFoundError(errno.ENOENT, "the session was removed", self.folder)
        shift = 0
        if run.files:
            for file, body in bodies:
                self._write_event_file(file, body)
                self.dirty.add(file)
            self.folder_dirty = True
        else:
            shift = self._append(bodies[0][1]) - run.offset
            self.dirty.add(LINES_FILE)
        self.writer.written(run, shift)
        self.shown_seq, self.shown_chain = run.last_seq, run.chain

    def close(self) -> None:
        """Let go of files and lock."""
        self.closed = True
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1
        self.lock.release()

    def is_gone(self) -> bool:
        """Whether somebody removed or replaced the folder or the log under us (store rule 9)."""
        try:
            if _identity(os.stat(self.folder)) != self.folder_inode:
                return True
            if self.descriptor < 0:
                return False
            there = os.stat(os.path.join(self.folder, LINES_FILE))
        except OSError:
            return True
        return _identity(there) != _identity(os.fstat(self.descriptor))

    def was_touched(self) -> bool:
        """Whether somebody else added to the log, or replaced the lock, while we held it. Only between batches."""
        if self.touched or not self.lock.still_held():
            return True
        return self.descriptor >= 0 and os.fstat(self.descriptor).st_size != self.shown_size

    def open_files(self) -> None:
        """Open what appends go to. O_APPEND: a line that a stranger added meanwhile is never written over."""
        if not self.writer.layout.one_file_an_event:
            path = os.path.join(self.folder, LINES_FILE)
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
            self.descriptor = os.open(path, flags, paths.FILE_MODE)
            if not stat.S_ISREG(os.fstat(self.descriptor).st_mode):
                raise OSError(errno.ENXIO, "events.jsonl is no regular file", path)

    def _append(self, body: bytes) -> int:
        """Append; returns where it came to lie, which is not where we think if somebody else added to the file."""
        written = os.write(self.descriptor, body)
        if written != len(body):
            durable.write_all(self.descriptor, memoryview(body)[written:])
        end = os.lseek(self.descriptor, 0, os.SEEK_CUR)
        foreign = end - len(body) - self.shown_size
        if foreign:
            self.touched = True
            self.writer.size += foreign
        self.shown_size = end
        return end - len(body)

    def _write_event_file(self, file: str, body: bytes) -> None:
        path = os.path.join(self.folder, file)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, paths.FILE_MODE)
        try:
            durable.write_all(descriptor, body)
        finally:
            os.close(descriptor)


def open_session(root: str, session_id: str) -> OpenSession:
    """Lock a session, read its log and settle its tail. Blocking: runs in a thread.

    Raises:
        SessionNotFound, Locked, StorageError.
    """
    folder = paths.session_folder(root, session_id)
    if not os.path.isdir(folder):
        raise session_not_found(session_id)
    lock = SessionLock(folder)
    try:
        lock.acquire()
        try:
            return _read_under_lock(folder, session_id, lock)
        except BaseException:
            lock.release()
            raise
    except FileNotFoundError:
        raise session_not_found(session_id) from None
    except OSError as error:
        raise StorageError(
            f"the session {session_id!r} cannot be opened for writing: {error.strerror or error}; check its folder"
        ) from error


def session_not_found(session_id: str) -> SessionNotFound:
    return SessionNotFound(f"session not found: {session_id}; 'chimera sessions list' shows those that are there")


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def _read_under_lock(folder: str, session_id: str, lock: SessionLock) -> OpenSession:
    generation, layout, reopens, forked = None, None, False, False
    try:
        _, view = read_summary(folder)
        generation, layout, reopens = view.generation, view.layout, view.recovered
        forked = view.parent_session is not None
    except (NoSummary, MalformedSummary):
        pass  # a folder that others made, or one that lost its summary, can be appended to all the same
    if layout is None:
        flavour = FLAVOURS.get(origin_of(session_id))
        layout = flavour.layout if flavour else "jsonl"
    writer = SessionWriter.open(folder, session_id, layout if layout != "packed" else "jsonl")
    if forked:
        from chimera.sessions.lineage import inherit

        inherit(writer)
    if writer.seq or generation is None:
        # others may have written what is there and never synced it: nothing that we answer for may hang behind it
        durable.sync_folder(os.path.dirname(folder))
        durable.make_durable(os.path.join(folder, name) for name in writer.places.files())
    session = OpenSession(
        session_id=session_id,
        folder=folder,
        lock=lock,
        writer=writer,
        own_generation=generation,
        shown_seq=writer.seq,
        shown_chain=writer.chain,
        shown_size=writer.size,
        folder_inode=_identity(os.stat(folder)),
        last_used=time.monotonic(),
        reopens_summary=reopens,
    )
    try:
        session.open_files()
    except OSError:
        session.close()
        raise
    return session

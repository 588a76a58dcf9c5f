"""``EventLog``: one session's log for programs that embed the library.

Appends take the session's lock and are synced as asked; when a daemon owns the event-log root they go through it
instead. Indices are 0-based (``seq`` - 1). Knows nothing of messages, turns or trees.
"""

from __future__ import annotations

import contextlib
import errno
import os
import time
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from operator import attrgetter
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import msgspec

from chimera import durable, paths
from chimera.errors import (
    ChimeraError,
    DaemonUnreachable,
    DaemonWedged,
    InvalidParams,
    Locked,
    NoSpace,
    Overloaded,
    OwnerRunning,
    SessionExists,
    StorageError,
    WrongVersion,
)
from chimera.events.chain import CHAIN_START
from chimera.events.check import encode_metadata
from chimera.events.event import Event, Problem
from chimera.flavours import FLAVOURS, origin_of
from chimera.identifiers import check_session_id, format_timestamp, new_event_id
from chimera.sessions.eventlog.journal import SECTOR, list_segments
from chimera.sessions.eventlog.layouts import LINES_FILE, PACKED_FILE
from chimera.sessions.eventlog.locks import POLL_SECONDS, Owner, OwnerLock, SessionLock, living_owner, wait_for_owner
from chimera.sessions.eventlog.reader import read_log, require_whole
from chimera.sessions.eventlog.records import LogReading, Record, events_of
from chimera.sessions.eventlog.recovery import journal_waits, recover_root
from chimera.sessions.eventlog.unsynced import Unsynced
from chimera.sessions.eventlog.writer import AppendOutcome, NewEvent, Run, SessionWriter, check_events

__all__ = ["EventLog", "Fsync"]

Fsync = Literal["event", "turn", "never"]
TURN_ENDS = frozenset({"turn_end", "agent_result", "cancelled", "error"})
"""Events after which ``fsync="turn"`` syncs."""

PAGE_EVENTS = 1000
"""A replay decodes so many at once, and holds no more."""

WAIT_SECONDS = 30.0
ASK_OWNER_SECONDS = 1.0


class EventLog:
    """The append-only log in ``directory``, one session's folder.

    Args:
        directory: the session's folder; a leading ``~`` is expanded. It is made at the first append.
        fsync: without a daemon, when appends reach the disk: each (``event``), at the end of a turn (``turn``), or
            when the system pleases (``never``). A daemon always makes them durable.
        layout: for a log without events; by default the one of the session's flavour.

    Raises:
        InvalidId: the folder's name is no session id.
    """

    def __init__(self, directory: str | Path, *, fsync: Fsync = "event", layout: str | None = None) -> None:
        if fsync not in ("event", "turn", "never"):
            raise InvalidParams(f"fsync is {fsync!r}; it must be 'event', 'turn' or 'never'")
        self.directory = os.path.abspath(os.path.expanduser(os.fspath(directory)))
        self.session_id = check_session_id(os.path.basename(self.directory))
        self._root = os.path.dirname(self.directory)
        self._fsync = fsync
        flavour = FLAVOURS.get(origin_of(self.session_id))
        self._layout = layout or (flavour.layout if flavour else "jsonl")
        self._writer: SessionWriter | None = None
        self._writer_stamp: tuple[object, ...] = ()
        self._unsynced = Unsynced()
        self._records: list[Record] = []
        self._by_id: dict[str, Record] | None = None
        self._reading: LogReading | None = None
        self._stamp: tuple[object, ...] = ()

    # -- reading

    @property
    def length(self) -> int:
        """How many events the log holds."""
        return len(self._read().records)

    def __len__(self) -> int:
        return self.length

    @property
    def last_index(self) -> int:
        """The index of the newest event; -1 for an empty log."""
        return self._read().head_seq - 1

    @property
    def problems(self) -> list[Problem]:
        """What is wrong with the files; reading goes on around it."""
        return list(self._read().problems)

    @property
    def missing(self) -> list[int]:
        """Numbers (``seq``) of events that are missing from the log."""
        return list(self._read().missing)

    def get_by_index(self, index: int) -> Event:
        """The event with this 0-based index; raises IndexError when there is none."""
        records = self._read().records
        position = bisect_left(records, index + 1, key=_seq_of)
        if position == len(records) or records[position].seq != index + 1:
            raise IndexError(f"the log {self.session_id!r} has no event with index {index}")
        return records[position].event()

    def get_by_id(self, event_id: str) -> Event | None:
        """The event with this id, or None."""
        records = self._read().records
        if self._by_id is None:
            self._by_id = {record.event_id: record for record in records}
        record = self._by_id.get(event_id)
        return record.event() if record is not None else None

    def get_range(self, start: int, end: int) -> list[Event]:
        """Events with ``start <= index < end``."""
        records = self._read().records
        first = bisect_left(records, start + 1, key=_seq_of)
        return events_of(records[first : bisect_left(records, end + 1, key=_seq_of)])

    def get_since(self, index: int) -> list[Event]:
        """Events from ``index`` on, that one included."""
        records = self._read().records
        return events_of(records[bisect_left(records, index + 1, key=_seq_of) :])

    def replay(self) -> Iterator[Event]:
        """Every event in order.

        Raises:
            LogGapError: events are missing; ``missing`` holds their numbers. Nothing has been given then.
        """
        reading = self._read()
        require_whole(reading)
        pages = (reading.records[at : at + PAGE_EVENTS] for at in range(0, len(reading.records), PAGE_EVENTS))
        return (event for page in pages for event in events_of(page))

    # -- appending

    def append(
        self,
        event: str | Event,
        metadata: dict[str, Any] | None = None,
        *,
        event_id: str | None = None,
        parent_id: str | msgspec.UnsetType | None = msgspec.UNSET,
        ts: str | None = None,
    ) -> int:
        """Append one event, given by its type and metadata or as an :class:`Event`; returns its 0-based index.

        The id may also stand in ``metadata["event_id"]``. The same id with the same content is acknowledged again.

        Raises:
            InvalidParams, InvalidId, EventTooLarge, IdConflict: nothing was appended.
            Locked: another process has held the session for 30 s.
            NoSpace, StorageError: the disk refused; what became of the event is not known.
        """
        if isinstance(event, Event):
            new = _new_event(event.type, event.metadata, event.id, event.parent_id, event.ts or None)
        else:
            new = _new_event(event, metadata or {}, event_id, parent_id, ts)
        return self.append_new([new])[0]

    def extend(self, events: Iterable[Event]) -> list[int]:
        """Append several events, all or none; returns their indices."""
        return self.append_new(
            [_new_event(one.type, one.metadata, one.id, one.parent_id, one.ts or None) for one in events]
        )

    def sync(self) -> None:
        """Make everything appended so far durable, whatever ``fsync`` says.

        Raises:
            OSError: it is not; the next append writes the same bytes again before it syncs.
        """
        self._unsynced.sync()

    def close(self) -> None:
        """Sync what ``fsync="turn"`` still holds back."""
        if self._fsync != "never":
            self.sync()

    def __enter__(self) -> EventLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def append_new(self, events: list[NewEvent]) -> list[int]:
        """As :meth:`extend`, for events that are in no log yet."""
        check_events(events)
        for event in events:
            event.id = event.id or new_event_id()  # a retry through the daemon must not append twice
        deadline = time.monotonic() + WAIT_SECONDS
        while True:
            owner = wait_for_owner(self._root, WAIT_SECONDS)
            if owner is not None:
                indices = self._append_through_daemon(owner, events, deadline)
            elif _segments_wait(self._root) and not self._recover():
                continue  # a daemon has taken over and recovers itself
            else:
                indices = self._append_without_daemon(events)
            if indices is not None:
                return indices

    def _append_without_daemon(self, events: list[NewEvent]) -> list[int] | None:
        try:
            return self._append_to_files(events)
        except OSError as error:
            reason = error.strerror or str(error)
            kind = NoSpace if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) else StorageError
            raise kind(
                f"the disk refused the append ({reason}); retry with the same event id", outcome="unknown"
            ) from error

    def _append_to_files(self, events: list[NewEvent]) -> list[int] | None:
        """The indices; None when a daemon owns the root by now and should be asked instead."""
        durable.make_folder(self.directory)
        lock = SessionLock(self.directory)
        if not self._lock(lock):
            return None
        try:
            self._unsynced.write_again()
            writer = self._writer_under_lock(lock)
            have_read_all = self._reading is not None and self._stamp == _stamp(self.directory)
            self._writer = None  # an interrupt in here leaves its head ahead of the files
            outcome = writer.number(events, None, format_timestamp(time.time_ns()))
            run = writer.end_run()
            if run is not None:
                lock.mark = run.chain
                self._write(writer, run)
                self._writer_stamp = _stamp(self.directory)
                if have_read_all:
                    self._note(run, outcome.ids)
                    self._stamp = self._writer_stamp
            elif self._fsync == "event":
                self._sync_again(writer, outcome)
            self._writer = writer
        finally:
            lock.release()
        return list(range(outcome.first_seq - 1, outcome.last_seq))

    def _sync_again(self, writer: SessionWriter, outcome: AppendOutcome) -> None:
        """A repeated append: whoever wrote these events may have died before it synced them."""
        files = {writer.places.file_of(seq) for seq in range(outcome.first_seq, outcome.last_seq + 1)}
        for file in files - {None, PACKED_FILE}:
            self._unsynced.note(os.path.join(self.directory, str(file)), 0)
        self.sync()

    def _lock(self, lock: SessionLock) -> bool:
        """Take the session's lock; False when a daemon owns the root by now and should be asked instead."""
        deadline = time.monotonic() + WAIT_SECONDS
        while True:
            try:
                lock.acquire(ASK_OWNER_SECONDS)
                return True
            except Locked:
                if living_owner(self._root) is not None:
                    return False
                if time.monotonic() > deadline:
                    raise

    def _writer_under_lock(self, lock: SessionLock) -> SessionWriter:
        """The writer, read anew when somebody else has appended since."""
        writer = self._writer
        if writer is None or self._writer_stamp != _stamp(self.directory) or lock.mark != writer.chain:
            known = writer.seq if writer is not None else 0
            writer = self._writer = SessionWriter.open(self.directory, self.session_id, self._layout)
            if os.path.exists(paths.summary_path(self.directory)):
                from chimera.sessions.lineage import inherit  # it reads logs itself

                inherit(writer)
            if self._fsync != "never":
                self._build_on(writer, known)
        return writer

    def _build_on(self, writer: SessionWriter, known: int) -> None:
        """What others wrote, the folder itself among it, may be in the page cache alone: our syncs cover it too.

        Else a power cut could take the event before one that we answered for.
        """
        if not known:
            durable.sync_folder(self._root)
        if writer.layout.one_file_an_event:
            for file in writer.places.files(known + 1) - {PACKED_FILE}:
                self._unsynced.note(os.path.join(self.directory, file), 0)

    def _write(self, writer: SessionWriter, run: Run) -> None:
        for file, body in run.bodies():
            path = os.path.join(self.directory, file)
            self._unsynced.note(path, run.offset)
            _write_plainly(path, body)
        writer.written(run)
        if self._fsync == "event" or (self._fsync == "turn" and self._ends_turn(run)):
            self.sync()

    def _ends_turn(self, run: Run) -> bool:
        return any(msgspec.json.decode(record, type=_TypeOnly).type in TURN_ENDS for record in run.records)

    def _append_through_daemon(self, owner: Owner, events: list[NewEvent], deadline: float) -> list[int] | None:
        """The daemon that owns the root appends for us; it makes the session where it is not there.

        None when it should be asked again, or is no more: it starts or stops, it was lost before it answered, or it
        has too much to do.
        """
        from chimera.client.blocking import Client

        try:
            with Client(socket_path=owner.socket, start=False) as client:
                if not os.path.isdir(self.directory):
                    with contextlib.suppress(SessionExists):
                        client.call("sessions.create", session_id=self.session_id, layout=self._layout)
                wire_forms = [_wire_form(event) for event in events]
                outcome = client.call("sessions.append", session_id=self.session_id, events=wire_forms)
        except (DaemonWedged, WrongVersion):
            raise
        except ChimeraError as error:
            passing = isinstance(error, DaemonUnreachable | Overloaded) or error.details.get("outcome") == "unknown"
            if not passing or time.monotonic() > deadline:
                raise
            time.sleep(POLL_SECONDS)
            return None
        self._stamp = ()
        self._writer = None
        return list(range(outcome["first_seq"] - 1, outcome["last_seq"]))

    def _recover(self) -> bool:
        """A daemon died and left acknowledged events in its journal: they come first. False when a daemon is back."""
        if not journal_waits(self._root):
            return True
        owner = OwnerLock(self._root)
        try:
            owner.acquire()
        except OwnerRunning:
            return False
        try:
            recover_root(self._root)
        finally:
            owner.release()
        return True

    # -- what is known of the files

    def _read(self) -> LogReading:
        """The log as it lies now; read again when somebody else has changed it."""
        stamp = _stamp(self.directory)
        if self._reading is None or stamp != self._stamp:
            self._reading = read_log(self.directory) if stamp else _empty_reading(self.directory)
            self._stamp = stamp
            self._by_id = None
        return self._reading

    def _note(self, run: Run, ids: list[str]) -> None:
        """Add what we wrote ourselves to what we have read, so that it need not be read again."""
        assert self._reading is not None
        files = run.files or [LINES_FILE] * len(ids)
        offset = run.offset
        for seq, (event_id, record, file) in enumerate(zip(ids, run.records, files, strict=True), run.first_seq):
            in_file = 0 if run.files else offset
            noted = Record(seq, record, file, in_file, record[-18:-2], True, event_id)
            self._reading.records.append(noted)
            if self._by_id is not None:
                self._by_id[event_id] = noted
            self._reading.leaf_id = event_id
            offset += len(record) + 1
        self._reading.head_seq, self._reading.head_chain = run.last_seq, run.chain


_seq_of = attrgetter("seq")


class _TypeOnly(msgspec.Struct):
    type: str


def _new_event(
    event_type: str,
    metadata: dict[str, Any],
    event_id: str | None,
    parent_id: str | msgspec.UnsetType | None,
    ts: str | None,
) -> NewEvent:
    given = metadata.get("event_id")
    if event_id is None and isinstance(given, str):
        event_id = given
    return NewEvent(event_type, msgspec.Raw(encode_metadata(metadata)), event_id, parent_id, ts)


def _wire_form(event: NewEvent) -> dict[str, Any]:
    """The event as ``sessions.append`` takes it."""
    form: dict[str, Any] = {"type": event.type, "metadata": msgspec.json.decode(event.metadata), "id": event.id}
    if event.parent_id is not msgspec.UNSET:
        form["parent_id"] = event.parent_id
    if event.ts is not None:
        form["ts"] = event.ts
    return form


def _write_plainly(path: str, body: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW, paths.FILE_MODE)
    try:
        durable.write_all(descriptor, body)
    finally:
        os.close(descriptor)


def _stamp(directory: str) -> tuple[object, ...]:
    """What changes with any append, by whomever; () when there is no such folder."""
    try:
        folder = os.stat(directory)
    except FileNotFoundError:
        return ()
    try:
        lines = os.stat(os.path.join(directory, LINES_FILE))
    except FileNotFoundError:
        return (folder.st_ino, folder.st_mtime_ns)
    return (folder.st_ino, folder.st_mtime_ns, lines.st_ino, lines.st_size, lines.st_mtime_ns)


def _segments_wait(root: str) -> bool:
    """A quick look whether the journal may hold frames: a segment bigger than the trace of a clean stop."""
    try:
        return any(os.path.getsize(path) > SECTOR for _, path in list_segments(paths.journal_folder(root)))
    except FileNotFoundError:
        return True  # a daemon starts or stops at this moment


def _empty_reading(directory: str) -> LogReading:
    return LogReading(directory, None, 1, 1, [], [], [], [], None, 0, 0, CHAIN_START, None)

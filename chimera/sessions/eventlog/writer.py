"""The state of one session that is open for appending: numbers, ids, chain, leaf, and where the next record goes.

Numbering is pure and all or nothing; writing puts numbered records into the session's files without syncing them.
The caller holds the session's lock and decides about durability: ``EventLog`` syncs the files, the daemon's
committer its journal. Knows neither of them.
"""

from __future__ import annotations

import os
from collections import deque
from itertools import pairwise
from typing import Annotated, Any

import msgspec
from msgspec import UNSET

from chimera import durable, paths
from chimera.errors import IdConflict, InvalidParams, SeqConflict, TooLarge
from chimera.events.chain import CHAIN_START, encode_record, stated_chain
from chimera.events.check import check_metadata, check_timestamp
from chimera.identifiers import check_event_id, check_event_type, new_event_id
from chimera.sessions.eventlog.layouts import LAYOUTS, LINES_FILE
from chimera.sessions.eventlog.older_shapes import DECODE_ERRORS
from chimera.sessions.eventlog.places import Places
from chimera.sessions.eventlog.reader import LogReading, Tail, read_log

__all__ = [
    "MAX_CALL_BYTES",
    "AppendOutcome",
    "NewEvent",
    "Run",
    "SessionWriter",
    "check_events",
    "same_json",
    "settle_tail",
]

MAX_CALL_BYTES = 15 * 1024 * 1024
"""What one call may append: it is one frame of the journal, and a frame fits in one segment."""

RECORD_BYTES_ABOVE_METADATA = 800
"""More than a record and its journal entry take above the metadata: ids, parent, type, time, chain, names."""

_known_types: set[str] = set()


class NewEvent(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """An event as a client gives it. Without ``parent_id`` it follows the session's leaf; null makes it a root."""

    type: str
    metadata: Annotated[msgspec.Raw, msgspec.Meta(extra_json_schema={"type": "object"})] = msgspec.field(
        default_factory=lambda: msgspec.Raw(b"{}")
    )
    id: str | None = None
    parent_id: str | msgspec.UnsetType | None = UNSET
    ts: str | None = None


class AppendOutcome(msgspec.Struct, gc=False):
    """What became of the events of one call, as the contract has it; a repeated call gets its first answer again."""

    first_seq: int
    last_seq: int
    ids: list[str]
    chain: str


class Run(msgspec.Struct, gc=False):
    """New events that are written together: those of one call, or of several that were numbered one after the other.

    Attributes:
        previous: the chain before the first record.
        offset: where in ``events.jsonl`` the first record goes; 0 in layouts with one file an event.
        records: what is to be written, in order, without newlines.
        files: the file of each record; empty where all go to ``events.jsonl``.
    """

    first_seq: int
    previous: bytes
    offset: int
    records: list[bytes]
    files: list[str]

    @property
    def last_seq(self) -> int:
        return self.first_seq + len(self.records) - 1

    @property
    def chain(self) -> bytes:
        """The chain after the last record."""
        return self.records[-1][-18:-2]

    def bodies(self) -> list[tuple[str, bytes]]:
        """Each file with the bytes that go into it."""
        if not self.files:
            return [(LINES_FILE, b"\n".join([*self.records, b""]))]
        return [(file, record + b"\n") for file, record in zip(self.files, self.records, strict=True)]


def check_events(events: list[NewEvent]) -> int:
    """Everything about a call that needs no session: bytes first, then types, times and ids (store rule 2).

    Returns an upper bound of the bytes it takes in the journal.

    Raises:
        InvalidParams, InvalidId, EventTooLarge, TooLarge, IdConflict.
    """
    if not events:
        raise InvalidParams("events is empty; give at least one event")
    total = RECORD_BYTES_ABOVE_METADATA * len(events)
    for event in events:
        metadata = event.metadata
        check_metadata(metadata)
        total += len(metadata)
    if total > MAX_CALL_BYTES:
        raise TooLarge(f"the call holds about {total} bytes of events, over {MAX_CALL_BYTES}; append them in parts")
    for event in events:
        if event.type not in _known_types:
            check_event_type(event.type)
            if len(_known_types) < 1024:
                _known_types.add(event.type)
        if event.ts is not None:
            check_timestamp(event.ts)
        if event.id is not None:
            check_event_id(event.id)
        if event.parent_id is not UNSET and event.parent_id is not None:
            check_event_id(event.parent_id)
    if len(events) > 1 and _an_id_stands_twice(events):
        raise IdConflict("two events of this call have the same id; give each its own")
    return total


def _an_id_stands_twice(events: list[NewEvent]) -> bool:
    given = [event.id for event in events if event.id is not None]
    return len(set(given)) != len(given)


class SessionWriter:
    """One open session. Not thread-safe: it belongs to whoever holds the lock.

    Attributes:
        seq, chain, leaf_id: the head, as numbered; what is written may lag behind by what the caller holds back.
        places: where the written events lie.
        size: bytes in ``events.jsonl`` that are ours to append behind.
        run: what was numbered since :meth:`end_run`; None while that is nothing.
        inherited: ids of the events of the session that this one was forked from; any of them can be a parent.
    """

    def __init__(self, session_id: str, reading: LogReading, layout_name: str) -> None:
        self.session_id = session_id
        self.folder = reading.folder
        self.layout = LAYOUTS[layout_name]
        self.seq = reading.head_seq
        self.chain = reading.head_chain
        self.leaf_id = reading.leaf_id
        self.next_number = reading.next_number
        self.places = Places.of_reading(reading)
        self.missing = list(reading.missing)
        self.first_chain = reading.records[0].chain if reading.records else None
        self.size = 0 if self.layout.one_file_an_event else _size_of(os.path.join(reading.folder, LINES_FILE))
        self._ids: dict[str, int] = {record.event_id: record.seq for record in reading.records}
        self.inherited: frozenset[str] = frozenset()
        self.run: Run | None = None
        self._unwritten: deque[Run] = deque()

    @classmethod
    def open(cls, folder: str, session_id: str, new_layout: str) -> SessionWriter:
        """Read the log of a session whose lock is held, settle its tail, and be ready to append.

        ``new_layout`` is used where there is no event yet, and behind packed events.

        Raises:
            OSError: the folder cannot be read or its tail not be set aside.
        """
        reading = read_log(folder)
        while reading.tail is not None:  # several files can be torn, one behind the other
            settle_tail(folder, reading.tail)
            reading = read_log(folder)
        layout = reading.layout if reading.layout in ("jsonl", "typed", "ids") else new_layout
        return cls(session_id, reading, layout)

    def inherit(self, event_ids: frozenset[str], leaf_id: str) -> None:
        """This is a forked session: its first event follows ``leaf_id``."""
        self.inherited = event_ids
        if self.seq == 0:
            self.leaf_id = leaf_id

    def number(self, events: list[NewEvent], expect_seq: int | None, now: str) -> AppendOutcome:
        """Give checked events their numbers, ids, parents and chain; the head and :attr:`run` grow. All or nothing.

        Raises:
            IdConflict, SeqConflict, InvalidParams: nothing has changed.
        """
        names_events = False
        for event in events:
            if event.id is not None or event.parent_id is not UNSET:
                names_events = True
                break
        if names_events:
            repeated = self._repeated(events)
            if repeated is not None:
                return repeated
        if expect_seq is not None and expect_seq != self.seq:
            raise SeqConflict(
                f"the session's head is {self.seq}, not {expect_seq}; read what was added and append again",
                head_seq=self.seq,
            )
        if names_events:
            self._check_parents(events)
        run = self.run
        if run is None:
            run = self.run = Run(self.seq + 1, self.chain, self.size, [], [])
            self._unwritten.append(run)
        first_seq, seq, chain, leaf_id, size = self.seq + 1, self.seq, self.chain, self.leaf_id, self.size
        ids: list[str] = []
        for event in events:
            seq += 1
            event_id = event.id or new_event_id()
            parent_id = leaf_id if event.parent_id is UNSET else event.parent_id
            record, chain = encode_record(seq, event_id, parent_id, event.type, event.ts or now, event.metadata, chain)
            ids.append(event_id)
            run.records.append(record)
            self._ids[event_id] = seq
            leaf_id = event_id
            size += len(record) + 1
        self.seq, self.chain, self.leaf_id = seq, chain, leaf_id
        if self.layout.one_file_an_event:
            run.files.extend(self._new_files_for(events, ids))
        else:
            self.size = size
        if self.first_chain is None:
            self.first_chain = stated_chain(run.records[0])
        return AppendOutcome(first_seq, seq, ids, chain.decode())

    def end_run(self) -> Run | None:
        """What was numbered since this was last asked; what is numbered from now on is written later."""
        run, self.run = self.run, None
        return run

    def written(self, run: Run, shift: int = 0) -> None:
        """Note that a run, the oldest that is not written, is in the files, readable at its places.

        ``shift``: how many bytes behind ``run.offset`` it came to lie, because somebody else added a line.
        """
        if run.files:
            for seq, (record, file) in enumerate(zip(run.records, run.files, strict=True), run.first_seq):
                self.places.add(seq, file, 0, len(record))
        else:
            self.places.add_lines(run.first_seq, run.offset + shift, run.records)
        self._unwritten.popleft()

    def is_written(self, seq: int) -> bool:
        """Whether an event of this number can be read from the files already."""
        return not self._unwritten or seq < self._unwritten[0].first_seq

    def has_event(self, event_id: str) -> bool:
        return event_id in self._ids

    def _repeated(self, events: list[NewEvent]) -> AppendOutcome | None:
        """The first answer again when all the call's ids are there with the same type and metadata (store rule 3)."""
        for event in events:
            if event.id is not None and event.id in self._ids:
                break
        else:
            return None
        known = [event for event in events if event.id is not None and event.id in self._ids]
        for event in known:
            stored = self._record_at(self._ids[event.id or ""])
            if len(known) != len(events) or not _same_content(event, stored):
                raise IdConflict(
                    f"the event id {event.id!r} is already in this session with other content or in another call; "
                    "give a new event a new id",
                    event_id=event.id,
                )
        seqs = [self._ids[event.id or ""] for event in events]
        if any(first >= second for first, second in pairwise(seqs)):
            raise IdConflict("these event ids are in this session in another order; repeat a call as it was")
        chain = stated_chain(self._record_at(seqs[-1])) or CHAIN_START
        return AppendOutcome(seqs[0], seqs[-1], [event.id or "" for event in events], chain.decode())

    def _record_at(self, seq: int) -> bytes:
        for run in self._unwritten:
            if run.first_seq <= seq <= run.last_seq:
                return run.records[seq - run.first_seq]
        return self.places.read(seq, seq, 1, 1)[0][1]

    def _new_files_for(self, events: list[NewEvent], ids: list[str]) -> list[str]:
        """The file of its own that each of these events goes to."""
        first = self.next_number
        self.next_number += len(events)
        return [
            self.layout.file_name(number, event.type, event_id)
            for number, (event, event_id) in enumerate(zip(events, ids, strict=True), first)
        ]

    def _check_parents(self, events: list[NewEvent]) -> None:
        earlier: set[str | None] = set()
        for event in events:
            parent_id = event.parent_id
            given = parent_id is not UNSET and parent_id is not None
            known = parent_id in self._ids or parent_id in earlier or parent_id in self.inherited
            if given and not known:
                raise InvalidParams(
                    f"parent_id {parent_id!r} names no earlier event of this session; "
                    "give the id of one that is there, or leave parent_id out"
                )
            if event.id is not None:
                earlier.add(event.id)


def settle_tail(folder: str, tail: Tail) -> None:
    """Make the end of a log whole before something is appended (store rule 11). Nothing is destroyed.

    A last line that parses and links gets its newline; anything else goes to ``quarantine/`` first.
    """
    path = os.path.join(folder, tail.file)
    if tail.belongs:
        durable.append_file(path, b"\n")
        return
    quarantine = paths.quarantine_folder(folder)
    durable.make_folder(quarantine)
    aside = os.path.join(quarantine, f"{tail.file}.{tail.offset}-{os.urandom(4).hex()}")
    if tail.file == LINES_FILE:
        durable.create_file(aside, tail.body)
        durable.truncate_file(path, tail.offset)
    else:
        durable.move(path, aside)


class _Content(msgspec.Struct):
    type: str
    metadata: msgspec.Raw


def _same_content(event: NewEvent, stored_record: bytes) -> bool:
    try:
        stored = msgspec.json.decode(stored_record, type=_Content)
        return stored.type == event.type and same_json(bytes(event.metadata), bytes(stored.metadata))
    except DECODE_ERRORS:  # what others wrote may be nothing that a client could have sent
        return False


def same_json(one: bytes, other: bytes) -> bool:
    """Whether two JSON texts say the same, however they are formatted."""
    return one == other or _equal(msgspec.json.decode(one), msgspec.json.decode(other))


def _equal(one: Any, other: Any) -> bool:
    """As ``==``, but true is not 1."""
    if isinstance(one, dict):
        return (
            isinstance(other, dict)
            and one.keys() == other.keys()
            and all(_equal(value, other[key]) for key, value in one.items())
        )
    if isinstance(one, list):
        return isinstance(other, list) and len(one) == len(other) and all(map(_equal, one, other))
    return isinstance(one, bool) == isinstance(other, bool) and bool(one == other)


def _size_of(path: str) -> int:
    try:
        return os.stat(path).st_size
    except FileNotFoundError:
        return 0

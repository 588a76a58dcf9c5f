"""What a reading consists of: records, what is left behind the last one, and pieces that are not placed yet.

Holds bytes as they lie and decodes them on demand. Knows no folder.
"""

from __future__ import annotations

import contextlib

import msgspec

from chimera.events.chain import stated_chain
from chimera.events.event import Event, Problem
from chimera.sessions.eventlog import older_shapes

__all__ = ["LogReading", "Piece", "Record", "Tail", "events_of"]

_BEFORE_ID = b',"id":"'
_decoder = msgspec.json.Decoder(Event)
_decode_event = _decoder.decode
_decode_events = _decoder.decode_lines


class Record(msgspec.Struct, gc=False):
    """One event as it lies.

    Attributes:
        seq: its number in the session, from 1.
        raw: its bytes without the trailing newline.
        file: name of its file, relative to the session's folder.
        offset: where ``raw`` begins in that file; for a packed log, in the unpacked stream.
        chain: the chain after it, 16 hex digits.
        ours: it carries its chain and its own number, and stands in its place: ``raw`` goes out as it lies.
        given_id: its id where that is not read from ``raw`` on demand.
        previous_id: the event before it in the log, the parent of a foreign record that names none.
    """

    seq: int
    raw: bytes
    file: str
    offset: int
    chain: bytes
    ours: bool
    given_id: str | None = None
    previous_id: str | None = None

    @property
    def event_id(self) -> str:
        """Its id; derived from its chain where a foreign record has none of its own."""
        if self.given_id is not None:
            return self.given_id
        start = self.raw.find(_BEFORE_ID) + len(_BEFORE_ID)
        return self.raw[start : self.raw.find(b'"', start)].decode("ascii", "replace")

    def event(self) -> Event:
        """The event, decoded and normalised. Never fails: what cannot be decoded is given as ``{"raw": text}``."""
        return self._decoded() or older_shapes.normalise(self.raw, self.seq, self.event_id, self.previous_id)

    def wire(self) -> bytes:
        """The event as one line of JSON for a reply: our records as they lie, any other normalised."""
        if self.ours or (self._decoded() is not None and b"\n" not in self.raw):
            return self.raw
        return older_shapes.encode(self.raw, self.seq, self.event_id, self.previous_id)

    def _decoded(self) -> Event | None:
        """The event of a record in our own form; None for any other, and for one that was changed beyond that form."""
        if not self.ours and stated_chain(self.raw) is None:
            return None
        try:
            event = _decode_event(self.raw)
        except older_shapes.DECODE_ERRORS:
            return None
        return event if event.seq == self.seq and (self.ours or event.id == self.event_id) else None


def events_of(records: list[Record]) -> list[Event]:
    """The events of many records, as :meth:`Record.event` gives each; those of our own are decoded in one go."""
    if all(record.ours for record in records):
        with contextlib.suppress(*older_shapes.DECODE_ERRORS):
            events = _decode_events(b"\n".join([record.raw for record in records]))
            if [event.seq for event in events] == [record.seq for record in records]:
                return events
    return [record.event() for record in records]


class Tail(msgspec.Struct, frozen=True):
    """What stands behind the last whole record, or an event file that is torn.

    Attributes:
        file: ``events.jsonl``, or the torn file of the last event.
        offset: where it begins in that file.
        body: its bytes.
        kind: ``unterminated``, ``nul`` (the file system gave it its size and not its bytes) or ``garbage``.
        belongs: it is a whole record that links to the chain; only its newline is missing.
    """

    file: str
    offset: int
    body: bytes
    kind: str
    belongs: bool


class LogReading(msgspec.Struct):
    """A session's log as it was found. Reading changes nothing.

    Attributes:
        folder: the session's folder.
        layout: ``jsonl``, ``typed`` or ``ids``: how the next event is to be written; None where no event tells.
        base: number of the file of event 1, 0 or 1.
        next_number: the file number of the next event in a layout with one file an event.
        records: the events in order.
        missing: numbers of events that must have been there.
        strays: foreign or foreign-looking events that do not belong to the log (store rule 12).
        problems: everything that is wrong, gaps and tail included.
        tail: what a writer must settle before it appends.
        packed_count: events 1 to this one lie in ``events.jsonl.zst``.
        head_seq, head_chain, leaf_id: after the last record.
    """

    folder: str
    layout: str | None
    base: int
    next_number: int
    records: list[Record]
    missing: list[int]
    strays: list[Record]
    problems: list[Problem]
    tail: Tail | None
    packed_count: int
    head_seq: int
    head_chain: bytes
    leaf_id: str | None


class Piece(msgspec.Struct, gc=False):
    """Bytes of the log that have no place yet: the file's, a line's, or those that could be saved of a broken line.

    Attributes:
        number: the number in the file's name; None for a line.
        fault: None for bytes to judge; else why an event that must have stood here cannot be given
            (``unreadable``, ``not_json``).
    """

    raw: bytes
    file: str
    offset: int
    number: int | None = None
    fault: str | None = None

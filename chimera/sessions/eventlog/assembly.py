"""Which pieces of a log are its events, in which order and under which numbers (store rule 12).

The chain decides where it can: a record of ours that links to what stands before it is in its place, whatever else
was damaged. Where it cannot, the number that a record states does, and at last the position; each time that is
reported. Opens no file.
"""

from __future__ import annotations

import re
from typing import Any

from chimera.events.chain import CHAIN_START, link, stated_chain
from chimera.events.event import Problem
from chimera.sessions.eventlog.older_shapes import decode_object, derived_id, is_damaged, own_id
from chimera.sessions.eventlog.records import Piece, Record
from chimera.sessions.eventlog.salvage import salvage

__all__ = ["MAX_GAP", "Assembly", "stated_seq"]

MAX_GAP = 1_000_000
"""A number further ahead than this is taken for damage of the number, not for a million lost events."""

_MOST_TRIES = 64
"""How many ways of leaving strays out are tried for one record, so that damage cannot make reading quadratic."""

_MOST_CHAINS = 6
"""How many chains a row of changed records may leave in doubt; the likeliest are kept."""

_CHAIN_TAIL_LENGTH = len(b',"chain":"0123456789abcdef"}')
_ENVELOPE = ("seq", "id", "type")
"""A record of ours that keeps none of these is the end of one."""

_MOST_BEFORE_PARENT = len(b'{"seq":999999999999999999,"id":"') + 64 + 2
_STATED_SEQ = re.compile(rb'\{"seq":(\d{1,18}),"id":"([^"\\]*)"')


def stated_seq(raw: bytes) -> int | None:
    """The number that a record in our own form states."""
    match = _STATED_SEQ.match(raw)
    return int(match.group(1)) if match else None


class Assembly:
    """The log so far. ``follow`` takes undamaged records of ours fast, ``place`` everything else.

    Attributes:
        chains: what the chain after the last record may be; more than one only behind a record whose own chain does
            not hold, where the next one shows which part of it is damaged. The first is the one to go on from.
        last_number: file number of the last piece that was passed; None where the last one has no number.
    """

    def __init__(self, session_id: str) -> None:
        self.session_id = session_id
        self.records: list[Record] = []
        self.strays: list[Record] = []
        self.problems: list[Problem] = []
        self.missing: set[int] = set()
        self.head_seq = 0
        self.chains: tuple[bytes, ...] = (CHAIN_START,)
        self.last_number: int | None = None
        self._ids: dict[str, int] = {}  # of the records, by position; known from ``place`` on
        self._used: set[bytes] = set()  # their chains: a record that states one again was patched together
        self._pending: list[Piece] = []
        self._trails: list[tuple[bytes, ...]] = [self.chains]
        self._pieces: list[Piece] = []
        self._taken: set[int] = set()
        self._by_seq: dict[int, list[int]] | None = None
        self._sorted = True

    @property
    def head_chain(self) -> bytes:
        return self.chains[0]

    def problem(self, kind: str, detail: str, seq: int | None = None, file: str | None = None) -> None:
        self.problems.append(Problem(session_id=self.session_id, kind=kind, detail=detail, seq=seq, file=file))

    def follow(self, raws: list[bytes], file: str, offset: int) -> int:
        """Take records from the front as long as each is ours, in canonical form, and the next; says how many.

        A chain that holds proves the bytes to be those that were written, so nothing is decoded here.
        """
        chain, first = self.chains[0], self.head_seq + 1
        records, tail_length = self.records, -_CHAIN_TAIL_LENGTH
        seq = first
        for raw in raws:
            after = link(chain, raw[:tail_length])
            if raw[tail_length:] != b',"chain":"%b"}' % after or not raw.startswith(b'{"seq":%d,"id":"' % seq):
                break
            chain = after
            records.append(Record(seq, raw, file, offset, chain, True))
            offset += len(raw) + 1
            seq += 1
        self.head_seq = seq - 1
        self._settle((chain,))
        return seq - first

    def place(self, pieces: list[Piece]) -> None:
        """Find the place of every piece, in whatever state; to be called once, behind all ``follow``."""
        self._pieces = pieces
        if pieces:
            self._used = {record.chain for record in self.records}
            self._ids = {record.event_id: position for position, record in enumerate(self.records)}
        for index, piece in enumerate(pieces):
            if index not in self._taken:
                self._place(piece, index)
        self._accept_pending(len(self._pending), None)
        if not self._sorted:
            self.records.sort(key=lambda record: record.seq)

    def reach(self, seq: int, chain: bytes) -> None:
        """Go on to a head that is known though events before it cannot be read."""
        self.missing.update(range(self.head_seq + 1, seq + 1))
        self.head_seq = seq
        self._settle((chain,))

    def _place(self, piece: Piece, index: int) -> None:
        if piece.fault is not None:
            self._pending.append(piece)
            self._trails.append(self._trails[-1])
            return
        stated = stated_chain(piece.raw)
        if stated is not None:
            fit = self._fit(piece.raw, stated)
            if fit is not None:
                self._accept_fitting(piece, stated, fit)
                return
        event = decode_object(piece.raw)
        if event is None:
            self._break_up(piece, index, salvage(piece.raw))
        elif stated is not None and event.keys().isdisjoint(_ENVELOPE):
            self._break_up(piece, index, [])
        elif stated is None and not is_damaged(piece.raw, event):
            self._hold(piece, event)
        elif self._is_duplicate(piece, event):
            self._pass(piece)
        elif moved := self._pull(index):
            strays = len(self.strays)
            self._place(piece, index)
            if len(self.strays) == strays:  # else they only stood behind a stray
                for seq, file in moved:
                    self.problem("out_of_order", "the record does not stand behind the one it follows", seq, file)
        else:
            self._place_by_number(piece, index, stated, event)

    def _hold(self, piece: Piece, event: dict[str, Any]) -> None:
        """Keep a foreign event back until the next record of ours shows whether it belongs to the log."""
        if self._is_duplicate(piece, event):
            self._pass(piece)
            return
        index = event.get("idx")
        if piece.number is None and isinstance(index, int) and "event_id" in event:
            piece.number = index
            if self.head_seq == 0 and not self._pending and self.last_number is None:
                self.last_number = -1
        self._pending.append(piece)
        self._trails.append(tuple(link(chain, piece.raw) for chain in self._trails[-1]))

    def _fit(self, raw: bytes, stated: bytes) -> tuple[int, int] | None:
        """How many pending pieces belong before this record, and which of the possible chains it continues."""
        body = raw[:-_CHAIN_TAIL_LENGTH]
        for count in self._counts(stated_seq(raw)):
            for which, chain in enumerate(self._trails[count]):
                if link(chain, body) == stated:
                    return count, which
        return None

    def _counts(self, seq: int | None) -> list[int]:
        """In which order to try how many pending pieces belong: what the number says, then all, none and between."""
        most = len(self._pending)
        if most == 0:
            return [0]
        hint = most if seq is None else min(max(seq - self.head_seq - 1, 0), most)
        order = [hint]
        for step in range(_MOST_TRIES // 2):
            order += [most - step, step]
        return [count for count in dict.fromkeys(order) if 0 <= count <= most]

    def _accept_fitting(self, piece: Piece, stated: bytes, fit: tuple[int, int], moved: bool = False) -> None:
        count, which = fit
        if which:
            self._settle_head(self.chains[which])
        self._accept_pending(count, stated_seq(piece.raw))
        seq, number = self.head_seq + 1, stated_seq(piece.raw)
        if number is not None and number != seq:
            self.problem("out_of_order", f"the record states number {number} and stands at {seq}", seq, piece.file)
        self._append(piece, (stated,), verbatim=number == seq and not moved)

    def _place_by_number(self, piece: Piece, index: int, stated: bytes | None, event: dict[str, Any]) -> None:
        """Find a place for a record of ours that links to nothing: what it states about itself has to do."""
        value = event.get("seq")
        number = value if isinstance(value, int) and value > 0 else None
        waiting, ahead = len(self._pending), 0
        if number is not None:
            ahead = number - self.head_seq - 1
            if number in self.missing:
                self._insert(piece, number, stated, event)
                return
            if ahead < 0 and not self._next_continues(stated, index, None):
                self._set_aside(piece, "it repeats a number and links to nothing")
                return
            if ahead < 0 or (
                ahead > waiting
                and (ahead - waiting > MAX_GAP or self._next_continues(stated, index, self.head_seq + waiting + 2))
            ):
                number = None  # the neighbours agree on another one: the number itself is damaged
        before = len(self.missing)
        self._accept_pending(waiting if number is None else ahead, number)
        if number is not None and number > self.head_seq + 1:
            self.missing.update(range(self.head_seq + 1, number))
            self.head_seq = number - 1
        if len(self.missing) == before:
            self.problem(
                "chain",
                "the record or the one before it was changed: its chain does not hold",
                self.head_seq + 1,
                piece.file,
            )
        self._append(piece, self._chains_after(piece.raw, stated, event), verbatim=False)

    def _chains_after(self, raw: bytes, stated: bytes | None, event: dict[str, Any]) -> tuple[bytes, ...]:
        """Which chains the next record may continue: that of a changed record as stated, and as its bytes give."""
        chains = [] if stated is None or stated in self._used else [stated]
        for chain in self.chains:
            if stated is None:
                chains.append(link(chain, raw))
            chains.append(link(chain, raw[:-_CHAIN_TAIL_LENGTH]))
        shown = event.get("chain")
        if isinstance(shown, str) and shown.encode("utf-8", "replace") not in self._used:
            chains.append(shown.encode("utf-8", "replace"))
        return tuple(dict.fromkeys(chains))[:_MOST_CHAINS]

    def _next_continues(self, stated: bytes | None, index: int, number: int | None) -> bool:
        """Whether the next record of ours links to this one (and states ``number``, where that is given)."""
        if stated is None:
            return False
        for other in range(index + 1, min(index + 1 + _MOST_TRIES, len(self._pieces))):
            raw = self._pieces[other].raw
            chain = stated_chain(raw)
            if chain is not None and other not in self._taken:
                return link(stated, raw[:-_CHAIN_TAIL_LENGTH]) == chain and (
                    number is None or stated_seq(raw) == number
                )
        return False

    def _pull(self, index: int) -> list[tuple[int, str]]:
        """Take records that stand further behind and link to the head; numbers and files of those it took."""
        if self._by_seq is None:
            self._by_seq = {}
            for position, piece in enumerate(self._pieces):
                number = stated_seq(piece.raw)
                if number is not None:
                    self._by_seq.setdefault(number, []).append(position)
        moved = []
        while self._pull_one(index, self._by_seq):
            moved.append((self.head_seq, self.records[-1].file))
        return moved

    def _pull_one(self, index: int, by_seq: dict[int, list[int]]) -> bool:
        for count in self._counts(None):
            for position in by_seq.get(self.head_seq + 1 + count, ())[:_MOST_TRIES]:
                if position <= index or position in self._taken:
                    continue
                piece = self._pieces[position]
                stated = stated_chain(piece.raw)
                fit = self._fit(piece.raw, stated) if stated is not None else None
                if stated is not None and fit is not None:
                    self._taken.add(position)
                    self._accept_fitting(piece, stated, fit, moved=True)
                    return True
        return False

    def _break_up(self, piece: Piece, index: int, parts: list[tuple[int, bytes | None]]) -> None:
        """Judge what was saved of bytes that are no event."""
        if not parts:
            piece.fault = "not_json"
            self.problem("not_json", f"{_place_of(piece)} holds no event", None, piece.file)
            self._place(piece, index)
            return
        self.problem("not_json", f"{_place_of(piece)} holds more than one whole event", None, piece.file)
        for offset, raw in parts:
            part = Piece(raw or b"", piece.file, piece.offset + offset, piece.number)
            if raw is None and piece.number is None:
                part.fault = "not_json"
            if raw is not None or piece.number is None:
                self._place(part, index)

    def _accept_pending(self, count: int, number: int | None) -> None:
        """The first ``count`` pending pieces belong to the log, foreign ones behind them are strays.

        ``number`` is that of the record behind them. A piece that cannot be read is a missing event as long as that
        number, where there is one, leaves room for it.
        """
        pending, self._pending = self._pending, []
        foreign = sum(piece.fault is None for piece in pending[:count])
        last_event = max((at for at, piece in enumerate(pending) if piece.fault is None), default=-1)
        for position, piece in enumerate(pending):
            if piece.fault is not None:
                if number is not None:
                    lost = self.head_seq + 1 + foreign < number
                else:  # broken bytes behind the last event are no event, a file that cannot be opened may be one
                    lost = piece.fault == "unreadable" or position < last_event
                if lost:
                    self._lose()
                self._pass(piece)
            elif position < count:
                foreign -= 1
                self._accept_foreign(piece)
            else:
                self._set_aside(piece, "the next record of the log does not cover it")
        self._settle(self.chains)

    def _accept_foreign(self, piece: Piece) -> None:
        if piece.number is not None and self.last_number is not None:
            self._check_number(piece, piece.number - self.last_number)
        chains = tuple(link(chain, piece.raw) for chain in self.chains)
        self._append(piece, chains, verbatim=False)

    def _check_number(self, piece: Piece, step: int) -> None:
        """What the numbers of two foreign events that follow one another say; 1 is as it should be."""
        if step == 0:
            self.problem(
                "duplicate_number",
                f"a second event has the number {piece.number}; both are kept",
                self.head_seq + 1,
                piece.file,
            )
        elif step < 0:
            self.problem(
                "out_of_order", f"number {piece.number} stands behind {self.last_number}", self.head_seq + 1, piece.file
            )
        elif step - 1 > MAX_GAP:
            self.problem(
                "out_of_order",
                f"the number jumps from {self.last_number} to {piece.number}; no loss of that size is assumed",
                self.head_seq + 1,
                piece.file,
            )
        else:
            for _ in range(step - 1):
                self._lose()

    def _append(self, piece: Piece, chains: tuple[bytes, ...], verbatim: bool) -> None:
        self.head_seq += 1
        event_id = self._id_of(piece, chains[0])
        verbatim = verbatim and b',"id":"%b",' % event_id.encode() in piece.raw[:_MOST_BEFORE_PARENT]
        previous_id = self.records[-1].event_id if self.records else None
        self.records.append(
            Record(self.head_seq, piece.raw, piece.file, piece.offset, chains[0], verbatim, event_id, previous_id)
        )
        self._used.add(chains[0])
        self._pass(piece)
        self._settle(chains)

    def _insert(self, piece: Piece, number: int, stated: bytes | None, event: dict[str, Any]) -> None:
        """A record that was missed before; its neighbours are gone, so its number alone says where it belongs."""
        self.missing.discard(number)
        chain = stated or self._chains_after(piece.raw, None, event)[0]
        event_id = self._id_of(piece, chain)
        self.records.append(Record(number, piece.raw, piece.file, piece.offset, chain, False, event_id))
        self._sorted = False
        self.problem("out_of_order", "the record stands behind later ones", number, piece.file)
        self._pass(piece)

    def _id_of(self, piece: Piece, chain: bytes) -> str:
        """The id of a piece that becomes a record; no two records of a session share one."""
        event_id = own_id(decode_object(piece.raw) or {}, piece.file) or derived_id(chain)
        if event_id in self._ids:
            self.problem("duplicate", f"another event already has the id {event_id!r}", self.head_seq, piece.file)
            event_id = derived_id(chain)
        while event_id in self._ids:
            chain = link(chain, piece.raw)
            event_id = derived_id(chain)
        self._ids.setdefault(event_id, len(self.records))
        return event_id

    def _is_duplicate(self, piece: Piece, event: dict[str, Any]) -> bool:
        """Whether exactly this record, with an id of its own, is there already; says so where it is."""
        event_id = own_id(event, "")
        if event_id is None:
            return False
        known = self._ids.get(event_id)
        if (known is not None and self.records[known].raw == piece.raw) or (
            known is None and any(other.raw == piece.raw for other in self._pending[-_MOST_TRIES:])
        ):
            self.problem("duplicate", f"the event {event_id!r} stands there again", None, piece.file)
            return True
        return False

    def _set_aside(self, piece: Piece, why: str) -> None:
        event = decode_object(piece.raw) or {}
        chain = stated_chain(piece.raw) or link(self.chains[0], piece.raw)
        event_id = own_id(event, piece.file) or derived_id(chain)
        self.strays.append(Record(0, piece.raw, piece.file, piece.offset, chain, False, event_id))
        self.problem("stray", f"the event {event_id!r} does not belong to the log: {why}", None, piece.file)
        self._pass(piece)

    def _pass(self, piece: Piece) -> None:
        self.last_number = piece.number

    def _lose(self) -> None:
        self.head_seq += 1
        self.missing.add(self.head_seq)

    def _settle_head(self, chain: bytes) -> None:
        """What follows has shown which of the possible chains the last record has."""
        if self.records and self.records[-1].chain == self.chains[0]:
            self.records[-1].chain = chain
        self._settle((chain,), keep_trails=True)

    def _settle(self, chains: tuple[bytes, ...], keep_trails: bool = False) -> None:
        self.chains = chains
        if not keep_trails:
            self._trails = [chains]


def _place_of(piece: Piece) -> str:
    return piece.file if piece.number is not None else f"the line at byte {piece.offset} of {piece.file}"

"""One reader over every layout: the log of a session as it lies, whoever wrote it and in whatever state.

Never writes, never follows anything out of the session's folder, and never lets one bad file hide the others: what
is wrong is a problem in the reading. Which pieces are events, and under which numbers, is decided in ``assembly``.
"""

from __future__ import annotations

import os
import stat
from itertools import pairwise

from chimera.errors import LogGapError
from chimera.events.chain import link, stated_chain
from chimera.identifiers import EPOCH_UNKNOWN
from chimera.sessions.eventlog.assembly import Assembly, stated_seq
from chimera.sessions.eventlog.layouts import LINES_FILE, PACKED_FILE, event_file_number, layout_of_file
from chimera.sessions.eventlog.layouts.packed import Packing, unpack
from chimera.sessions.eventlog.older_shapes import decode_object, is_damaged, microseconds_of
from chimera.sessions.eventlog.records import LogReading, Piece, Record, Tail
from chimera.sessions.eventlog.salvage import salvage

__all__ = ["LogReading", "Record", "Tail", "read_log", "require_whole"]

_LISTINGS = 16
"""How often a folder is listed again because a file of it went away meanwhile (store rule 16)."""

_CHAIN_TAIL_LENGTH = len(b',"chain":"0123456789abcdef"}')
_SHOWN_NUMBERS = 20


def read_log(folder: str) -> LogReading:
    """The log of the session in ``folder``.

    Raises:
        OSError: the folder itself cannot be listed.
    """
    for _ in range(_LISTINGS):
        try:
            return _Reader(os.fspath(folder)).read()
        except _ListAgain:
            continue
    return _Reader(os.fspath(folder), tolerate_vanished=True).read()


def require_whole(reading: LogReading) -> None:
    """Refuse a log with a gap.

    Raises:
        LogGapError: names the missing numbers.
    """
    if reading.missing:
        name = os.path.basename(os.path.normpath(reading.folder))
        raise LogGapError(
            f"session {name!r} lacks the events {_shown(reading.missing)}; put the files back, or read it without them",
            missing=reading.missing,
        )


class _ListAgain(Exception):
    """A file that was listed is gone: the session is being packed, unpacked or removed."""


class _Listing:
    """The event files of a folder: regular files alone."""

    def __init__(self, folder: str) -> None:
        self.lines = self.packed = False
        self.numbered: list[tuple[int, str]] = []
        self.irregular: list[tuple[int | None, str]] = []
        with os.scandir(folder) as entries:
            for entry in entries:
                name = entry.name
                number = event_file_number(name)
                if number is None and name not in (LINES_FILE, PACKED_FILE):
                    continue
                if not entry.is_file(follow_symlinks=False):
                    self.irregular.append((number, name))
                elif number is not None:
                    self.numbered.append((number, name))
                elif name == LINES_FILE:
                    self.lines = True
                else:
                    self.packed = True
        self.numbered.sort()


class _Reader:
    """One reading of one folder."""

    def __init__(self, folder: str, tolerate_vanished: bool = False) -> None:
        self.folder = folder
        self.tolerate_vanished = tolerate_vanished
        self.log = Assembly(os.path.basename(os.path.normpath(folder)))
        self.tail: Tail | None = None
        self.packing: Packing | None = None
        self.packed_raws: list[bytes] = []
        self.waiting: list[Piece] = []
        self.base = 1

    def read(self) -> LogReading:
        listing = _Listing(self.folder)
        for _, name in listing.irregular:
            self.log.problem("unreadable", f"{name} is no regular file and is not read", None, name)
        if listing.packed:
            self._read_packed()
        if listing.lines:
            self._read_lines()
        next_number = self._read_files(listing)
        self.log.place(self.waiting)
        self._check_packed()
        self._judge_tail()
        self._report()
        records = self.log.records
        return LogReading(
            folder=self.folder,
            layout=self._layout(listing),
            base=self.base,
            next_number=next_number,
            records=records,
            missing=sorted(self.log.missing),
            strays=self.log.strays,
            problems=self.log.problems,
            tail=self.tail,
            packed_count=self._packed_count(),
            head_seq=self.log.head_seq,
            head_chain=self.log.head_chain,
            leaf_id=records[-1].event_id if records else None,
        )

    def _read_packed(self) -> None:
        body = self._bytes_of(PACKED_FILE)
        if body is None:
            return
        found = unpack(body)
        self.packing = found.packing
        if found.packing is None:
            self.log.problem("cut_off", f"the last frame of {PACKED_FILE} is missing or damaged", None, PACKED_FILE)
        else:
            self.base = found.packing.base
        offset = 0
        for part in found.parts:
            if part is None:
                self.log.problem("unreadable", f"a frame of {PACKED_FILE} is damaged", None, PACKED_FILE)
                self.waiting.append(Piece(b"", PACKED_FILE, offset, None, "unreadable"))
                continue
            lines = part.split(b"\n")
            if not lines[-1]:
                lines.pop()
            self.packed_raws.extend(lines)
            self._take_lines(lines, PACKED_FILE, offset)
            offset += len(part)

    def _read_lines(self) -> None:
        body = self._bytes_of(LINES_FILE)
        if not body:
            return
        lines = body.split(b"\n")
        rest = lines.pop()
        end = len(body) - len(rest)
        while lines and lines[-1].strip() and not _holds_event(lines[-1]):
            end -= len(lines.pop()) + 1
        if end < len(body):
            unterminated = end == len(body) - len(rest)
            self.tail = Tail(LINES_FILE, end, body[end:], _kind_of_tail(body[end:], unterminated), False)
        left = self._leftover_lines(lines)
        self._take_lines(lines[left:], LINES_FILE, sum(len(line) + 1 for line in lines[:left]))

    def _leftover_lines(self, lines: list[bytes]) -> int:
        """How many lines from the first on are packed already: a packing ended before it removed them."""
        count = 0
        for line, packed in zip(lines, self.packed_raws, strict=False):
            if line != packed:
                break
            count += 1
        if count:
            self.log.problem("leftover", f"the first {count} lines of {LINES_FILE} are packed too", None, LINES_FILE)
        return count

    def _take_lines(self, lines: list[bytes], file: str, offset: int) -> None:
        taken = 0 if self.waiting else self.log.follow(lines, file, offset)
        if taken == len(lines):
            return
        offset += sum(len(line) + 1 for line in lines[:taken])
        for line in lines[taken:]:
            if line.strip(b" \t\r"):
                self.waiting.append(Piece(line, file, offset))
            offset += len(line) + 1

    def _read_files(self, listing: _Listing) -> int:
        """Take the files with one event each; says which number the next one gets."""
        pieces = [piece for number, name in listing.numbered if (piece := self._piece_of(number, name)) is not None]
        self._sort_equal_numbers(pieces)
        packed = self._packed_count()
        if packed:
            pieces = [piece for piece in pieces if not self._is_leftover(piece, packed)]
        torn = len(pieces)
        while torn and pieces[torn - 1].fault is None and not _holds_event(pieces[torn - 1].raw):
            torn -= 1
        self._note_torn(pieces[torn:])
        del pieces[torn:]
        if not self.packed_raws and not self.packing:
            self.base = _base_of(pieces)
        numbers = [number for number, _ in listing.irregular if number is not None]
        next_number = max([*numbers, *(piece.number or 0 for piece in pieces), self.base + packed - 1]) + 1
        if not self.log.records and not self.waiting:
            self.log.last_number = self.base - 1
        elif packed and self.packing is not None and self.packing.layout != "jsonl":
            self.log.last_number = self.base + packed - 1
        for piece in pieces:
            raw = piece.raw
            if self.waiting or piece.fault or b"\n" in raw or not self.log.follow([raw], piece.file, 0):
                self.waiting.append(piece)
            else:
                self.log.last_number = piece.number
        return next_number

    def _piece_of(self, number: int, name: str) -> Piece | None:
        try:
            body = self._bytes_of(name)
        except OSError as error:
            self.log.problem("unreadable", f"{name} cannot be read: {error.strerror}", None, name)
            return Piece(b"", name, 0, number, "unreadable")
        if body is None:
            return None
        return Piece(body.removesuffix(b"\n"), name, 0, number)

    def _sort_equal_numbers(self, pieces: list[Piece]) -> None:
        """Files of one number (two processes wrote it) go by the time inside, then by name."""
        numbers = [piece.number for piece in pieces]
        if len(set(numbers)) == len(numbers):
            return
        twice = {number for number, after in pairwise(numbers) if number == after}
        times = {
            piece.file: microseconds_of(decode_object(piece.raw) or {}) for piece in pieces if piece.number in twice
        }
        pieces.sort(key=lambda piece: (piece.number or 0, times.get(piece.file, EPOCH_UNKNOWN), piece.file))

    def _note_torn(self, torn: list[Piece]) -> None:
        """Files behind the last whole event: the first is the tail, the others become it in their turn."""
        for position, piece in enumerate(torn):
            body = piece.raw
            if position == 0 and self.tail is None:
                self.tail = Tail(piece.file, 0, body, _kind_of_tail(body, True), False)
            else:
                self.log.problem("torn_tail", f"{piece.file} is torn too", None, piece.file)

    def _is_leftover(self, piece: Piece, packed: int) -> bool:
        """Whether a file repeats a packed event, or is none and stands in the place of one."""
        index = (piece.number or 0) - self.base
        if not 0 <= index < packed:
            return False
        equal = index < len(self.packed_raws) and self.packed_raws[index] == piece.raw
        if equal or piece.fault is not None or not _holds_event(piece.raw):
            what = "is packed too" if equal else "is torn, and its event is packed"
            self.log.problem("leftover", f"{piece.file} {what}", index + 1, piece.file)
            return True
        piece.number = None  # a stranger's, numbered as if the packed events were not there: it comes behind them
        return False

    def _check_packed(self) -> None:
        """The packed part must reach what its last frame says."""
        packing, log = self.packing, self.log
        if packing is None:
            return
        if log.head_seq < packing.count:
            log.reach(packing.count, packing.chain.encode())
            return
        stated = [record.chain for record in log.records if record.seq == packing.count]
        if stated and stated[0] != packing.chain.encode():
            log.problem("chain", f"the last frame of {PACKED_FILE} names another chain", packing.count, PACKED_FILE)

    def _judge_tail(self) -> None:
        """Whether the unterminated last line is a whole record that goes on from the head."""
        tail = self.tail
        if tail is None:
            return
        event = decode_object(tail.body) if tail.file == LINES_FILE and tail.kind == "unterminated" else None
        if event is not None:
            stated, body = stated_chain(tail.body), tail.body[:-_CHAIN_TAIL_LENGTH]
            belongs = (
                not is_damaged(tail.body, event)
                if stated is None
                else any(link(chain, body) == stated for chain in self.log.chains)
            )
            self.tail = Tail(tail.file, tail.offset, tail.body, tail.kind, belongs)
        self.log.problem(
            "nul_tail" if tail.kind == "nul" else "torn_tail",
            f"{len(tail.body)} bytes from byte {tail.offset} of {tail.file} on are no whole event"
            if event is None
            else f"the last line of {tail.file} has no end",
            None,
            tail.file,
        )

    def _report(self) -> None:
        """One problem for each run of missing numbers."""
        missing = sorted(self.log.missing)
        start = 0
        for position in range(1, len(missing) + 1):
            if position == len(missing) or missing[position] != missing[position - 1] + 1:
                first, last = missing[start], missing[position - 1]
                what = f"event {first} is missing" if first == last else f"events {first} to {last} are missing"
                self.log.problem("gap", what, first)
                start = position

    def _layout(self, listing: _Listing) -> str | None:
        if self.packing is not None:
            return self.packing.layout
        loose = next((record for record in self.log.records if record.file != PACKED_FILE), None)
        if loose is not None:
            return layout_of_file(loose.file, loose.event().type)
        return "jsonl" if listing.lines or listing.packed else None

    def _packed_count(self) -> int:
        return len(self.packed_raws) if self.packing is None else self.packing.count

    def _bytes_of(self, name: str) -> bytes | None:
        """The bytes of a file in the folder; None when it has gone and that is to be borne."""
        try:
            descriptor = os.open(
                os.path.join(self.folder, name), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
            )
        except FileNotFoundError:
            if self.tolerate_vanished:
                return None
            raise _ListAgain from None
        with open(descriptor, "rb", buffering=0) as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                return None
            return file.readall()


def _holds_event(raw: bytes) -> bool:
    return decode_object(raw) is not None or bool(salvage(raw))


def _kind_of_tail(body: bytes, unterminated: bool) -> str:
    if body.endswith(b"\0"):
        return "nul"
    return "unterminated" if unterminated else "garbage"


def _base_of(pieces: list[Piece]) -> int:
    """The number of the file of event 1: 0 where such a file is, else as the first event says of itself, else 1."""
    if not pieces or pieces[0].number == 0:
        return 0 if pieces else 1
    for piece in pieces:
        event = decode_object(piece.raw)
        if event is not None:
            seq, index = stated_seq(piece.raw), event.get("idx")
            return 0 if piece.number == (index if seq is None else seq - 1) else 1
    return 1


def _shown(numbers: list[int]) -> str:
    shown = ", ".join(str(number) for number in numbers[:_SHOWN_NUMBERS])
    return shown if len(numbers) <= _SHOWN_NUMBERS else f"{shown} and {len(numbers) - _SHOWN_NUMBERS} more"

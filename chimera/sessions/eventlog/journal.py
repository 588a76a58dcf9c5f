"""The journal: what is acknowledged and not yet flushed to the sessions' own files (store rules 4 and 5).

Numbered segments of 16 MiB in ``.journal/``, zero-filled and synced before use, never reused and never continued
after a start. Each holds a header and frames; a frame is one batch of appends, one write, one sync.

    segment   header (512 bytes) | frame | frame | ... | zeros
    header    magic "CHJS" crc32 | format u32 | number u64 | first lsn u64 | flushed lsn u64 | salt 16
    frame     at a multiple of 512: magic "CHJF" crc32 | length u32 | entries u32 | lsn u64 | synced lsn u64 |
              flushed lsn u64 | entries; the crc covers all that follows it and is seeded with the segment's salt, so
              that no payload can pass for a frame
    entry     session length u16 | file length u16 | flags u32 | offset u64 | seq u64 | previous chain 16 |
              body length u32 | session | file | body

Formats and reading here; when to write and what to do with what is found, elsewhere. Little-endian throughout.
"""

from __future__ import annotations

import os
import re
import struct
import zlib
from collections.abc import Iterator

import msgspec

from chimera import durable
from chimera.events.chain import CHAIN_START

__all__ = [
    "FRAME_ROOM",
    "SEGMENT_BYTES",
    "Entry",
    "Frame",
    "JournalReading",
    "SegmentWriter",
    "barrier",
    "encode_frame",
    "list_segments",
    "read_journal",
    "segment_name",
    "write_resting_segment",
]

SEGMENT_BYTES = 16 * 1024 * 1024
SECTOR = 512
FORMAT = 1
FLAG_BARRIER = 1
"""An entry without events: what this session's log held before was changed other than by appending."""

_HEADER = struct.Struct("<4sIIQQQ16s")
_HEADER_AFTER_CRC = 8
_FRAME = struct.Struct("<4sIIIQQQ")
_FRAME_AFTER_CRC = 8
_ENTRY = struct.Struct("<HHIQQ16sI")
_HEADER_MAGIC, _FRAME_MAGIC = b"CHJS", b"CHJF"
_SEGMENT_NAME = re.compile(r"segment-(\d{10,})\Z")
assert _HEADER.size <= SECTOR
assert _FRAME.size == 40

FRAME_ROOM = SEGMENT_BYTES - SECTOR - _FRAME.size
"""The most bytes of entries that one frame can hold."""

ENTRY_OVERHEAD = _ENTRY.size


class Entry(msgspec.Struct):
    """Consecutive events of one session in one file, as they are to lie there.

    Attributes:
        offset: where ``body`` begins in ``file``.
        seq: the number of the first event.
        previous: the chain before it, 16 hex digits.
        body: the records, each with its newline; empty for a barrier.
    """

    session_id: str
    file: str
    offset: int
    seq: int
    previous: bytes
    body: bytes
    flags: int = 0

    @property
    def is_barrier(self) -> bool:
        return bool(self.flags & FLAG_BARRIER)


class Frame(msgspec.Struct):
    """One batch as it was read back."""

    lsn: int
    synced_lsn: int
    flushed_lsn: int
    entries: list[Entry]


class JournalReading(msgspec.Struct):
    """What a journal holds.

    Attributes:
        flushed_lsn: everything up to it is in the session files for good.
        frames: whole frames above it, in order.
        next_lsn, next_number: the first LSN and segment number that were never used.
        segments: the paths of all segments found.
        damaged: one sentence for each segment or run of frames that was acknowledged and cannot be read.
    """

    flushed_lsn: int
    frames: list[Frame]
    next_lsn: int
    next_number: int
    segments: list[str]
    damaged: list[str]


def segment_name(number: int) -> str:
    return f"segment-{number:010d}"


def barrier(session_id: str) -> Entry:
    """The entry that says: this session is about to be changed other than by appending; all before it is flushed."""
    return Entry(session_id, "", 0, 0, CHAIN_START, b"", FLAG_BARRIER)


def encode_frame(entries: list[Entry], lsn: int, synced_lsn: int, flushed_lsn: int, salt_crc: int) -> list[bytes]:
    """A frame, padded to whole sectors, in pieces: the bodies of its entries are large and are not copied together.

    ``salt_crc`` is the crc32 of the segment's salt.
    """
    pieces: list[bytes] = []
    for entry in entries:
        session, file, body = entry.session_id.encode(), entry.file.encode(), entry.body
        head = _ENTRY.pack(len(session), len(file), entry.flags, entry.offset, entry.seq, entry.previous, len(body))
        pieces += head + session + file, body
    length = sum(map(len, pieces))
    after_crc = _FRAME.pack(_FRAME_MAGIC, 0, length, len(entries), lsn, synced_lsn, flushed_lsn)[_FRAME_AFTER_CRC:]
    crc = zlib.crc32(after_crc, salt_crc)
    for piece in pieces:
        crc = zlib.crc32(piece, crc)
    padding = bytes(-(_FRAME.size + length) % SECTOR)
    return [_FRAME_MAGIC + crc.to_bytes(4, "little") + after_crc, *pieces, padding]


class SegmentWriter:
    """One segment that is written, front to back. ``prepare`` makes the file; the header goes out with the first frame.

    Attributes:
        last_lsn: the LSN of its last frame; ``first_lsn - 1`` while it has none.
    """

    def __init__(self, folder: str, number: int) -> None:
        self.path = os.path.join(folder, segment_name(number))
        self.number = number
        self.first_lsn = 0
        self.last_lsn = 0
        self._salt = os.urandom(16)
        self._salt_crc = zlib.crc32(self._salt)
        self._header = b""
        self._descriptor = -1
        self._end = 0

    def prepare(self) -> SegmentWriter:
        """Create the file, zero-filled and durable with its folder's entry. Slow: belongs in a thread."""
        durable.preallocate(self.path, SEGMENT_BYTES)
        self._descriptor = os.open(self.path, os.O_WRONLY | os.O_CLOEXEC)
        return self

    def begin(self, first_lsn: int, flushed_lsn: int) -> None:
        """Fix the header: this segment's frames start with ``first_lsn``."""
        self.first_lsn, self.last_lsn = first_lsn, first_lsn - 1
        head = _HEADER.pack(_HEADER_MAGIC, 0, FORMAT, self.number, first_lsn, flushed_lsn, self._salt)
        crc = zlib.crc32(head[_HEADER_AFTER_CRC:])
        self._header = b"".join((_HEADER_MAGIC, crc.to_bytes(4, "little"), head[_HEADER_AFTER_CRC:]))
        self._end = SECTOR

    def room(self) -> int:
        """Bytes of entries that the next frame may hold."""
        return SEGMENT_BYTES - self._end - _FRAME.size

    def write(self, entries: list[Entry], lsn: int, synced_lsn: int, flushed_lsn: int) -> None:
        """Write the next frame, in one call; it is durable only after :meth:`sync`."""
        pieces = encode_frame(entries, lsn, synced_lsn, flushed_lsn, self._salt_crc)
        start = self._end
        if self.last_lsn < self.first_lsn:
            pieces.insert(0, self._header.ljust(SECTOR, b"\0"))
            start = 0
        self._end = start + durable.write_at(self._descriptor, pieces, start)
        self.last_lsn = lsn

    def sync(self) -> None:
        durable.sync_data(self._descriptor)

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def write_resting_segment(folder: str, number: int, next_lsn: int) -> str:
    """The trace of a clean stop: a segment without frames that keeps LSN and number going. Returns its path."""
    path = os.path.join(folder, segment_name(number))
    head = _HEADER.pack(_HEADER_MAGIC, 0, FORMAT, number, next_lsn, next_lsn - 1, os.urandom(16))
    crc = zlib.crc32(head[_HEADER_AFTER_CRC:])
    body = b"".join((_HEADER_MAGIC, crc.to_bytes(4, "little"), head[_HEADER_AFTER_CRC:])).ljust(SECTOR, b"\0")
    durable.create_file(path, body)
    return path


def list_segments(folder: str) -> list[tuple[int, str]]:
    """Number and path of every segment, by number; a folder that is not there holds none."""
    try:
        names = os.listdir(folder)
    except FileNotFoundError:
        return []
    found = [
        (int(match.group(1)), os.path.join(folder, name)) for name in names if (match := _SEGMENT_NAME.match(name))
    ]
    return sorted(found)


def read_journal(folder: str) -> JournalReading:
    """Read every segment; writes nothing.

    Reading starts above the highest flushed LSN that any header or frame states, and not before the oldest segment,
    for they go when they are flushed, oldest first. It ends where a frame is not whole or its LSN is not the expected
    one, unless a later frame says that the missing one had been synced: then it is damage, reported, and reading goes
    on behind it.

    Raises:
        OSError: a segment cannot be read.
    """
    segments = list_segments(folder)
    found: list[Frame] = []
    headers: list[tuple[int, int]] = []
    unreadable: list[str] = []
    oldest_lsn: int | None = None
    for _number, path in segments:
        with open(path, "rb") as file:
            data = file.read()
        header = _read_header(data)
        if header is None:
            if any(data[:SECTOR]):  # one that was never begun is all zeros there
                unreadable.append(f"{os.path.basename(path)} of the journal begins with no header that we can read")
            if oldest_lsn is None and data.strip(b"\0"):
                oldest_lsn = 0  # there is an older one; what was in it is not known
            continue
        first_lsn, flushed_lsn, salt = header
        headers.append((first_lsn, flushed_lsn))
        if oldest_lsn is None and len(data) > SECTOR:
            oldest_lsn = first_lsn
        found.extend(_frames_of(data, zlib.crc32(salt)))
    found.sort(key=lambda frame: frame.lsn)
    flushed = max((flushed for _, flushed in headers), default=0)
    flushed = max([flushed, *(frame.flushed_lsn for frame in found)])
    flushed = max(flushed, (oldest_lsn or 0) - 1)
    frames, damaged = _acknowledged(found, flushed)
    last = max([flushed, *(first - 1 for first, _ in headers), *(frame.lsn for frame in found)])
    return JournalReading(
        flushed_lsn=flushed,
        frames=frames,
        next_lsn=last + 1,
        next_number=segments[-1][0] + 1 if segments else 1,
        segments=[path for _, path in segments],
        damaged=unreadable + damaged,
    )


def _acknowledged(found: list[Frame], flushed: int) -> tuple[list[Frame], list[str]]:
    """The frames to replay, and what was lost between them."""
    synced = max((frame.synced_lsn for frame in found), default=0)
    frames: list[Frame] = []
    damaged: list[str] = []
    expected = flushed + 1
    for frame in found:
        if frame.lsn < expected:
            continue
        if frame.lsn > expected:
            if synced < expected:
                break
            damaged.append(
                f"the journal's frames {expected} to {frame.lsn - 1} were acknowledged and cannot be read any more"
            )
        frames.append(frame)
        expected = frame.lsn + 1
    if synced >= expected:
        damaged.append(f"the journal's frames {expected} to {synced} were acknowledged and cannot be read any more")
    return frames, damaged


def _read_header(data: bytes) -> tuple[int, int, bytes] | None:
    """First LSN, flushed LSN and salt; None for a segment that was prepared and never begun, or is torn there."""
    if len(data) < SECTOR:
        return None
    magic, crc, form, _number, first_lsn, flushed_lsn, salt = _HEADER.unpack_from(data)
    if magic != _HEADER_MAGIC or form != FORMAT or crc != zlib.crc32(data[_HEADER_AFTER_CRC : _HEADER.size]):
        return None
    return first_lsn, flushed_lsn, salt


def _frames_of(data: bytes, salt_crc: int) -> Iterator[Frame]:
    """Every whole frame of a segment; behind one that is not whole the search goes on at each sector."""
    at = SECTOR
    while at + _FRAME.size <= len(data):
        if data[at : at + 4] != _FRAME_MAGIC:
            at = data.find(_FRAME_MAGIC, at)
            if at < 0:
                return
            at += -at % SECTOR
            continue
        _magic, crc, length, count, lsn, synced, flushed = _FRAME.unpack_from(data, at)
        end = at + _FRAME.size + length
        if end <= len(data) and crc == zlib.crc32(data[at + _FRAME_AFTER_CRC : end], salt_crc):
            yield Frame(lsn, synced, flushed, _entries_of(data, at + _FRAME.size, count))
            at = end + -end % SECTOR
        else:
            at += SECTOR


def _entries_of(data: bytes, at: int, count: int) -> list[Entry]:
    entries: list[Entry] = []
    for _ in range(count):
        session_length, file_length, flags, offset, seq, previous, length = _ENTRY.unpack_from(data, at)
        at += _ENTRY.size
        session_id = data[at : at + session_length].decode()
        file = data[at + session_length : at + session_length + file_length].decode()
        at += session_length + file_length
        entries.append(Entry(session_id, file, offset, seq, previous, data[at : at + length], flags))
        at += length
    return entries

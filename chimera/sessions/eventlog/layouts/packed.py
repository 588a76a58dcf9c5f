"""The ``packed`` layout: a cold session's events in one compressed file, ``events.jsonl.zst``.

The file is a row of independent zstd frames, each with a checksum and at least 64 KiB of whole records, and ends
with a skippable frame that says how the log was laid out, how many events it has and what its chain is. Turns bytes
into bytes: which sessions are packed, and when, is decided elsewhere. The compressor is loaded on first use.
"""

from __future__ import annotations

from collections.abc import Iterable
from types import ModuleType

import msgspec

from chimera.events.chain import CHAIN_START, link
from chimera.zstd import zstd_module

__all__ = ["PACKED_FILE", "PackedLayout", "Packing", "Unpacked", "pack", "unpack"]

PACKED_FILE = "events.jsonl.zst"
FRAME_BYTES = 64 * 1024
COMPRESSION_LEVEL = 3

_DATA_MAGIC = b"\x28\xb5\x2f\xfd"
_NOTE_MAGIC = b"\x50\x2a\x4d\x18"
"""A skippable frame of the first kind (RFC 8878, 3.1.2); every zstd tool passes over it."""

_LARGEST_FRAME = 64 * 1024 * 1024
"""More than a frame of ours can hold: it closes at 64 KiB, and an event is at most 8 MiB."""


class PackedLayout:
    """Written for cold sessions of any flavour."""

    name = "packed"
    one_file_an_event = False

    def file_name(self, number: int, event_type: str, event_id: str) -> str:  # noqa: ARG002 - one file for all
        return PACKED_FILE


class Packing(msgspec.Struct, frozen=True):
    """The last frame: what the packed log is when whole.

    Attributes:
        layout: ``jsonl``, ``typed`` or ``ids``: what it unpacks to.
        base: number of the file of event 1; 1 in ``jsonl``.
        count: how many events are packed.
        chain: the chain after the last of them.
    """

    layout: str
    base: int
    count: int
    chain: str


class Unpacked(msgspec.Struct):
    """What was found in a packed file.

    Attributes:
        parts: the records of each frame, each followed by a newline; None for a frame that is damaged.
        packing: the last frame; None where it is missing or damaged.
    """

    parts: list[bytes | None]
    packing: Packing | None


def pack(records: Iterable[bytes], packing: Packing) -> bytes:
    """The bytes of ``events.jsonl.zst`` for records without their newlines."""
    zstd = zstd_module()
    options = {
        zstd.CompressionParameter.compression_level: COMPRESSION_LEVEL,
        zstd.CompressionParameter.checksum_flag: 1,
    }
    frames: list[bytes] = []
    part = bytearray()
    for record in records:
        part += record
        part += b"\n"
        if len(part) >= FRAME_BYTES:
            frames.append(zstd.compress(bytes(part), options=options))
            part.clear()
    if part:
        frames.append(zstd.compress(bytes(part), options=options))
    text = msgspec.json.encode(packing)
    note = text + b"\n" + link(CHAIN_START, text)
    frames.append(_NOTE_MAGIC + len(note).to_bytes(4, "little") + note)
    return b"".join(frames)


def unpack(body: bytes) -> Unpacked:
    """Everything that can be read of a packed file; never raises for what stands in it."""
    zstd = zstd_module()
    found = Unpacked([], None)
    position = 0
    while position < len(body):
        if body.startswith(_NOTE_MAGIC, position):
            size = 8 + int.from_bytes(body[position + 4 : position + 8], "little")
            found.packing = _read_note(body[position + 8 : position + size])
            position += size
            continue
        part, size = _read_frame(zstd, body, position)
        found.parts.append(part)
        position += size
    return found


def _read_frame(zstd: ModuleType, body: bytes, position: int) -> tuple[bytes | None, int]:
    """The records of the frame at ``position``, None when damaged, and how many bytes to go on."""
    rest = memoryview(body)[position:]
    try:
        size: int = zstd.get_frame_size(rest)
        if zstd.get_frame_info(rest[:size]).decompressed_size in range(_LARGEST_FRAME):
            return bytes(zstd.decompress(rest[:size])), size
    except zstd.ZstdError:
        pass
    following = [found for magic in (_DATA_MAGIC, _NOTE_MAGIC) if (found := body.find(magic, position + 4)) != -1]
    return None, (min(following) if following else len(body)) - position


def _read_note(note: bytes) -> Packing | None:
    text, _, check = note.rpartition(b"\n")
    if check != link(CHAIN_START, text):
        return None
    try:
        return msgspec.json.decode(text, type=Packing)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None

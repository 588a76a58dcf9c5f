"""Journals for tests, as a daemon that died leaves them, written by the journal's own writer: the format is its."""

from __future__ import annotations

import json
import zlib
from pathlib import Path

from chimera.events.chain import CHAIN_START, stated_chain
from chimera.sessions.eventlog.journal import SECTOR, Entry, SegmentWriter, encode_frame
from chimera.sessions.eventlog.layouts import LAYOUTS


def write_segment(
    folder: Path, frames: list[list[Entry]], *, number: int = 1, first_lsn: int = 1, flushed_lsn: int = 0
) -> Path:
    """A segment with these frames; each says that those before it are synced."""
    folder.mkdir(parents=True, exist_ok=True)
    segment = SegmentWriter(str(folder), number).prepare()
    segment.begin(first_lsn, flushed_lsn)
    for lsn, entries in enumerate(frames, first_lsn):
        segment.write(entries, lsn, lsn - 1, flushed_lsn)
    segment.sync()
    segment.close()
    return Path(segment.path)


def entries_of(session_id: str, layout: str, records: list[bytes], first: int = 0, *, start: int = 0) -> list[Entry]:
    """The records from index ``first`` on as a daemon journals them, each in an entry of its own.

    ``start``: the size of ``events.jsonl`` before the first of all records.
    """
    entries = []
    offset = start + sum(len(record) + 1 for record in records[:first])
    for index in range(first, len(records)):
        record = records[index]
        event = json.loads(record)
        previous = stated_chain(records[index - 1]) if index else CHAIN_START
        assert previous is not None
        file = LAYOUTS[layout].file_name(event["seq"], event["type"], event["id"])
        in_file = offset if layout == "jsonl" else 0
        entries.append(Entry(session_id, file, in_file, event["seq"], previous, record + b"\n"))
        offset += len(record) + 1
    return entries


def forged_frame(lsn: int) -> bytes:
    """A frame as whoever does not know a segment's salt would make it."""
    entry = Entry("mink-forged", "events.jsonl", 0, 1, CHAIN_START, b"{}\n")
    return b"".join(encode_frame([entry], lsn, lsn, 0, zlib.crc32(b"")))


def overwrite(path: Path, offset: int, body: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(body)


def frame_places(path: Path) -> list[int]:
    """Where the frames of a segment begin."""
    body = path.read_bytes()
    return [at for at in range(SECTOR, len(body), SECTOR) if body[at : at + 4] == b"CHJF"]

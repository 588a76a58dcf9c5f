"""Packing: a cold session's event files become one compressed file, and come back with the same names and bytes.

Nothing is removed before what replaces it is durable, and a reader sees the whole log at every moment between. The
caller holds the session's lock and has flushed what the journal still held for it (store rules 8 and 16).
"""

from __future__ import annotations

import os

import msgspec

from chimera import durable
from chimera.errors import NotPermitted, StorageError
from chimera.paths import FILE_MODE
from chimera.sessions.eventlog.layouts import LAYOUTS, LINES_FILE, PACKED_FILE, event_file_number
from chimera.sessions.eventlog.layouts.packed import Packing, pack, unpack
from chimera.sessions.eventlog.reader import LogReading, Record, read_log, require_whole

__all__ = ["Packed", "pack_session", "unpack_session"]


class Packed(msgspec.Struct, frozen=True):
    """How many events the log has, and what its files took before and take now."""

    events: int
    bytes_before: int
    bytes_after: int


def pack_session(folder: str) -> Packed:
    """Put all events of a session into ``events.jsonl.zst`` and remove the files they came from.

    A session that is packed already is packed again with what was appended since.

    Raises:
        LogGapError: events are missing.
        NotPermitted: there is no event, or the log would not come back with the same names and bytes.
        StorageError, OSError: the log is as it was, or packed with its files still there.
    """
    reading = _whole_reading(folder)
    if not reading.records or reading.layout is None:
        raise NotPermitted(f"session {_name(folder)!r} has no events to pack")
    _require_same_files(reading, reading.layout)
    packing = Packing(reading.layout, reading.base, len(reading.records), reading.head_chain.decode())
    body = pack((record.raw for record in reading.records), packing)
    found = unpack(body)
    if found.packing != packing or b"".join(part or b"" for part in found.parts) != _lines(reading.records):
        raise StorageError(f"session {_name(folder)!r} did not survive compression; its files are as they were")
    before = _bytes_of_events(folder)
    durable.replace_file(os.path.join(folder, PACKED_FILE), body)
    durable.remove_files(os.path.join(folder, name) for name in _event_files(folder) if name != PACKED_FILE)
    return Packed(len(reading.records), before, len(body))


def unpack_session(folder: str) -> Packed:
    """Put the packed events of a session back into the files they came from, and remove the packed file.

    Raises:
        LogGapError: events are missing.
        NotPermitted: the session is not packed, or its log is damaged.
        StorageError, OSError: the packed file is still there.
    """
    reading = _whole_reading(folder)
    if reading.packed_count == 0 or reading.layout is None:
        raise NotPermitted(f"session {_name(folder)!r} is not packed")
    before = _bytes_of_events(folder)
    if reading.layout == "jsonl":
        lines = [record for record in reading.records if record.file in (PACKED_FILE, LINES_FILE)]
        durable.replace_file(os.path.join(folder, LINES_FILE), _lines(lines))
    else:
        packed = reading.records[: reading.packed_count]
        _write_files(folder, _files_of(packed, reading.layout, reading.base))
    durable.remove_file(os.path.join(folder, PACKED_FILE))
    return Packed(len(reading.records), before, _bytes_of_events(folder))


def _whole_reading(folder: str) -> LogReading:
    reading = read_log(folder)
    require_whole(reading)
    wrong = [problem for problem in reading.problems if problem.kind != "leftover"]
    if wrong:
        raise NotPermitted(f"session {_name(folder)!r} is left as it is: {wrong[0].detail}; see 'sessions.verify'")
    return reading


def _require_same_files(reading: LogReading, layout: str) -> None:
    """Refuse a log that would come back under other names or with other bytes."""
    loose = [record for record in reading.records if record.file != PACKED_FILE]
    files = _files_of(loose, layout, reading.base + len(reading.records) - len(loose))
    leftovers = {problem.file for problem in reading.problems if problem.kind == "leftover"}
    same = len(files) == len(loose) or layout == "jsonl"
    for name in _event_files(reading.folder):
        if name == PACKED_FILE or (name in leftovers and name != LINES_FILE):
            continue
        with open(os.path.join(reading.folder, name), "rb") as file:
            body = file.read()
        same = same and (body == files.get(name) or (name in leftovers and body == _lines(reading.records)))
    if not same:
        raise NotPermitted(
            f"session {_name(reading.folder)!r} is left as it is: it was written by another program and would not "
            "come back with the same file names and bytes"
        )


def _files_of(records: list[Record], layout: str, number: int) -> dict[str, bytes]:
    """The files that these records lie in when written by us, the first with this file number."""
    if layout == "jsonl":
        return {LINES_FILE: _lines(records)} if records else {}
    files = {}
    for offset, record in enumerate(records):
        if b"\n" not in record.raw:  # else it cannot be packed as a line
            event = record.event()
            files[LAYOUTS[layout].file_name(number + offset, event.type, record.event_id)] = record.raw + b"\n"
    return files


def _write_files(folder: str, files: dict[str, bytes]) -> None:
    """Write event files, durably; one that an interrupted unpacking left is written again."""
    written = []
    for name, body in files.items():
        path = os.path.join(folder, name)
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
        descriptor = os.open(path, flags, FILE_MODE)
        try:
            durable.write_all(descriptor, body)
        finally:
            os.close(descriptor)
        written.append(path)
    for path, error in durable.make_durable(written):
        raise StorageError(f"cannot make {path} durable: {error.strerror}; the session is still packed") from error


def _event_files(folder: str) -> list[str]:
    names = os.listdir(folder)
    return [name for name in names if name in (LINES_FILE, PACKED_FILE) or event_file_number(name) is not None]


def _bytes_of_events(folder: str) -> int:
    return sum(os.stat(os.path.join(folder, name)).st_size for name in _event_files(folder))


def _lines(records: list[Record]) -> bytes:
    return b"".join(record.raw + b"\n" for record in records)


def _name(folder: str) -> str:
    return os.path.basename(os.path.normpath(folder))

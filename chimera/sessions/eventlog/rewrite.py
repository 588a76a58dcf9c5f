"""Journalled events put into their places again, in every layout (store rule 5).

The same bytes are written again even where the file shows them: that compares the page cache, not the disk. What others
put there stays. Syncs nothing; the caller holds the session's lock.
"""

from __future__ import annotations

import errno
import os
import stat
from itertools import pairwise

import msgspec

from chimera import durable, paths
from chimera.events.chain import stated_chain
from chimera.sessions.eventlog.journal import SECTOR, Entry
from chimera.sessions.eventlog.layouts import LINES_FILE, event_file_number
from chimera.sessions.eventlog.reader import LogReading, read_log

__all__ = ["lines_of", "log_reaches", "rewrite"]

_NO_FILE = b"{}"
"""Stands for a folder, a link or the like in the place of an event: something of somebody else's, to be left."""


def rewrite(folder: str, entries: list[Entry]) -> list[str]:
    """Write a session's entries into its files, as far as their places are theirs; returns the files to sync."""
    _rewrite_lines(folder, [entry for entry in entries if entry.file == LINES_FILE])
    _rewrite_files(folder, [entry for entry in entries if entry.file != LINES_FILE])
    names = sorted({entry.file for entry in entries})
    return [path for name in names if stat.S_ISREG(_mode_of(path := os.path.join(folder, name)))]


def lines_of(body: bytes) -> list[bytes]:
    """The records in these bytes, without their newlines. Not ``splitlines``: JSON may hold a carriage return."""
    lines = body.split(b"\n")
    return lines if lines[-1] else lines[:-1]


def log_reaches(reading: LogReading, first: Entry) -> bool:
    """Whether the log holds the event that the entry follows, and its chain is the one that the entry continues."""
    if first.seq == 1:
        return True
    return any(record.seq == first.seq - 1 and record.chain == first.previous for record in reading.records)


def _rewrite_lines(folder: str, entries: list[Entry]) -> None:
    """Write each run over its place in ``events.jsonl``, up to the first in which somebody else's record stands."""
    if not entries:
        return
    path = os.path.join(folder, LINES_FILE)
    ours = {line for entry in entries for line in lines_of(entry.body)}
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, paths.FILE_MODE)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.ENXIO, "it is no regular file", path)
        for run in _runs_of(entries):
            size = os.fstat(descriptor).st_size
            there = os.pread(descriptor, max(size - run.offset, 0), run.offset)
            if not there.startswith(run.body) and (
                run.offset > size
                or not _chain_stands_before(folder, descriptor, run)
                or _foreign_record_in(there, ours)
            ):
                _write_at(descriptor, there, run.offset)
                return
            _keep_strange(folder, LINES_FILE, run.offset, there[: len(run.body)], run.body)
            _write_at(descriptor, run.body, run.offset)
    finally:
        os.close(descriptor)


def _runs_of(entries: list[Entry]) -> list[Entry]:
    """Entries of one file that lie one behind the other as one entry, so that each byte is looked at once."""
    runs: list[Entry] = []
    parts: list[list[bytes]] = []
    end = -1
    for entry in entries:
        if entry.offset == end:
            parts[-1].append(entry.body)
        else:
            runs.append(entry)
            parts.append([entry.body])
        end = entry.offset + len(entry.body)
    return [msgspec.structs.replace(run, body=b"".join(bodies)) for run, bodies in zip(runs, parts, strict=True)]


def _rewrite_files(folder: str, entries: list[Entry]) -> None:
    """Write each event file again, up to the first in whose place, by number, stands an event of somebody else's."""
    standing = [_bytes_of(os.path.join(folder, entry.file)) for entry in entries]
    whole = all(there == entry.body for there, entry in zip(standing, entries, strict=True))
    taken = set() if whole else _numbers_of_others(folder, {entry.file for entry in entries})
    ours = whole or log_reaches(read_log(folder), entries[0])
    for there, entry in zip(standing, entries, strict=True):
        if there != entry.body:
            ours = ours and not (there is not None and _is_record(there))
            ours = ours and event_file_number(entry.file) not in taken
            if not ours:
                continue
            _keep_strange(folder, entry.file, 0, there or b"", entry.body)
        path = os.path.join(folder, entry.file)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, paths.FILE_MODE)
        try:
            _write_at(descriptor, entry.body, 0)
            os.ftruncate(descriptor, len(entry.body))
        finally:
            os.close(descriptor)


def _numbers_of_others(folder: str, ours: set[str]) -> set[int]:
    """The numbers of whole event files behind our first that are none of ours."""
    first = min(event_file_number(name) or 0 for name in ours)
    found = set()
    for name in os.listdir(folder):
        number = event_file_number(name)
        if number is not None and number >= first and name not in ours:
            there = _bytes_of(os.path.join(folder, name))
            if there is not None and _is_record(there):
                found.add(number)
    return found


def _chain_stands_before(folder: str, descriptor: int, entry: Entry) -> bool:
    """Whether the record that ends right before the entry's place has the chain that the entry follows."""
    if entry.seq == 1:
        return entry.offset == 0
    start = max(entry.offset - (1 << 16), 0)
    before = os.pread(descriptor, entry.offset - start, start)
    if entry.offset == 0:
        return log_reaches(read_log(folder), entry)  # what came before lies in other files
    if not before.endswith(b"\n"):
        return False
    line_start = before.rfind(b"\n", 0, -1) + 1
    if line_start == 0 and start > 0:
        before = os.pread(descriptor, entry.offset, 0)
        line_start = before.rfind(b"\n", 0, -1) + 1
    stated = stated_chain(before[line_start:-1])
    return stated == entry.previous or (stated is None and log_reaches(read_log(folder), entry))


def _foreign_record_in(tail: bytes, ours: set[bytes]) -> bool:
    """Whether the bytes from our place on hold a whole record that is none of ours."""
    return any(line not in ours and _is_record(line) for line in lines_of(tail))


def _is_record(body: bytes) -> bool:
    """Whether these bytes are one whole event of anybody's."""
    body = body.strip()
    if not body.startswith(b"{"):
        return False
    stated = stated_chain(body)
    if stated is not None and b"\0" in body:
        return False
    try:
        return isinstance(msgspec.json.decode(body), dict)
    except (msgspec.DecodeError, RecursionError):
        return False


def _keep_strange(folder: str, name: str, offset: int, there: bytes, body: bytes) -> None:
    """Set aside what is about to be written over, unless each sector of it is ours, as far as it arrived."""
    first = -offset % SECTOR
    bounds = [0, *range(first, len(there), SECTOR), len(there)]
    for start, end in pairwise(bounds):
        if not body[start:end].startswith(there[start:end].rstrip(b"\0")):
            quarantine = paths.quarantine_folder(folder)
            durable.make_folder(quarantine)
            durable.create_file(os.path.join(quarantine, f"{name}.{offset}-{os.urandom(4).hex()}"), there)
            return


def _mode_of(path: str) -> int:
    try:
        return os.lstat(path).st_mode
    except FileNotFoundError:
        return 0


def _bytes_of(path: str) -> bytes | None:
    """What stands in the place of an event; None for nothing."""
    mode = _mode_of(path)
    if not stat.S_ISREG(mode):
        return _NO_FILE if mode else None
    with open(path, "rb") as file:
        return file.read()


def _write_at(descriptor: int, body: bytes, offset: int) -> None:
    view = memoryview(body)
    while view:
        count = os.pwrite(descriptor, view, offset)
        view, offset = view[count:], offset + count

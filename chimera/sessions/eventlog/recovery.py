"""Recovery: what the journal holds is written over the sessions' files, by chain (store rule 5).

One piece of code for the daemon's start, for a store whose disk failed, and for an embedder who finds the journal of
a daemon that died. Runs under the owner lock, makes no session folder, destroys nothing, and may be run again.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable

import msgspec

from chimera import durable, paths
from chimera.errors import MalformedSummary, NoSummary, StorageError
from chimera.events.chain import stated_chain
from chimera.identifiers import new_generation
from chimera.sessions.eventlog.journal import Entry, read_journal, write_resting_segment
from chimera.sessions.eventlog.layouts import LINES_FILE, event_file_number
from chimera.sessions.eventlog.locks import SessionLock
from chimera.sessions.eventlog.older_shapes import DECODE_ERRORS
from chimera.sessions.eventlog.reader import LogReading, read_log
from chimera.sessions.eventlog.writer import NewEvent, SessionWriter, same_json
from chimera.sessions.summary import encode_summary, read_summary

__all__ = ["Recovered", "journal_waits", "keep_lost", "recover_root", "renew_generation"]


LOCK_SECONDS = 30.0
"""As long as the writers of the family wait for a session's lock themselves."""


ONE_FOLDER_ERRORS = frozenset(
    {errno.ENOENT, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENXIO}
)
"""Errors that concern one session's folder and not the disk."""


_NO_FILE = b"{}"
"""Stands for a folder, a link or the like in the place of an event: something of somebody else's, to be left."""


class Recovered(msgspec.Struct):
    """What a recovery did.

    Attributes:
        next_lsn, next_number: where a new journal goes on.
        flushed_lsn: what needed no recovery: it was in the session files for good.
        sessions: the sessions whose files were written.
        renumbered: sessions in which other events had taken the place of acknowledged ones; those follow under new
            numbers, and the session has a new generation.
        lost: sessions whose events went to ``.lost/``, each with the reason.
        damaged: what was acknowledged and could not be read from the journal.
    """

    next_lsn: int
    next_number: int
    flushed_lsn: int
    sessions: list[str] = []
    renumbered: list[str] = []
    lost: dict[str, str] = {}
    damaged: list[str] = []


class _Stored(msgspec.Struct):
    """One of our records, as far as recovery must look into it."""

    id: str
    type: str
    ts: str
    metadata: msgspec.Raw
    parent_id: str | None = None


def journal_waits(root: str) -> bool:
    """Whether acknowledged events wait in a journal that nobody owns."""
    try:
        return bool(read_journal(paths.journal_folder(root)).frames)
    except OSError:
        return True


def recover_root(root: str) -> Recovered:
    """Write what the journal of ``root`` holds over the session files, make all durable, and empty the journal.

    The caller holds the owner lock.

    Raises:
        StorageError: the disk failed; nothing is lost, run it again.
        Locked: another process has been writing one of the sessions for 30 s; the same.
    """
    folder = paths.journal_folder(root)
    try:
        journal = read_journal(folder)
        recovered = Recovered(journal.next_lsn, journal.next_number, journal.flushed_lsn, damaged=journal.damaged)
        by_session = _by_session(entry for frame in journal.frames for entry in frame.entries)
        written: list[str] = []
        for session_id, entries in by_session.items():
            written.extend(_recover_session(root, session_id, entries, recovered))
        for path, failure in durable.make_durable(written):
            session_id = os.path.relpath(path, root).split(os.sep)[0]
            _lose(root, session_id, by_session[session_id], recovered, f"it cannot be synced: {failure.strerror}")
        if journal.segments:
            write_resting_segment(folder, journal.next_number, journal.next_lsn)
            recovered.next_number += 1
        if journal.damaged:
            _set_aside(root, journal.segments)
        else:
            durable.remove_files(journal.segments)
    except OSError as error:
        raise StorageError(
            f"recovery of {root} failed: {error.strerror or error}; nothing is lost, make the disk writable and "
            "start again"
        ) from error
    return recovered


def keep_lost(root: str, session_id: str, body: bytes) -> str:
    """Append records to ``.lost/<id>.jsonl``, each once; returns the path."""
    path = os.path.join(paths.lost_folder(root), f"{session_id}.jsonl")
    durable.make_folder(os.path.dirname(path))
    there: set[bytes] = set()
    if os.path.exists(path):
        with open(path, "rb") as file:
            there = set(file.read().split(b"\n"))
    fresh = b"".join(line + b"\n" for line in _lines_of(body) if line not in there)
    if fresh:
        durable.append_file(path, fresh)
    return path


def renew_generation(folder: str) -> str:
    """Give a session a new generation, durably, before anything shown in it changes other than by appending."""
    generation = new_generation()
    try:
        raw, _ = read_summary(folder)
    except (NoSummary, MalformedSummary):
        return generation  # without a summary the generation is the first event's chain; nothing to renew
    raw["generation"] = generation
    durable.replace_file(paths.summary_path(folder), encode_summary(raw))
    return generation


def _lines_of(body: bytes) -> list[bytes]:
    """The records in these bytes, without their newlines. Not ``splitlines``: JSON may hold a carriage return."""
    lines = body.split(b"\n")
    return lines if lines[-1] else lines[:-1]


def _by_session(entries: Iterable[Entry]) -> dict[str, list[Entry]]:
    """The entries of each session in order; a barrier forgets what came before it, for that is flushed."""
    found: dict[str, list[Entry]] = {}
    for entry in entries:
        if entry.is_barrier:
            found.pop(entry.session_id, None)
        else:
            found.setdefault(entry.session_id, []).append(entry)
    return found


def _recover_session(root: str, session_id: str, entries: list[Entry], recovered: Recovered) -> list[str]:
    """Bring one session's files to what was acknowledged; returns the paths to make durable."""
    folder = paths.session_folder(root, session_id)
    if not os.path.isdir(folder):
        _lose(root, session_id, entries, recovered, "the session was removed before its last events were flushed")
        return []
    try:
        lock = SessionLock(folder)
        lock.acquire(LOCK_SECONDS)
        try:
            return _recover_locked(root, session_id, folder, entries, recovered)
        finally:
            lock.release()
    except OSError as error:
        if error.errno not in ONE_FOLDER_ERRORS:
            raise
        _lose(root, session_id, entries, recovered, f"its folder cannot be written: {error.strerror}")
        return []


def _lose(root: str, session_id: str, entries: list[Entry], recovered: Recovered, reason: str) -> None:
    keep_lost(root, session_id, b"".join(entry.body for entry in entries))
    recovered.lost[session_id] = reason


def _recover_locked(root: str, session_id: str, folder: str, entries: list[Entry], recovered: Recovered) -> list[str]:
    recovered.sessions.append(session_id)
    in_one_file = [entry for entry in entries if entry.file == LINES_FILE]
    if in_one_file:
        _rewrite_lines(folder, in_one_file)
    _rewrite_files(folder, [entry for entry in entries if entry.file != LINES_FILE])
    reading = read_log(folder)
    absent = _absent(reading, [line for entry in entries for line in _lines_of(entry.body)])
    if absent:
        _append_behind(root, session_id, folder, absent, entries[0], recovered)
    return [os.path.join(folder, name) for name in _files_of(folder, entries)]


def _rewrite_lines(folder: str, entries: list[Entry]) -> None:
    """Write each run over its place in ``events.jsonl`` if nobody else's whole record stands there.

    The same bytes are written again even where the file shows them: that compares the page cache, not the disk.
    """
    path = os.path.join(folder, LINES_FILE)
    ours = {line for entry in entries for line in _lines_of(entry.body)}
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
    ours = whole or _log_reaches(read_log(folder), entries[0])
    for there, entry in zip(standing, entries, strict=True):
        if there != entry.body:
            ours = ours and not (there is not None and _is_record(there))
            ours = ours and event_file_number(entry.file) not in taken
            if not ours:
                continue
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


def _absent(reading: LogReading, lines: list[bytes]) -> list[bytes]:
    """The acknowledged records that the log does not hold, neither in their place nor elsewhere."""
    chains = {record.chain for record in reading.records}
    waiting = [line for line in lines if stated_chain(line) not in chains]
    if not waiting:
        return []
    known = {record.event_id: record for record in reading.records}
    absent = []
    for line in waiting:
        ours = msgspec.json.decode(line, type=_Stored)
        other = known.get(ours.id)
        if other is None or not _same(ours, other.wire()):
            absent.append(line)
    return absent


def _append_behind(
    root: str, session_id: str, folder: str, absent: list[bytes], first: Entry, recovered: Recovered
) -> None:
    """Other events took the place of ours: they stay, ours follow under new numbers and a new generation."""
    reading = read_log(folder)
    if not _log_reaches(reading, first):
        keep_lost(root, session_id, b"\n".join(absent))
        recovered.lost[session_id] = "the log no longer holds the event before them"
        return
    renew_generation(folder)
    writer = SessionWriter.open(folder, session_id, "jsonl")
    for line in absent:
        stored = msgspec.json.decode(line, type=_Stored)
        parent_id = stored.parent_id if stored.parent_id and writer.has_event(stored.parent_id) else None
        if writer.has_event(stored.id):
            keep_lost(root, session_id, line)  # the same id with other content: both are kept, one of them here
            recovered.lost[session_id] = f"the id {stored.id!r} was taken by another event"
            continue
        event = NewEvent(type=stored.type, metadata=stored.metadata, id=stored.id, parent_id=parent_id, ts=stored.ts)
        numbered = writer.number([event], None, stored.ts)
        durable.append_file(os.path.join(folder, numbered.files[0]), numbered.records[0] + b"\n")
        writer.written(numbered)
    recovered.renumbered.append(session_id)


def _log_reaches(reading: LogReading, first: Entry) -> bool:
    if first.seq == 1:
        return True
    return any(record.seq == first.seq - 1 and record.chain == first.previous for record in reading.records)


def _chain_stands_before(folder: str, descriptor: int, entry: Entry) -> bool:
    """Whether the record that ends right before the entry's place has the chain that the entry follows."""
    if entry.seq == 1:
        return entry.offset == 0
    start = max(entry.offset - (1 << 16), 0)
    before = os.pread(descriptor, entry.offset - start, start)
    if entry.offset == 0:
        return _log_reaches(read_log(folder), entry)  # what came before lies in other files
    if not before.endswith(b"\n"):
        return False
    line_start = before.rfind(b"\n", 0, -1) + 1
    if line_start == 0 and start > 0:
        before = os.pread(descriptor, entry.offset, 0)
        line_start = before.rfind(b"\n", 0, -1) + 1
    stated = stated_chain(before[line_start:-1])
    return stated == entry.previous or (stated is None and _log_reaches(read_log(folder), entry))


def _foreign_record_in(tail: bytes, ours: set[bytes]) -> bool:
    """Whether the bytes from our place on hold a whole record that is none of ours."""
    return any(line not in ours and _is_record(line) for line in _lines_of(tail))


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


def _same(ours: _Stored, other: bytes) -> bool:
    try:
        theirs = msgspec.json.decode(other, type=_Stored)
        return ours.type == theirs.type and same_json(bytes(ours.metadata), bytes(theirs.metadata))
    except DECODE_ERRORS:  # what others wrote may be nothing that was ever acknowledged
        return False


def _files_of(folder: str, entries: list[Entry]) -> set[str]:
    """Those that are there; a link or a folder in the place of one is somebody else's."""
    return {entry.file for entry in entries if stat.S_ISREG(_mode_of(os.path.join(folder, entry.file)))}


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


def _set_aside(root: str, segments: list[str]) -> None:
    """Keep a damaged journal for whoever wants to look into it."""
    folder = os.path.join(paths.lost_folder(root), "journal-" + os.urandom(4).hex())
    durable.make_folder(folder)
    for path in segments:
        durable.move(path, os.path.join(folder, os.path.basename(path)))

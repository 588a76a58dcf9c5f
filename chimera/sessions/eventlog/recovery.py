"""Recovery: what the journal holds is written over the sessions' files, by chain (store rule 5).

One piece of code for the daemon's start, for a store whose disk failed, and for an embedder who finds the journal of
a daemon that died. Runs under the owner lock, makes no session folder, destroys nothing, and may be run again.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable

import msgspec

from chimera import durable, paths
from chimera.errors import MalformedSummary, NoSummary, StorageError
from chimera.events.chain import CHAIN_START, stated_chain
from chimera.identifiers import new_generation
from chimera.sessions.eventlog.journal import Entry, read_journal, write_resting_segment
from chimera.sessions.eventlog.locks import SessionLock
from chimera.sessions.eventlog.reader import LogReading, read_log
from chimera.sessions.eventlog.writer import NewEvent, SessionWriter, settle_tail
from chimera.sessions.summary import encode_summary, read_summary

__all__ = ["Recovered", "journal_waits", "keep_lost", "recover_root", "renew_generation"]


LOCK_SECONDS = 30.0
"""As long as the writers of the family wait for a session's lock themselves."""


ONE_FOLDER_ERRORS = frozenset({errno.ENOENT, errno.EACCES, errno.ENOTDIR, errno.ELOOP})
"""Errors that concern one session's folder and not the disk."""


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
        written: list[str] = []
        for session_id, entries in _by_session(entry for frame in journal.frames for entry in frame.entries).items():
            written.extend(_recover_session(root, session_id, entries, recovered))
        durable.make_durable(written)
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
            there = set(file.read().splitlines())
    fresh = b"".join(line + b"\n" for line in body.splitlines() if line not in there)
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
    lines = [line for entry in entries for line in entry.body.splitlines(keepends=True)]
    if not os.path.isdir(folder):
        keep_lost(root, session_id, b"".join(lines))
        recovered.lost[session_id] = "the session was removed before its last events were flushed"
        return []
    try:
        lock = SessionLock(folder)
        lock.acquire(LOCK_SECONDS)
        try:
            return _recover_locked(root, session_id, folder, entries, lines, recovered)
        finally:
            lock.release()
    except OSError as error:
        if error.errno not in ONE_FOLDER_ERRORS:
            raise
        keep_lost(root, session_id, b"".join(lines))
        recovered.lost[session_id] = f"its folder cannot be written: {error.strerror}"
        return []


def _recover_locked(
    root: str, session_id: str, folder: str, entries: list[Entry], lines: list[bytes], recovered: Recovered
) -> list[str]:
    recovered.sessions.append(session_id)
    if entries[0].file == "events.jsonl":
        _rewrite_lines(folder, entries)
    else:
        _rewrite_files(folder, entries)
    reading = read_log(folder)
    absent = _absent(reading, lines)
    if absent:
        _append_behind(root, session_id, folder, absent, entries[0], recovered)
    return [os.path.join(folder, name) for name in _files_of(folder, entries)]


def _rewrite_lines(folder: str, entries: list[Entry]) -> None:
    """Write each run over its place in ``events.jsonl`` if nobody else's whole record stands there.

    The same bytes are written again even where the file shows them: that compares the page cache, not the disk.
    """
    path = os.path.join(folder, "events.jsonl")
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, paths.FILE_MODE)
    try:
        for entry in entries:
            size = os.fstat(descriptor).st_size
            there = os.pread(descriptor, max(size - entry.offset, 0), entry.offset)
            if not there.startswith(entry.body) and (
                entry.offset > size or not _chain_stands_before(descriptor, entry) or _foreign_record_in(there, entries)
            ):
                _write_at(descriptor, there, entry.offset)
                return
            _write_at(descriptor, entry.body, entry.offset)
    finally:
        os.close(descriptor)


def _rewrite_files(folder: str, entries: list[Entry]) -> None:
    """Write each event file again if what stands in its place is that event, torn, or nothing."""
    for entry in entries:
        path = os.path.join(folder, entry.file)
        there = _bytes_of(path)
        if there is not None and there != entry.body and _is_record(there):
            continue
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, paths.FILE_MODE)
        try:
            _write_at(descriptor, entry.body, 0)
            os.ftruncate(descriptor, len(entry.body))
        finally:
            os.close(descriptor)


def _absent(reading: LogReading, lines: list[bytes]) -> list[bytes]:
    """The acknowledged records that the log does not hold, neither in their place nor elsewhere."""
    chains = {record.chain for record in reading.records}
    waiting = [line for line in lines if stated_chain(line[:-1]) not in chains]
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
        keep_lost(root, session_id, b"".join(absent))
        recovered.lost[session_id] = "the log no longer holds the event before them"
        return
    renew_generation(folder)
    if reading.tail is not None:
        settle_tail(folder, reading.tail)
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


def _chain_stands_before(descriptor: int, entry: Entry) -> bool:
    """Whether the record that ends right before the entry's place has the chain that the entry follows."""
    if entry.seq == 1:
        return entry.previous == CHAIN_START and entry.offset == 0
    start = max(entry.offset - (1 << 16), 0)
    before = os.pread(descriptor, entry.offset - start, start)
    if not before.endswith(b"\n"):
        return False
    line_start = before.rfind(b"\n", 0, -1) + 1
    if line_start == 0 and start > 0:
        before = os.pread(descriptor, entry.offset, 0)
        line_start = before.rfind(b"\n", 0, -1) + 1
    stated = stated_chain(before[line_start:-1])
    return stated is None or stated == entry.previous  # a foreign line states none; the reading afterwards judges


def _foreign_record_in(tail: bytes, entries: list[Entry]) -> bool:
    """Whether the bytes from our place on hold a whole record that is none of ours."""
    ours = {line for entry in entries for line in entry.body.splitlines()}
    lines = tail.split(b"\n")
    return any(line not in ours and _is_record(line) for line in lines)


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
    theirs = msgspec.json.decode(other, type=_Stored)
    if ours.type != theirs.type:
        return False
    return bool(msgspec.json.decode(ours.metadata) == msgspec.json.decode(theirs.metadata))


def _files_of(folder: str, entries: list[Entry]) -> set[str]:
    return {entry.file for entry in entries if os.path.lexists(os.path.join(folder, entry.file))}


def _bytes_of(path: str) -> bytes | None:
    try:
        with open(path, "rb") as file:
            return file.read()
    except FileNotFoundError:
        return None


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

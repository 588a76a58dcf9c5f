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
from chimera.events.chain import stated_chain
from chimera.identifiers import new_generation
from chimera.sessions.eventlog.journal import Entry, read_journal, write_resting_segment
from chimera.sessions.eventlog.locks import SessionLock
from chimera.sessions.eventlog.older_shapes import DECODE_ERRORS
from chimera.sessions.eventlog.reader import LogReading, read_log
from chimera.sessions.eventlog.rewrite import lines_of, log_reaches, rewrite
from chimera.sessions.eventlog.writer import NewEvent, SessionWriter, same_json
from chimera.sessions.summary import encode_summary, read_summary

__all__ = ["Recovered", "journal_waits", "keep_lost", "recover_root", "renew_generation"]


LOCK_SECONDS = 30.0
"""As long as the writers of the family wait for a session's lock themselves."""


ONE_FOLDER_ERRORS = frozenset(
    {errno.ENOENT, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENXIO}
)
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


def keep_lost(root: str, session_id: str, body: bytes) -> None:
    """Append records to ``.lost/<id>.jsonl``, each once."""
    path = _lost_path(root, session_id)
    durable.make_folder(os.path.dirname(path))
    kept = _kept_in_lost(root, session_id)
    there = set(kept.split(b"\n"))
    fresh = b"".join(line + b"\n" for line in lines_of(body) if line not in there)
    if fresh:
        torn = bool(kept) and not kept.endswith(b"\n")
        durable.append_file(path, b"\n" + fresh if torn else fresh)


def _kept_in_lost(root: str, session_id: str) -> bytes:
    try:
        with open(_lost_path(root, session_id), "rb") as file:
            return file.read()
    except FileNotFoundError:
        return b""


def _lost_path(root: str, session_id: str) -> str:
    return os.path.join(paths.lost_folder(root), f"{session_id}.jsonl")


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
    files = rewrite(folder, entries)
    reading = read_log(folder)
    absent = _absent(reading, [line for entry in entries for line in lines_of(entry.body)])
    if absent:
        _append_behind(root, session_id, folder, absent, entries[0], recovered)
    return files


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
    if not log_reaches(reading, first):
        keep_lost(root, session_id, b"\n".join(absent))
        recovered.lost[session_id] = "the log no longer holds the event before them"
        return
    known = {record.event_id for record in reading.records}
    events = [(line, msgspec.json.decode(line, type=_Stored)) for line in absent]
    taken = [line for line, event in events if event.id in known]
    kept = set(_kept_in_lost(root, session_id).split(b"\n"))
    if len(taken) < len(events) or not kept.issuperset(taken):
        renew_generation(folder)
    if taken:  # the same id with other content: both are kept, one of them here
        keep_lost(root, session_id, b"\n".join(taken))
        recovered.lost[session_id] = f"{len(taken)} event ids were taken by other events"
    _append([event for _, event in events if event.id not in known], session_id, folder)
    if len(taken) < len(events):
        recovered.renumbered.append(session_id)


def _append(events: list[_Stored], session_id: str, folder: str) -> None:
    if not events:
        return
    writer = SessionWriter.open(folder, session_id, "jsonl")
    for stored in events:
        parent_id = stored.parent_id if stored.parent_id and writer.has_event(stored.parent_id) else None
        event = NewEvent(type=stored.type, metadata=stored.metadata, id=stored.id, parent_id=parent_id, ts=stored.ts)
        writer.number([event], None, stored.ts)
    run = writer.end_run()
    assert run is not None
    for file, body in run.bodies():
        durable.append_file(os.path.join(folder, file), body)


def _same(ours: _Stored, other: bytes) -> bool:
    try:
        theirs = msgspec.json.decode(other, type=_Stored)
        return ours.type == theirs.type and same_json(bytes(ours.metadata), bytes(theirs.metadata))
    except DECODE_ERRORS:  # what others wrote may be nothing that was ever acknowledged
        return False


def _set_aside(root: str, segments: list[str]) -> None:
    """Keep a damaged journal for whoever wants to look into it."""
    folder = os.path.join(paths.lost_folder(root), "journal-" + os.urandom(4).hex())
    durable.make_folder(folder)
    for path in segments:
        durable.move(path, os.path.join(folder, os.path.basename(path)))

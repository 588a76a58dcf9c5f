"""The check of one session: every event decoded, the chain followed, the summary held against the log.

Reports and changes nothing. What it cannot see is said in ``docs/on-disk.md``.
"""

from __future__ import annotations

import os

from chimera.errors import MalformedSummary, NoSummary
from chimera.events.chain import CHAIN_START
from chimera.events.event import Problem
from chimera.sessions.eventlog.older_shapes import decode_object
from chimera.sessions.eventlog.reader import LogReading, read_log
from chimera.sessions.summary import read_summary

__all__ = ["verify_session"]


def verify_session(folder: str) -> tuple[int, list[Problem]]:
    """How many events the session has, and everything that is wrong with it.

    Raises:
        OSError: the folder cannot be listed.
    """
    reading = read_log(folder)
    problems = list(reading.problems)
    problems.extend(_check_records(reading))
    problems.extend(_check_summary(reading))
    return len(reading.records), problems


def _check_records(reading: LogReading) -> list[Problem]:
    """What reading takes on trust: that a record whose chain holds is an event, and the only one of its id."""
    problems = []
    seen: set[str] = set()
    for record in reading.records:
        event = decode_object(record.raw)
        if event is None or (record.ours and not isinstance(event.get("metadata"), dict)):
            problems.append(_problem(reading, "not_json", "the record is no event", record.seq, record.file))
        if record.event_id in seen:
            detail = f"another event already has the id {record.event_id!r}"
            problems.append(_problem(reading, "duplicate", detail, record.seq, record.file))
        seen.add(record.event_id)
    return problems


def _check_summary(reading: LogReading) -> list[Problem]:
    """A log that is shorter than its summary says was cut off, or holds another history."""
    try:
        _, summary = read_summary(reading.folder)
    except NoSummary:
        return []  # a log without one is whole: an embedder's, or a foreign run that was aborted (store rule 14)
    except MalformedSummary as error:
        return [_problem(reading, "malformed_summary", error.message, file="summary.json")]
    problems = [_problem(reading, "malformed_summary", detail, file="summary.json") for detail in summary.problems]
    if summary.events is not None:
        problems.extend(_check_head(reading, summary.events, summary.chain))
    return problems


def _check_head(reading: LogReading, events: int, stated: str | None) -> list[Problem]:
    """The log had ``events`` events and this chain when the summary was written."""
    if events > reading.head_seq:
        detail = f"the summary knows {events} events, the log ends at {reading.head_seq}"
        return [_problem(reading, "cut_off", detail, reading.head_seq + 1, "summary.json")]
    chain = CHAIN_START if events == 0 else None
    for record in reading.records:
        if record.seq == events:
            chain = record.chain
    if stated is None or chain is None or stated == chain.decode():
        return []
    detail = f"the summary names another chain after event {events}"
    return [_problem(reading, "chain", detail, events, "summary.json")]


def _problem(reading: LogReading, kind: str, detail: str, seq: int | None = None, file: str | None = None) -> Problem:
    name = os.path.basename(os.path.normpath(reading.folder))
    return Problem(session_id=name, kind=kind, detail=detail, seq=seq, file=file)

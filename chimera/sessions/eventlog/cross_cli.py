"""One walker over the sessions of all seven flavours, and one way to look into a single session.

Reads the files directly: no daemon is needed and nothing is written. The daemon answers the same questions from its
index; this is for embedders, and for whoever cannot reach a daemon. ``chimera.<flavour>.sessions`` hands these
functions on under the names the documents use.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

import msgspec

from chimera import paths
from chimera.errors import InvalidId, MalformedSummary, NoSummary, SessionNotFound, StorageError
from chimera.events.event import Problem, event_to_json
from chimera.flavours import flavour_named, origin_of
from chimera.identifiers import EPOCH_UNKNOWN, check_session_id, epoch_microseconds
from chimera.sessions.eventlog.reader import read_log
from chimera.sessions.eventlog.records import events_of
from chimera.sessions.since import since_microseconds
from chimera.sessions.summary import read_summary, session_record

__all__ = ["SessionDetail", "SessionRecord", "get_session", "iter_sessions", "parse_since"]

EVENT_FILE = re.compile(r"event-\d+-.+\.json\Z")


SessionState = Literal["running", "open", "finished", "recovered"]


class SessionRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One session as a list shows it: the fields of a ``sessions.list`` record, in their order."""

    session_id: str
    started_at: str
    ended_at: str
    model: str
    prompt: str
    title: str | None
    success: bool
    cost_usd: float
    steps: int
    tool_calls: int
    path: str
    error: Any
    cli_origin: str
    cwd: str
    tags: list[str]
    events: int
    cost_source: str
    state: SessionState

    def to_dict(self) -> dict[str, Any]:
        """The record as ``--json`` prints it."""
        return {name: getattr(self, name) for name in self.__struct_fields__}


class SessionDetail(msgspec.Struct, frozen=True, kw_only=True):
    """One session in full.

    Attributes:
        summary: the object in ``summary.json``, every key as it lies there.
        events: the events that are there, in order, each with ``seq``, ``id``, ``parent_id``, ``type``, ``ts``,
            ``metadata`` and, where it has one, ``chain``.
        missing: the numbers (``seq``) of events that should be there and are not.
        problems: what else is wrong with its files.
    """

    session_id: str
    path: str
    summary: dict[str, Any]
    events: list[dict[str, Any]]
    missing: list[int]
    problems: list[Problem]

    def to_dict(self) -> dict[str, Any]:
        """The session as ``show --json`` prints it."""
        return {"session_id": self.session_id, "path": self.path, "summary": self.summary, "events": self.events}


def parse_since(value: str, now: datetime | None = None) -> datetime:
    """The moment that ``7d``, ``24h``, ``30m``, ``90s``, ``2w`` or an ISO-8601 text names, in UTC.

    Raises:
        ValueError: the text is blank or none of these; the message says what is expected.
    """
    cutoff_us = since_microseconds(value, None if now is None else now.timestamp())
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=cutoff_us)


def iter_sessions(
    *,
    flavour: str | None = None,
    all_clis: bool = False,
    eventlog_root: str | os.PathLike[str] | None = None,
    since: str | datetime | None = None,
    model: str | None = None,
    success: bool | None = None,
    limit: int | None = None,
    report: Callable[[Problem], None] | None = None,
) -> Iterator[SessionRecord]:
    """The sessions of one flavour (or of all: ``flavour=None`` or ``all_clis=True``), newest first.

    Newest by start time whatever the flavour; a session whose start time cannot be read is kept and comes last.
    Folders of no flavour and sessions without a summary are passed over. A session that cannot be read is passed
    over too, and told to ``report``; so is every value of a summary that had to be replaced by its default.

    Args:
        since: see :func:`parse_since`; sessions that started at that moment still count.
        model: the exact name.
        limit: how many at most; None, 0 and less: all.

    Raises:
        ValueError: ``since`` makes no sense.
        InvalidParams: there is no such flavour.
        StorageError: the event log itself cannot be read.
    """
    cutoff_us = None if since is None else _cutoff_microseconds(since)
    root = _root(eventlog_root)
    wanted = None if all_clis or flavour is None else flavour_named(flavour).name
    tell = report or _ignore
    found: list[tuple[int, str, dict[str, object]]] = []
    for session_id in _session_names(root, wanted, tell):
        record = _record(root, session_id, tell)
        if record is None:
            continue
        started_us = epoch_microseconds(str(record["started_at"]))
        if cutoff_us is not None and started_us != EPOCH_UNKNOWN and started_us < cutoff_us:
            continue
        if (model is None or record["model"] == model) and (success is None or record["success"] is success):
            found.append((started_us, session_id, record))
    found.sort(key=lambda item: (item[0] != EPOCH_UNKNOWN, item[0], item[1]), reverse=True)
    kept = found[:limit] if limit is not None and limit > 0 else found
    return (_counted(record) for _, _, record in kept)


def get_session(session_id: str, *, eventlog_root: str | os.PathLike[str] | None = None) -> SessionDetail:
    """One session by the name of its folder, whichever flavour wrote it.

    Raises:
        InvalidId: the id is not one plain folder name.
        SessionNotFound: there is no such folder.
        NoSummary, MalformedSummary: it has no ``summary.json`` that says what it is.
    """
    root = _root(eventlog_root)
    folder = paths.session_folder(root, check_session_id(session_id))
    if not os.path.isdir(folder):
        raise SessionNotFound(f"session not found: {session_id}; `chimera sessions list` shows what is in {root}")
    summary, view = read_summary(folder)
    reading = read_log(folder)
    return SessionDetail(
        session_id=session_id,
        path=folder,
        summary=summary,
        events=[event_to_json(event) for event in events_of(reading.records)],
        missing=list(reading.missing),
        problems=[*reading.problems, *_value_problems(session_id, view.problems)],
    )


def _root(eventlog_root: str | os.PathLike[str] | None) -> str:
    if eventlog_root is None:
        return paths.eventlog_root(paths.home())
    return os.path.abspath(os.path.expanduser(os.fspath(eventlog_root)))


def _cutoff_microseconds(since: str | datetime) -> int:
    if isinstance(since, str):
        return since_microseconds(since)
    aware = since if since.tzinfo else since.replace(tzinfo=UTC)
    return (aware - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


def _session_names(root: str, flavour: str | None, report: Callable[[Problem], None]) -> Iterator[str]:
    """The folders of the root that a flavour has named; a home without an event log has none."""
    try:
        entries = list(os.scandir(root))
    except FileNotFoundError:
        return
    except OSError as error:
        raise StorageError(f"the event log {root} cannot be read: {error.strerror}") from error
    for entry in entries:
        origin = origin_of(entry.name)
        if not origin or (flavour is not None and origin != flavour):
            continue
        try:
            if entry.is_dir():
                yield check_session_id(entry.name)
        except InvalidId as error:
            report(Problem(session_id=ascii(entry.name), kind="unreadable", detail=error.message))
        except OSError as error:  # a loop of symbolic links, a folder behind another user's
            report(Problem(session_id=entry.name, kind="unreadable", detail=str(error.strerror)))


def _record(root: str, session_id: str, report: Callable[[Problem], None]) -> dict[str, object] | None:
    folder = paths.session_folder(root, session_id)
    try:
        _, view = read_summary(folder)
    except NoSummary:
        return None
    except MalformedSummary as error:
        report(_summary_problem(session_id, error.message))
        return None
    for problem in _value_problems(session_id, view.problems):
        report(problem)
    return session_record(view, folder, 0)


def _counted(record: dict[str, Any]) -> SessionRecord:
    """The record with its events counted, which waits until it is known that it will be shown."""
    record["events"] = _count_events(record["path"])
    return SessionRecord(**record)


def _count_events(folder: str) -> int:
    """How many events there are, by their files' names and lines; a log that was packed is read."""
    try:
        names = os.listdir(folder)
        if "events.jsonl.zst" in names:
            return len(read_log(folder).records)
        count = sum(1 for name in names if EVENT_FILE.match(name))
        if "events.jsonl" in names:
            with open(os.path.join(folder, "events.jsonl"), "rb") as file:
                count += sum(chunk.count(b"\n") for chunk in iter(lambda: file.read(1 << 20), b""))
    except OSError:
        return 0  # removed while we looked
    return count


def _value_problems(session_id: str, details: tuple[str, ...]) -> list[Problem]:
    return [_summary_problem(session_id, detail) for detail in details]


def _summary_problem(session_id: str, detail: str) -> Problem:
    return Problem(session_id=session_id, kind="malformed_summary", detail=detail, file="summary.json")


def _ignore(_: Problem) -> None:
    """For callers that do not want to know."""

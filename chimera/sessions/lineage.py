"""What a forked session has from its parent: referred to by the point it left at, not copied.

    summary.json    "parent_session": {"session_id", "event_id", "seq", "chain"}
    inherited.jsonl the inherited events themselves, once the parent is going to be no more

A parent is looked for among the sessions, then in the trash, and must still be the one that was forked: its chain at
that number says so. Reads everything; writes ``inherited.jsonl`` alone.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

import msgspec

from chimera import durable, paths
from chimera.errors import LogGapError, MalformedSummary, NoSummary
from chimera.events.chain import CHAIN_START
from chimera.events.event import Event, event_to_json
from chimera.sessions.event_tree import EventTree
from chimera.sessions.eventlog.reader import read_log, require_whole
from chimera.sessions.eventlog.records import events_of
from chimera.sessions.eventlog.writer import SessionWriter
from chimera.sessions.summary import read_summary

__all__ = [
    "ForkPoint",
    "fork_point_of",
    "forks_by_parent",
    "inherit",
    "inherited_events",
    "keep_inherited",
    "link_blobs",
    "point_at",
]

INHERITED_FILE = "inherited.jsonl"
MOST_GENERATIONS = 100

_decode_lines = msgspec.json.Decoder(Event).decode_lines
_encode = msgspec.json.Encoder().encode


class ForkPoint(msgspec.Struct, frozen=True):
    """Where a session left its parent.

    Attributes:
        event_id: the last event that both have.
        seq: how many of the parent's own events there were up to it; 0 where it is one that the parent inherited.
        chain: the parent's chain there.
    """

    session_id: str
    event_id: str
    seq: int
    chain: str


class _Manifest(msgspec.Struct):
    session_id: str = ""


def fork_point_of(folder: str) -> ForkPoint | None:
    """Where the session in ``folder`` was forked off; None for one that was not."""
    try:
        _, view = read_summary(folder)
        return msgspec.convert(view.parent_session, ForkPoint)
    except (NoSummary, MalformedSummary, msgspec.ValidationError):
        return None  # it has none, or names a parent as others do, without a point


def point_at(folder: str, event: Event) -> ForkPoint:
    """The point to fork the session in ``folder`` at, for an event of it or one that it inherited.

    Raises:
        LogGapError: events are missing before it.
    """
    session_id = os.path.basename(os.path.normpath(folder))
    reading = read_log(folder)
    require_whole(reading)
    own = reading.records[event.seq - 1] if 0 < event.seq <= len(reading.records) else None
    if own is None or own.event_id != event.id:
        return ForkPoint(session_id, event.id, 0, CHAIN_START.decode())
    return ForkPoint(session_id, event.id, event.seq, own.chain.decode())


def inherited_events(folder: str) -> list[Event]:
    """What the session in ``folder`` has from its parents: the events from the root to the fork, oldest first.

    Raises:
        LogGapError: a parent is no more, is another one now, or lacks events; ``parent_missing`` names it.
    """
    return _inherited(folder, set())


def inherit(writer: SessionWriter) -> None:
    """Tell the writer of a session what it inherits; nothing for one that was not forked.

    Where the parent is missing the session can be written all the same, from the fork on.
    """
    point = fork_point_of(writer.folder)
    if point is None:
        return
    try:
        known = frozenset(event.id for event in inherited_events(writer.folder))
    except LogGapError:
        known = frozenset()
    writer.inherit(known | {point.event_id}, point.event_id)


def keep_inherited(folder: str) -> None:
    """Write what a session inherits into its own folder, durably, so that it needs its parent no more.

    Raises:
        LogGapError: as :func:`inherited_events`. OSError: nothing has changed.
    """
    path = os.path.join(folder, INHERITED_FILE)
    if not os.path.exists(path):
        lines = [_encode(event_to_json(event)) for event in inherited_events(folder)]
        durable.replace_file(path, b"".join(line + b"\n" for line in lines))


def forks_by_parent(root: str) -> dict[str, list[str]]:
    """The folders of all forked sessions, those in the trash among them, by the id of their parent."""
    found: dict[str, list[str]] = {}
    for folder in (root, paths.trash_folder(root)):
        try:
            names = sorted(os.listdir(folder))
        except FileNotFoundError:
            continue
        for name in names:
            child = os.path.join(folder, name)
            point = fork_point_of(child) if not name.startswith(".") else None
            if point is not None:
                found.setdefault(point.session_id, []).append(child)
    return found


def link_blobs(parent: str, events: Iterable[Event], child: str) -> None:
    """Let a forked session have what the files of these events were: links to its parent's blobs, not copies.

    Raises:
        OSError: some are not linked.
    """
    digests = {digest for event in events if event.type == "file_access" for digest in _digests_in(event)}
    source, target = paths.blobs_folder(parent), paths.blobs_folder(child)
    names = [name for name in _names_in(source) if name.partition(".")[0] in digests]
    if names:
        durable.make_folder(target)
        for name in names:
            os.link(os.path.join(source, name), os.path.join(target, name))
        durable.sync_folder(target)


def _inherited(folder: str, seen: set[str]) -> list[Event]:
    kept = _kept(folder)
    if kept is not None:
        return kept
    point = fork_point_of(folder)
    if point is None:
        return []
    if point.session_id in seen or len(seen) > MOST_GENERATIONS:
        raise _missing(folder, point, "it is among its own descendants")
    parent = _find(os.path.dirname(folder), point)
    if parent is None:
        raise _missing(folder, point, "it is not there, or is another one now")
    events = [*_inherited(parent, {*seen, point.session_id}), *_own_events(parent, point)]
    tree = EventTree(events)
    if point.event_id not in tree:
        raise _missing(folder, point, f"it holds no event {point.event_id!r}")
    return tree.path(point.event_id)


def _kept(folder: str) -> list[Event] | None:
    try:
        with open(os.path.join(folder, INHERITED_FILE), "rb") as file:
            return _decode_lines(file.read())
    except FileNotFoundError:
        return None
    except msgspec.DecodeError as error:
        raise LogGapError(
            f"{INHERITED_FILE} of {os.path.basename(folder)!r} cannot be read ({error}); what it inherited is missing",
            missing=[],
        ) from None


def _own_events(folder: str, point: ForkPoint) -> list[Event]:
    reading = read_log(folder)
    records = reading.records[: point.seq]
    if [record.seq for record in records] != list(range(1, point.seq + 1)):
        require_whole(reading)
    return events_of(records)


def _find(beside: str, point: ForkPoint) -> str | None:
    """The parent's folder, if it is still the one that was forked."""
    root = os.path.dirname(beside) if os.path.basename(beside) == ".trash" else beside
    trash = paths.trash_folder(root)
    candidates = [paths.session_folder(root, point.session_id)]
    candidates += [os.path.join(trash, trash_id) for trash_id in _trashed(trash, point.session_id)]
    return next((folder for folder in candidates if _was_forked_there(folder, point)), None)


def _trashed(trash: str, session_id: str) -> list[str]:
    try:
        names = sorted(os.listdir(trash))
    except FileNotFoundError:
        return []
    found = []
    for name in names:
        if name.endswith(".json"):
            try:
                with open(os.path.join(trash, name), "rb") as file:
                    manifest = msgspec.json.decode(file.read(), type=_Manifest)
            except (OSError, msgspec.DecodeError):
                continue  # another item of the trash; who lists the trash reports it
            if manifest.session_id == session_id:
                found.append(name[: -len(".json")])
    return found


def _was_forked_there(folder: str, point: ForkPoint) -> bool:
    if not os.path.isdir(folder):
        return False
    if point.seq == 0:
        return True
    records = read_log(folder).records
    return point.seq <= len(records) and records[point.seq - 1].chain.decode() == point.chain


def _digests_in(event: Event) -> list[str]:
    images = [event.metadata.get("before"), event.metadata.get("after")]
    return [image["blob"] for image in images if isinstance(image, dict) and isinstance(image.get("blob"), str)]


def _names_in(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except FileNotFoundError:
        return []


def _missing(folder: str, point: ForkPoint, why: str) -> LogGapError:
    return LogGapError(
        f"the session {os.path.basename(folder)!r} was forked from {point.session_id!r}, and {why}; "
        "its own events can be read with sessions.read",
        missing=[],
        parent_missing=point.session_id,
    )

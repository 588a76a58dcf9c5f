"""Undo, redo and named checkpoints of one session: which point to go to, and which writes of files lie on the way.

Going somewhere is an event whose parent is that point, so nothing is lost and every step can be taken back:

    undo           {op: "undo", kind, undone, from, from_branch, branch}   parent: the event before what is undone
    undo           {op: "redo", of, from, from_branch, branch}             parent: the leaf before that undo
    switch         {to, branch, checkpoint, from, from_branch}             parent: the checkpoint
    checkpoint     {name, branch}                                          names the point it stands at

What such a step puts back on the disk follows it as ``file_access`` events with ``restored``: undoing those takes the
step itself back. Nobody else counts them, for with them the disk is again what the path says; only where the files were
put back and the conversation stayed they are part of the path's own story. Pure: knows neither disk nor log.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from chimera.errors import InvalidParams
from chimera.events.event import Event
from chimera.sessions.event_tree import EventTree
from chimera.sessions.proposals import Proposal, check_name

__all__ = ["Journey", "propose_checkpoint", "propose_redo", "propose_restore", "propose_undo"]

QUIET = frozenset({"undo", "label", "checkpoint", "steering", "queued", "error", "cancelled", "turn_end"})
"""Anything but these is a new deed, after which there is nothing to redo."""


class Journey(msgspec.Struct):
    """One step through the session's past.

    Attributes:
        kind: what is taken back or done again: ``turn``, ``compaction``, ``switch`` or ``restore``.
        proposal: the event that goes there.
        undone: the events that are left behind.
        back, forth: ``file_access`` events of writes whose effect is taken back, then of those done again.
    """

    kind: str
    proposal: Proposal
    undone: list[str]
    back: list[Event]
    forth: list[Event]


class _Unit(msgspec.Struct):
    """What one undo takes back; ``to`` is where it goes, ``branch`` the branch that is current there."""

    kind: str
    events: list[Event]
    to: str | None
    branch: str


def propose_checkpoint(tree: EventTree, name: str) -> Proposal:
    """Name the leaf; a name that is used again names the new point.

    Raises:
        InvalidParams: the name is not one.
    """
    check_name(name, "the checkpoint")
    return Proposal("checkpoint", {"name": name, "branch": tree.current})


def propose_undo(tree: EventTree) -> Journey:
    """Take back the newest turn, compaction, switch or restored checkpoint.

    Raises:
        InvalidParams: there is nothing to undo.
    """
    unit = _newest_unit(tree)
    if unit is None:
        raise InvalidParams("there is nothing to undo; the session has no turn, compaction or switch on this branch")
    undone = [event.id for event in unit.events]
    metadata = {"op": "undo", "kind": unit.kind, "undone": undone, "branch": unit.branch, **_origin(tree)}
    back = _writes(unit.events) if unit.kind == "turn" else _restored_behind(unit.events)
    return Journey(unit.kind, Proposal("undo", metadata, unit.to), undone, back, [])


def propose_redo(tree: EventTree) -> Journey:
    """Do again what the newest undo has taken back, as long as nothing new was done since.

    Raises:
        InvalidParams: there is nothing to redo.
    """
    undone = _undone_since_last_deed(tree.events)
    if not undone:
        raise InvalidParams("there is nothing to redo; something new was done since the last undo, or none was made")
    undo = undone[-1]
    to = undo.metadata.get("from")
    if not isinstance(to, str) or to not in tree:
        raise InvalidParams("the undo does not say where it came from; it cannot be redone")
    since = _since(tree, undo.id)
    metadata = {"op": "redo", "of": undo.id, "branch": undo.metadata.get("from_branch"), **_origin(tree)}
    kind = undo.metadata.get("kind")
    left = [event.id for event in since]
    back = _restored_behind(since)
    return Journey(kind if isinstance(kind, str) else "turn", Proposal("undo", metadata, to), left, back, [])


def propose_restore(tree: EventTree, name: str, *, conversation: bool = True) -> Journey:
    """Go to a named checkpoint: its conversation, and on the way its files.

    With ``conversation`` false the path stays what it is and only the files are of interest.

    Raises:
        InvalidParams: there is no such checkpoint.
    """
    checkpoint = tree.checkpoints.get(name)
    if checkpoint is None:
        known = ", ".join(tree.checkpoints) or "none"
        raise InvalidParams(f"there is no checkpoint {name!r}; there are: {known}")
    here, there = tree.path(), tree.path(checkpoint.id)
    common = _common_length(here, there)
    back, forth = _writes(here[common:]), _writes(there[common:])
    left = [event.id for event in here[common:]]
    to = checkpoint.id if conversation else tree.leaf
    branch = _branch_of(tree, checkpoint) if conversation else tree.current
    metadata = {"to": to, "branch": branch, "checkpoint": name, **_origin(tree)}
    return Journey("restore", Proposal("switch", metadata, to), left if conversation else [], back, forth)


def _newest_unit(tree: EventTree) -> _Unit | None:
    path = tree.path()
    for at in range(len(path) - 1, -1, -1):
        event = path[at]
        if event.type == "compaction":
            return _Unit("compaction", [event], event.parent_id, tree.current)
        if event.type == "switch":
            kind = "restore" if event.metadata.get("checkpoint") else "switch"
            return _Unit(kind, path[at:], *_left_behind(tree, event))
        if _begins_turn(path, at):
            return _Unit("turn", path[at:], event.parent_id, tree.current)
    return None


def _begins_turn(path: Sequence[Event], at: int) -> bool:
    """A turn begins with ``turn_start``, or with a user message that is not in the middle of one."""
    event = path[at]
    if event.type == "turn_start":
        return True
    if event.type not in ("user_message", "user") or event.metadata.get("steering"):
        return False
    return at == 0 or path[at - 1].type != "turn_start"


def _left_behind(tree: EventTree, switch: Event) -> tuple[str | None, str]:
    """Where a switch came from: the leaf and the branch."""
    leaf, branch = switch.metadata.get("from"), switch.metadata.get("from_branch")
    if not isinstance(leaf, str) or leaf not in tree:
        at = tree.events.index(switch)
        leaf = tree.events[at - 1].id if at else None
    return leaf, branch if isinstance(branch, str) else tree.current


def _undone_since_last_deed(events: Sequence[Event]) -> list[Event]:
    """The undos that can be redone, oldest first."""
    undone: list[Event] = []
    for event in events:
        if event.type == "undo":
            if event.metadata.get("op") != "redo":
                undone.append(event)
            elif undone:
                undone.pop()
        elif event.type not in QUIET and not event.metadata.get("restored"):
            undone.clear()
    return undone


def _since(tree: EventTree, event_id: str) -> list[Event]:
    """The events of the current path from this one on."""
    path = tree.path()
    for at, event in enumerate(path):
        if event.id == event_id:
            return path[at:]
    return []


def _writes(events: Sequence[Event]) -> list[Event]:
    """What the session's tools wrote, and what was put back under their hands while the conversation stayed."""
    found = []
    stayed = False  # the events at hand are those of a restore of files alone
    for event in events:
        if _is_write(event) and (stayed or not event.metadata.get("restored")):
            found.append(event)
        if event.type == "switch":
            stayed = event.metadata.get("to") == event.metadata.get("from")
        elif event.type != "file_access":
            stayed = False
    return found


def _restored_behind(events: Sequence[Event]) -> list[Event]:
    """What the first of these, a step through the past, put back on the disk: told directly behind it."""
    restored = []
    for event in events[1:]:
        if not (_is_write(event) and event.metadata.get("restored")):
            break
        restored.append(event)
    return restored


def _is_write(event: Event) -> bool:
    return event.type == "file_access" and event.metadata.get("mode") == "write"


def _common_length(one: Sequence[Event], other: Sequence[Event]) -> int:
    length = 0
    while length < min(len(one), len(other)) and one[length].id == other[length].id:
        length += 1
    return length


def _branch_of(tree: EventTree, checkpoint: Event) -> str:
    """The branch that was current when the checkpoint was saved."""
    branch = checkpoint.metadata.get("branch")
    return branch if isinstance(branch, str) and branch in tree.branches else tree.current


def _origin(tree: EventTree) -> dict[str, Any]:
    return {"from": tree.leaf, "from_branch": tree.current}

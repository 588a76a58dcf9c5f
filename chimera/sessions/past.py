"""Going back and forth in a session: undo, redo, checkpoints, compaction. Each is one change of its history.

The same for a session in a program and for one that the daemon keeps: both have a ``History``. What is done to files
comes before what is told to the log (chimera.sessions.taking_back). Blocking.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec
from msgspec import UNSET

from chimera.blobs import BlobStore
from chimera.checkpoints import Journey, propose_checkpoint, propose_redo, propose_restore, propose_undo
from chimera.compaction import CompactionPlan, CompactionRequest, CompactionStrategy, Usage
from chimera.errors import ChimeraError, InvalidParams
from chimera.events.event import Event
from chimera.file_restore import Conflict
from chimera.sessions.event_tree import EventTree
from chimera.sessions.history import History
from chimera.sessions.proposals import Proposal
from chimera.sessions.taking_back import FilesTaken, preview_files, proposals_of_journey, take_files

__all__ = ["Taken", "compact", "redo", "restore_checkpoint", "save_checkpoint", "undo"]


class Taken(msgspec.Struct):
    """What steps through the past came to: the events left behind, and what became of the files."""

    undone: list[str] = []
    restored: list[str] = []
    conflicts: list[Conflict] = []


def undo(
    history: History,
    blobs: BlobStore,
    *,
    count: int = 1,
    files: bool = True,
    dry_run: bool = False,
    force: bool = False,
) -> Taken:
    """Take back the newest ``count`` of turns, compactions, switches and restored checkpoints.

    Where there are fewer, as many as there are; each step is whole by itself.

    Raises:
        InvalidParams: there is nothing to undo.
        what recording raises: the steps before stay undone.
    """
    return _travel(history, blobs, propose_undo, count, files, dry_run, force)


def redo(
    history: History,
    blobs: BlobStore,
    *,
    count: int = 1,
    files: bool = True,
    dry_run: bool = False,
    force: bool = False,
) -> Taken:
    """Do again what the newest ``count`` undos have taken back, as long as nothing new was done. Raises as undo."""
    return _travel(history, blobs, propose_redo, count, files, dry_run, force)


def save_checkpoint(history: History, name: str) -> Event:
    """Name the point where the session stands. Raises InvalidParams: the name is not one."""
    return history.record(propose_checkpoint(history.tree, name))[-1]


def restore_checkpoint(
    history: History,
    blobs: BlobStore,
    name: str,
    *,
    conversation: bool = True,
    files: bool = True,
    dry_run: bool = False,
    force: bool = False,
) -> Taken:
    """Go to a checkpoint: its conversation, its files, or both.

    Raises:
        InvalidParams: there is no such checkpoint, or neither conversation nor files are wanted.
    """
    if not (conversation or files):
        raise InvalidParams("neither conversation nor files are to be restored; ask for at least one of them")
    journey = propose_restore(history.tree, name, conversation=conversation)
    if dry_run:
        preview = preview_files([journey], blobs) if files else FilesTaken()
        return Taken(journey.undone, preview.restored, preview.conflicts)
    found = Taken()
    _add(found, journey, _step(history, blobs, journey, files, force))
    return found


async def compact(
    history: History,
    strategy: CompactionStrategy,
    *,
    window: int = 0,
    usage: Usage | None = None,
    instructions: str | None = None,
    dry_run: bool = False,
    force: bool = True,
) -> tuple[CompactionPlan | None, Event | None]:
    """Shorten the context by one event; without one, and None for the plan, when there is nothing worth doing.

    Raises:
        ChimeraError: no summary could be had; the session is as it was, with an ``error`` event.
    """
    state = history.state
    request = CompactionRequest(
        messages=state.messages,
        window=window,
        usage=usage,
        instructions=instructions,
        read_files=state.files_read,
        modified_files=state.files_modified,
        force=force,
    )
    try:
        plan = await strategy.plan(request)
    except ChimeraError as error:
        if not dry_run:
            history.record(Proposal("error", {"message": error.message, "kind": error.kind}))
        raise
    if plan is None or dry_run:
        return plan, None
    return plan, history.record(Proposal("compaction", plan.metadata()))[-1]


def _travel(
    history: History,
    blobs: BlobStore,
    propose: Callable[[EventTree], Journey],
    count: int,
    files: bool,
    dry_run: bool,
    force: bool,
) -> Taken:
    if dry_run:
        return _preview(history, blobs, propose, count, files)
    found = Taken()
    for number in range(count):
        journey = _next(propose, history.tree, number)
        if journey is None:
            break
        _add(found, journey, _step(history, blobs, journey, files, force))
    return found


def _preview(
    history: History, blobs: BlobStore, propose: Callable[[EventTree], Journey], count: int, files: bool
) -> Taken:
    """What the steps would come to, taken on a copy of the tree."""
    tree = EventTree(history.events) if count > 1 else history.tree
    journeys: list[Journey] = []
    for number in range(count):
        journey = _next(propose, tree, number)
        if journey is None:
            break
        journeys.append(journey)
        if count > 1:
            tree.add(_imagined(tree, journey.proposal))
    taken = preview_files(journeys, blobs) if files else FilesTaken()
    undone = [event_id for journey in journeys for event_id in journey.undone]
    return Taken(undone, taken.restored, taken.conflicts)


def _next(propose: Callable[[EventTree], Journey], tree: EventTree, number: int) -> Journey | None:
    """The next step; None when there is no further one. That there is not even a first one is an error."""
    try:
        return propose(tree)
    except InvalidParams:
        if number:
            return None
        raise


def _step(history: History, blobs: BlobStore, journey: Journey, files: bool, force: bool) -> FilesTaken:
    taken = take_files(journey, blobs, force=force) if files else FilesTaken()
    history.record_all(proposals_of_journey(journey, taken))
    return taken


def _add(found: Taken, journey: Journey, taken: FilesTaken) -> None:
    found.undone += journey.undone
    found.restored += [path for path in taken.restored if path not in found.restored]
    found.conflicts += [one for one in taken.conflicts if one not in found.conflicts]


def _imagined(tree: EventTree, proposal: Proposal) -> Event:
    """The event that a step would leave, for the next step of a dry run to stand on."""
    parent_id = tree.leaf if proposal.parent_id is UNSET else proposal.parent_id
    seq = len(tree.events) + 1
    return Event(
        seq=seq, id=f"imagined-{seq}", parent_id=parent_id, type=proposal.type, ts="", metadata=proposal.metadata
    )

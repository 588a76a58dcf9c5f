"""The files of an undo, a redo or a restored checkpoint: put back first, then told to the log.

In that order a crash in between loses nothing: asked again, the files are found to be as wanted already. What was put
back is told as ``file_access`` events with ``restored``, for the next step to expect. Knows no log and no tree.
"""

from __future__ import annotations

import msgspec

from chimera.blobs import BlobStore
from chimera.checkpoints import Journey
from chimera.core.file_tracker import FileAccess
from chimera.events.event import Event
from chimera.file_restore import Conflict, PlannedFile, apply, inspect, plan_restore
from chimera.sessions.proposals import Proposal

__all__ = ["FilesTaken", "plan_files", "proposals_of_journey", "take_files"]


class FilesTaken(msgspec.Struct):
    """What became of the files: paths put back, those left alone with the reason, and every change that was made."""

    restored: list[str] = []
    conflicts: list[Conflict] = []
    changes: list[FileAccess] = []


def take_files(journey: Journey, blobs: BlobStore, *, dry_run: bool = False, force: bool = False) -> FilesTaken:
    """Take back what the journey leaves and do again what it comes to.

    Blocking. With ``dry_run`` nothing is changed and ``restored`` says what would be.

    Raises:
        InvalidParams: a ``file_access`` event of the journey cannot be read.
    """
    plan = plan_files(journey)
    report = inspect(plan, blobs) if dry_run else apply(plan, blobs, force=force)
    return FilesTaken(report.restored, report.conflicts, report.accesses)


def plan_files(journey: Journey) -> list[PlannedFile]:
    """One plan for both ways: a file that is left and come to goes straight from the one to the other."""
    back = {one.path: one for one in plan_restore(_accesses_of(journey.back), direction="undo")}
    for one in plan_restore(_accesses_of(journey.forth), direction="redo"):
        left = back.get(one.path)
        if left is None:
            back[one.path] = one
        elif left.expected == one.wanted:
            del back[one.path]
        else:
            interfered = left.interfered or one.interfered
            back[one.path] = PlannedFile(one.path, left.expected, one.wanted, interfered)
    return list(back.values())


def proposals_of_journey(journey: Journey, taken: FilesTaken) -> list[Proposal]:
    """What the log is told: where the session went, then what was put back on the disk."""
    told = [Proposal("file_access", {**change.to_metadata(), "restored": True}) for change in taken.changes]
    return ([journey.proposal] if journey.proposal is not None else []) + told


def _accesses_of(events: list[Event]) -> list[FileAccess]:
    return [FileAccess.from_metadata(event.metadata) for event in events]

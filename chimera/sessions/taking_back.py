"""The files of an undo, a redo or a restored checkpoint: put back first, then told to the log.

In that order a crash in between loses nothing: asked again, the files are found to be as wanted already, and that is
told as if it were done now. It is told as ``file_access`` events with ``restored``. Knows no log and no tree.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from chimera.blobs import BlobStore
from chimera.checkpoints import Journey
from chimera.core.file_tracker import FileAccess
from chimera.events.event import Event
from chimera.file_restore import Conflict, PlannedFile, apply, inspect, plan_restore
from chimera.sessions.proposals import Proposal

__all__ = ["FilesTaken", "preview_files", "proposals_of_journey", "take_files"]


class FilesTaken(msgspec.Struct):
    """What became of the files: paths put back, those left alone with the reason, and every change that was made."""

    restored: list[str] = []
    conflicts: list[Conflict] = []
    changes: list[FileAccess] = []


def take_files(journey: Journey, blobs: BlobStore, *, force: bool = False) -> FilesTaken:
    """Take back what the journey leaves and do again what it comes to. Blocking.

    Raises:
        InvalidParams: a ``file_access`` event of the journey cannot be read.
    """
    plan = plan_files([journey])
    report = apply(plan, blobs, force=force)
    as_wanted = set(report.unchanged)
    already = [FileAccess(one.path, "write", one.expected, one.wanted) for one in plan if one.path in as_wanted]
    return FilesTaken(report.restored, report.conflicts, [*report.accesses, *already])


def preview_files(journeys: Sequence[Journey], blobs: BlobStore) -> FilesTaken:
    """What taking one step after the other would come to; changes nothing. Raises as :func:`take_files`."""
    report = inspect(plan_files(journeys), blobs)
    return FilesTaken(report.restored, report.conflicts)


def plan_files(journeys: Sequence[Journey]) -> list[PlannedFile]:
    """One plan for all the way: each file goes straight from what it should be now to what it is in the end."""
    planned: dict[str, PlannedFile] = {}
    for journey in journeys:
        for one in plan_restore(_accesses_of(journey.back), direction="undo"):
            _go_on(planned, one)
        for one in plan_restore(_accesses_of(journey.forth), direction="redo"):
            _go_on(planned, one)
    return list(planned.values())


def _go_on(planned: dict[str, PlannedFile], step: PlannedFile) -> None:
    before = planned.get(step.path)
    if before is None:
        planned[step.path] = step
    elif before.expected == step.wanted:
        del planned[step.path]
    else:
        interfered = before.interfered or step.interfered
        planned[step.path] = PlannedFile(step.path, before.expected, step.wanted, interfered)


def proposals_of_journey(journey: Journey, taken: FilesTaken) -> list[Proposal]:
    """What the log is told: where the session went, then what was put back on the disk."""
    told = [Proposal("file_access", {**change.to_metadata(), "restored": True}) for change in taken.changes]
    return [journey.proposal, *told]


def _accesses_of(events: list[Event]) -> list[FileAccess]:
    return [FileAccess.from_metadata(event.metadata) for event in events]

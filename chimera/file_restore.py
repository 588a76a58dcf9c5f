"""Undo and redo of files: what a session's tools wrote is put back, and nothing else is touched.

    plan = plan_restore(accesses, direction="undo")     pure: where each path goes, and what it should be now
    report = inspect(plan, blobs)                       compares with the disk; changes nothing
    report = apply(plan, blobs)                         does it, and compares again right before each change

A file that is not what the session left is a conflict and stays as it is; with ``force`` what it is now is kept as a
blob first. What cannot be kept, because it is too large, unreadable or no file, is never overwritten or removed, and
neither is a file of which that was so when the session wrote it. Folders are made where a file needs one and are never
removed. Knows neither events nor who decides what to undo.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence, Set
from itertools import pairwise
from typing import Literal, NamedTuple

import msgspec

from chimera.blobs import BlobStore
from chimera.core.file_images import (
    FOLDER,
    MAX_CAPTURED_BYTES,
    Absent,
    Image,
    NotCaptured,
    RegularFile,
    Symlink,
    capture,
    look,
    name_problem,
)
from chimera.core.file_placing import place
from chimera.core.file_tracker import FileAccess
from chimera.errors import ChimeraError

__all__ = ["Conflict", "Direction", "PlannedFile", "RestoreReport", "apply", "inspect", "plan_restore"]

Direction = Literal["undo", "redo"]


class PlannedFile(msgspec.Struct, frozen=True):
    """One path of a plan.

    Attributes:
        expected: what the session's tools left there.
        wanted: what it is to be.
        interfered: between two writes of the session somebody else changed it.
    """

    path: str
    expected: Image
    wanted: Image
    interfered: bool = False


class Conflict(msgspec.Struct, frozen=True):
    """A path that is left as it is, and why."""

    path: str
    reason: str


class RestoreReport(msgspec.Struct):
    """What has become of a plan; after ``inspect``, what would.

    Attributes:
        restored: the paths that are put back.
        unchanged: those that were already as wanted.
        conflicts: those that are left alone.
        captured: for each file that ``force`` overwrote or removed, what it was and what it is now.
        accesses: the same for every file that was put back, in the order it was done: undoing these undoes the restore.
    """

    restored: list[str] = []
    unchanged: list[str] = []
    conflicts: list[Conflict] = []
    captured: list[FileAccess] = []
    accesses: list[FileAccess] = []


def plan_restore(accesses: Sequence[FileAccess], *, direction: Direction) -> list[PlannedFile]:
    """Where the files of these accesses go: given in the order of the log, all of one path through the tree.

    To undo, each goes from what the last write left to what was there before the first one; to redo, the other way
    round. Reads do not count, and a file that came out as it began is not in the plan.
    """
    writes: dict[str, list[FileAccess]] = {}
    for access in accesses:
        if access.mode == "write":
            writes.setdefault(access.path, []).append(access)
    plan = []
    for path, own in writes.items():
        began, ended = own[0].before or _NOT_RECORDED, own[-1].after or _NOT_RECORDED
        wanted, expected = (began, ended) if direction == "undo" else (ended, began)
        if wanted != expected or (isinstance(wanted, NotCaptured) and wanted != FOLDER):
            plan.append(PlannedFile(path, expected, wanted, _interfered(own)))
    return plan


def inspect(plan: Sequence[PlannedFile], blobs: BlobStore) -> RestoreReport:
    """What ``apply`` would do; reads the files and the blobs, writes nothing."""
    report = RestoreReport()
    leaving = _leaving(plan)
    for planned in _in_order(plan):
        finding = _find(planned, blobs, leaving)
        if finding.kind == "restorable":
            report.restored.append(planned.path)
        else:
            _leave(report, planned.path, finding)
    return report


def apply(plan: Sequence[PlannedFile], blobs: BlobStore, *, force: bool = False) -> RestoreReport:
    """Put back what can be, each file in one step and durably; a file that fails is a conflict, the others go on.

    With ``force`` a file that others have changed is overwritten too, once what it is now has been kept as a blob.
    """
    report = RestoreReport()
    for planned in _in_order(plan):
        finding = _find(planned, blobs, frozenset())
        forced = force and finding.kind == "changed"
        if finding.kind != "restorable" and not forced:
            _leave(report, planned.path, finding)
            continue
        try:
            _put_back(planned, finding.present, blobs)
        except (OSError, ChimeraError) as error:
            report.conflicts.append(Conflict(planned.path, _reason_of(error)))
        except _ChangedMeanwhileError:
            report.conflicts.append(Conflict(planned.path, "changed by other hands at this moment"))
        else:
            done = FileAccess(planned.path, "write", finding.present, planned.wanted)
            report.restored.append(planned.path)
            report.accesses.append(done)
            if forced:
                report.captured.append(done)
    return report


_NOT_RECORDED = NotCaptured("its event holds no image")


class _Finding(NamedTuple):
    """How a planned file and the disk compare; only what is ``changed`` may be forced."""

    kind: Literal["restorable", "unchanged", "changed", "untouchable"]
    present: Image
    reason: str = ""


class _ChangedMeanwhileError(Exception):
    pass


def _interfered(own: Sequence[FileAccess]) -> bool:
    """Whether a write began with other content than the one before it ended with.

    Unless it ended there again: so does the restore of an undone later turn, and nothing of others is left then.
    """
    return any(earlier.after not in (later.before, later.after) for earlier, later in pairwise(own))


def _in_order(plan: Iterable[PlannedFile]) -> list[PlannedFile]:
    """Removals first: a file may stand where another one needs a folder."""
    return sorted(plan, key=lambda planned: not isinstance(planned.wanted, Absent))


def _leaving(plan: Iterable[PlannedFile]) -> frozenset[str]:
    return frozenset(planned.path for planned in plan if isinstance(planned.wanted, Absent))


def _leave(report: RestoreReport, path: str, finding: _Finding) -> None:
    if finding.kind == "unchanged":
        report.unchanged.append(path)
    else:
        report.conflicts.append(Conflict(path, finding.reason))


def _find(planned: PlannedFile, blobs: BlobStore, leaving: Set[str]) -> _Finding:
    """Compare with the disk; ``leaving`` are paths that will be gone when it is this one's turn."""
    present, _ = look(planned.path, _limit(planned))
    if present == planned.wanted and not isinstance(present, NotCaptured):
        return _Finding("unchanged", present)
    problem = _place_problem(planned.path, leaving) or _image_problem(planned, present)
    problem = problem or _blob_problem(planned.wanted, blobs)
    if problem:
        return _Finding("untouchable", present, problem)
    if present != planned.expected:
        return _Finding("changed", present, _difference(planned, present))
    if planned.interfered:
        return _Finding("changed", present, "changed by other hands between the session's own writes")
    return _Finding("restorable", present)


def _place_problem(path: str, leaving: Set[str]) -> str:
    """Why nothing may be written at this path, whatever is there: it would end up elsewhere, or it cannot be."""
    if name_problem(path):
        return f"not captured: {name_problem(path)}"
    folder = os.path.dirname(path)
    if not os.path.isabs(path) or os.path.normpath(path) != path:
        return "its path is not an absolute one without detours"
    if os.path.realpath(folder) != folder:
        return "its folder is reached through a symlink now"
    while not os.path.lexists(folder):
        folder = os.path.dirname(folder)
    return "" if os.path.isdir(folder) or folder in leaving else "its folder is a file now"


def _image_problem(planned: PlannedFile, present: Image) -> str:
    for image in (planned.wanted, planned.expected):
        if isinstance(image, NotCaptured):
            return f"not captured: {image.reason}"
    if present == FOLDER:
        return "is a folder now"
    return f"not captured now: {present.reason}" if isinstance(present, NotCaptured) else ""


def _blob_problem(wanted: Image, blobs: BlobStore) -> str:
    if isinstance(wanted, RegularFile):
        try:
            blobs.get(wanted.blob)
        except ChimeraError as error:
            return error.message
    return ""


def _difference(planned: PlannedFile, present: Image) -> str:
    if isinstance(present, Absent):
        folder_is_there = os.path.isdir(os.path.dirname(planned.path))
        return "removed since by other hands" if folder_is_there else "its folder is gone"
    if isinstance(present, Symlink) and not isinstance(planned.expected, Symlink):
        return "a symlink now"
    return "changed since by other hands"


def _limit(planned: PlannedFile) -> int:
    """A file that the session could capture can be compared, whatever its limit was."""
    sizes = [image.size for image in (planned.wanted, planned.expected) if isinstance(image, RegularFile)]
    return max([MAX_CAPTURED_BYTES, *sizes])


def _put_back(planned: PlannedFile, present: Image, blobs: BlobStore) -> None:
    """One file. What it is now is kept first, so that this can be undone in its turn.

    Raises:
        _ChangedMeanwhileError: it is not ``present`` any more; nothing was done.
    """

    def require_still() -> None:
        if _place_problem(planned.path, frozenset()) or look(planned.path, _limit(planned))[0] != present:
            raise _ChangedMeanwhileError

    if capture(planned.path, blobs, _limit(planned)) != present:
        raise _ChangedMeanwhileError
    place(planned.path, planned.wanted, blobs, require_still)


def _reason_of(error: OSError | ChimeraError) -> str:
    if isinstance(error, ChimeraError):
        return error.message
    return f"the disk refused ({error.strerror or error})"

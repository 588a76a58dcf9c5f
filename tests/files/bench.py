"""A working folder with a tracker over it, what tools and other hands do there, and how the folder looks."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from chimera.blobs import BlobStore
from chimera.core.file_tracker import FileAccess, FileTracker
from chimera.file_restore import PlannedFile, RestoreReport, apply, inspect, plan_restore

Tree = dict[str, tuple[int, object]]


class Bench:
    """A working folder, a tracker over it, and what its tools did so far."""

    def __init__(self, folder: Path) -> None:
        self.work = folder / "work"
        self.work.mkdir()
        self.blobs = BlobStore(str(folder / "blobs"))
        self.tracker = FileTracker(self.blobs, str(self.work), max_bytes=100_000)
        self.accesses: list[FileAccess] = []

    def path(self, name: str) -> Path:
        return self.work / name

    def tool(self, name: str, act: Callable[[Path], object]) -> None:
        with self.tracker.writing(name) as accesses:
            act(self.path(name))
        self.accesses += accesses

    def write(self, name: str, body: bytes, permissions: int = 0o644) -> None:
        def act(path: Path) -> None:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(body)
            path.chmod(permissions)

        self.tool(name, act)

    def remove(self, name: str) -> None:
        self.tool(name, os.unlink)

    def undo(self, *, force: bool = False) -> RestoreReport:
        return self.go(plan_restore(self.accesses, direction="undo"), force)

    def redo(self, *, force: bool = False) -> RestoreReport:
        return self.go(plan_restore(self.accesses, direction="redo"), force)

    def go(self, plan: Sequence[PlannedFile], force: bool = False) -> RestoreReport:
        """Inspect, see that nothing has changed, apply; without force the two must say the same."""
        before = tree(self.work)
        foreseen = inspect(plan, self.blobs)
        assert tree(self.work) == before
        report = apply(plan, self.blobs, force=force)
        if not force:
            assert (report.restored, report.unchanged, report.conflicts) == (
                foreseen.restored,
                foreseen.unchanged,
                foreseen.conflicts,
            )
            assert report.captured == []
        assert [access.path for access in report.accesses] == report.restored
        return report


def tree(folder: Path) -> Tree:
    """Every name below the folder with its mode, and its content."""
    found: Tree = {}
    for parent, folders, files in os.walk(folder):
        for name in folders + files:
            path = Path(parent, name)
            status = path.lstat()
            if path.is_symlink():
                content: object = os.readlink(path)
            else:
                content = path.read_bytes() if path.is_file() else None
            found[str(path.relative_to(folder))] = (status.st_mode, content)
    return found


def only_reason(report: RestoreReport) -> str:
    assert (report.restored, report.unchanged, report.accesses) == ([], [], [])
    (conflict,) = report.conflicts
    return conflict.reason


# Other hands


def edit(path: Path) -> None:
    path.write_bytes(b"theirs")


def replace_by_link(path: Path) -> None:
    path.unlink()
    path.symlink_to("elsewhere")


def replace_by_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def replace_by_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def remove_folder(path: Path) -> None:
    shutil.rmtree(path.parent)


def move_folder_away(path: Path) -> None:
    path.parent.rename(path.parent.with_name("moved"))
    path.parent.symlink_to("moved")


def replace_folder_by_file(path: Path) -> None:
    shutil.rmtree(path.parent)
    path.parent.write_bytes(b"a file")


def grow(path: Path) -> None:
    os.truncate(path, 26 * 1024 * 1024)

"""The moment of writing: other hands at the last moment, disks that refuse, power cuts."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from chimera.core.file_tracker import FileTracker
from chimera.file_restore import Conflict, apply, plan_restore
from tests.files.bench import Bench, edit, move_folder_away, only_reason, tree
from tests.files.privileges import as_nobody
from tests.support.power_check import Span, cut_power
from tests.support.power_recorder import Operation, acknowledge, recording


@pytest.mark.parametrize("existed", [True, False])
@pytest.mark.parametrize("force", [False, True])
def test_a_change_at_the_last_moment_is_seen(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, force: bool, existed: bool
) -> None:
    if existed:
        bench.path("a").write_bytes(b"0")
    bench.write("a", b"1")
    plan = plan_restore(bench.accesses, direction="undo")
    real = os.fsync

    def with_a_writer_beside(descriptor: int) -> None:
        real(descriptor)
        edit(bench.path("a"))

    monkeypatch.setattr(os, "fsync", with_a_writer_beside)  # the last sync is of what is to be renamed
    report = apply(plan, bench.blobs, force=force)
    assert only_reason(report) == "changed by other hands at this moment"
    assert tree(bench.work)["a"][1] == b"theirs"
    assert os.listdir(bench.work) == ["a"]


def test_a_folder_that_becomes_a_link_at_the_last_moment_is_not_followed(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.path("x").mkdir()
    bench.path("x/a").write_bytes(b"0")
    bench.write("x/a", b"1")
    plan = plan_restore(bench.accesses, direction="undo")
    real = os.chmod

    def with_somebody_beside(path: str, mode: int) -> None:
        real(path, mode)
        move_folder_away(bench.path("x/a"))

    monkeypatch.setattr(os, "chmod", with_somebody_beside)
    assert only_reason(apply(plan, bench.blobs)) == "changed by other hands at this moment"
    assert {name: content for name, (_, content) in tree(bench.work).items()} == {
        "x": "moved",
        "moved": None,
        "moved/a": b"1",
    }


def test_a_file_that_fails_is_a_conflict_and_the_others_go_on(nobodys_folder: Path) -> None:
    with as_nobody():
        bench = Bench(nobodys_folder)
        for name in ("x/a", "y/a"):
            bench.path(name).parent.mkdir()
            bench.path(name).write_bytes(b"0")
            bench.write(name, b"1")
        bench.write("x/b", b"new")
        bench.path("x").chmod(0o555)
        report = apply(plan_restore(bench.accesses, direction="undo"), bench.blobs)
        bench.path("x").chmod(0o755)
    reason = "the disk refused (Permission denied)"
    assert report.conflicts == [Conflict(str(bench.path(name)), reason) for name in ("x/b", "x/a")]
    assert report.restored == [str(bench.path("y/a"))]
    assert bench.path("x/a").read_bytes() == b"1"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system with room for little."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"cannot mount: {mounted.stderr.decode()}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_leaves_no_half_written_file(small_disk: Path, tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.work = small_disk
    bench.tracker = FileTracker(bench.blobs, str(small_disk))
    large = os.urandom(200_000)
    bench.path("large").write_bytes(large)
    bench.path("a").write_bytes(b"0")
    bench.write("large", b"1")
    bench.write("a", b"1")
    bench.path("filler").write_bytes(bytes(100_000))
    found = tree(bench.work)
    report = apply(plan_restore(bench.accesses, direction="undo"), bench.blobs)
    assert report.conflicts == [Conflict(str(bench.path("large")), "the disk refused (No space left on device)")]
    assert tree(bench.work) == {**found, "a": (found["a"][0], b"0")}
    bench.path("filler").unlink()
    assert len(bench.undo().restored) == 1
    assert bench.path("large").read_bytes() == large


def test_a_limit_on_file_sizes_leaves_no_half_written_file(bench: Bench) -> None:
    large = os.urandom(2 << 20)
    bench.tracker = FileTracker(bench.blobs, str(bench.work))
    bench.path("large").write_bytes(large)
    bench.path("large").chmod(0o644)
    bench.write("large", b"1")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, limits[1]))
    try:
        report = apply(plan_restore(bench.accesses, direction="undo"), bench.blobs)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert only_reason(report) == "the disk refused (File too large)"
    assert tree(bench.work) == {"large": (0o100644, b"1")}


class OldOrNew:
    """After a power cut: each file is what it was or what it is to be; that once ``apply`` has returned."""

    def __init__(self, operations: Sequence[Operation], old: dict[str, bytes], new: dict[str, bytes]) -> None:
        (self.returned,) = (number for number, operation in enumerate(operations) if operation[0] == "mark")
        self.old, self.new = old, new

    def recover(self, folder: str) -> dict[str, bytes]:
        paths = [Path(parent, name) for parent, _, names in os.walk(folder) for name in names]
        return {path.name: path.read_bytes() for path in paths if not path.name.startswith(".chimera-restore-")}

    def complaints(self, found: dict[str, bytes], before: int) -> list[str]:
        return [
            f"{name} holds {found.get(name)!r}"
            for name in {**self.old, **self.new}
            if found.get(name) != self.new.get(name)
            and (before > self.returned or found.get(name) != self.old.get(name))
        ]

    def moments(self, spans: Sequence[Span]) -> Sequence[int]:
        return sorted({end for _, end in spans})


def test_a_restore_survives_every_power_cut(bench: Bench) -> None:
    bench.path("edited").write_bytes(b"before" * 200)
    bench.write("x/removed", b"before")
    del bench.accesses[:]
    old = {"edited": b"after" * 300, "created": b"after"}
    for name, body in old.items():
        bench.write(name, body)
    bench.tool("x/removed", lambda path: shutil.rmtree(path.parent))
    plan = plan_restore(bench.accesses, direction="undo")
    with recording(str(bench.work)) as operations:
        apply(plan, bench.blobs)
        acknowledge("done")
    judge = OldOrNew(operations, old, {"edited": b"before" * 200, "removed": b"before"})
    report = cut_power(operations, judge, workers=1)
    assert not report.failures, report
    assert report.distinct > 5

"""Undo and redo of files: what the session's tools wrote goes back, whatever others did stays."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from chimera.blobs import digest_of
from chimera.core.file_images import FOLDER
from chimera.core.file_tracker import Absent, FileAccess, FileTracker, NotCaptured, RegularFile
from chimera.file_restore import PlannedFile, apply, plan_restore
from tests.files.bench import (
    Bench,
    edit,
    grow,
    move_folder_away,
    only_reason,
    remove_folder,
    replace_by_folder,
    replace_by_link,
    replace_by_pipe,
    replace_folder_by_file,
    tree,
)

FORCES = pytest.mark.parametrize("force", [False, True])

CHANGED = {
    "changed since by other hands": edit,
    "removed since by other hands": os.unlink,
    "a symlink now": replace_by_link,
    "its folder is gone": remove_folder,
}
UNTOUCHABLE = {
    "is a folder now": replace_by_folder,
    "not captured now: it is not a regular file": replace_by_pipe,
    "not captured now: it is larger than 26214400 bytes": grow,
    "its folder is reached through a symlink now": move_folder_away,
    "its folder is a file now": replace_folder_by_file,
}


# What is undone and redone


def test_undo_takes_back_every_kind_of_write_and_redo_does_it_again(bench: Bench) -> None:
    bench.path("edited").write_bytes(b"\x00before\xff")
    bench.path("edited").chmod(0o755)
    bench.path("removed").write_bytes(b"")
    bench.path("link").symlink_to("edited")
    bench.path("made executable").write_bytes(b"#!")
    bench.path("made executable").chmod(0o640)
    began = tree(bench.work)
    bench.write("edited", b"after")
    bench.remove("removed")
    bench.write("created", b"")
    bench.tool("link", os.unlink)
    bench.tool("link", lambda path: path.symlink_to("created"))
    bench.tool("made executable", lambda path: path.chmod(0o4755))
    ended = tree(bench.work)
    for _ in range(2):
        assert len(bench.undo().restored) == 5
        assert tree(bench.work) == began
        assert len(bench.redo().restored) == 5
        assert tree(bench.work) == ended


def test_several_writes_of_one_file_go_back_to_before_the_first(bench: Bench) -> None:
    bench.path("a").write_bytes(b"0")
    for body in (b"1", b"2", b"3"):
        bench.write("a", body)
    bench.remove("a")
    bench.write("a", b"4")
    assert bench.undo().restored == [str(bench.path("a"))]
    assert bench.path("a").read_bytes() == b"0"


def test_a_second_undo_changes_nothing(bench: Bench) -> None:
    bench.path("a").write_bytes(b"0")
    bench.write("a", b"1")
    bench.undo()
    inode = bench.path("a").stat().st_ino
    report = bench.undo()
    assert (report.restored, report.unchanged) == ([], [str(bench.path("a"))])
    assert bench.path("a").stat().st_ino == inode


def test_reads_and_writes_that_came_out_as_they_began_are_not_in_the_plan(bench: Bench) -> None:
    bench.write("a", b"1")
    bench.remove("a")
    access = bench.tracker.read("b")
    assert access is not None
    assert plan_restore([*bench.accesses, access], direction="undo") == []


def test_a_plan_is_made_of_images_alone() -> None:
    one, two, three = (RegularFile(digest_of(body), 1, 0o644) for body in (b"1", b"2", b"3"))
    accesses = [
        FileAccess("/b", "write", Absent(), one),
        FileAccess("/a", "write", one, two),
        FileAccess("/b", "write", one, three),
        FileAccess("/c", "write"),
        FileAccess("/d", "write", FOLDER, FOLDER),
    ]
    unknown = NotCaptured("its event holds no image")
    assert plan_restore(accesses, direction="undo") == [
        PlannedFile("/b", three, Absent()),
        PlannedFile("/a", two, one),
        PlannedFile("/c", unknown, unknown),
    ]
    assert plan_restore(accesses, direction="redo")[0] == PlannedFile("/b", Absent(), three)


def test_folders_that_are_gone_are_made_for_a_file_that_was_removed_with_them(bench: Bench) -> None:
    bench.write("x/y/a", b"1")
    del bench.accesses[:]
    bench.tool("x/y/a", lambda path: shutil.rmtree(bench.path("x")))
    bench.undo()
    assert bench.path("x/y/a").read_bytes() == b"1"
    assert bench.path("x/y").stat().st_mode == bench.work.stat().st_mode


def test_a_folder_that_the_session_made_a_file_of_is_a_folder_again(bench: Bench) -> None:
    bench.write("x/a", b"1")
    began = tree(bench.work)
    del bench.accesses[:]
    bench.tool("x/a", lambda path: shutil.rmtree(bench.path("x")))
    bench.write("x", b"a file")
    assert len(bench.undo().restored) == 2
    assert tree(bench.work) == began


def test_what_a_restore_did_can_be_undone_and_redone_in_its_turn(bench: Bench) -> None:
    """An undo is taken back by undoing the accesses that it reports."""
    bench.path("a").write_bytes(b"0")
    bench.write("a", b"1")
    bench.write("b", b"new")
    ended = tree(bench.work)
    report = bench.undo()
    assert len(bench.go(plan_restore(report.accesses, direction="undo")).restored) == 2
    assert tree(bench.work) == ended


def test_an_earlier_turn_can_be_undone_after_a_later_one(bench: Bench) -> None:
    bench.path("a").write_bytes(b"0")
    bench.write("a", b"1")
    earlier = list(bench.accesses)
    del bench.accesses[:]
    bench.write("a", b"2")
    restored = bench.undo().accesses
    assert len(bench.go(plan_restore([*earlier, *restored], direction="undo")).restored) == 1
    assert bench.path("a").read_bytes() == b"0"


def test_the_owner_of_what_is_replaced_is_kept(bench: Bench) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root may give files away")
    bench.path("a").write_bytes(b"0")
    os.chown(bench.path("a"), 65534, 65533)
    bench.path("a").chmod(0o6755)
    bench.write("a", b"1")
    bench.undo()
    status = bench.path("a").stat()
    assert (status.st_uid, status.st_gid, status.st_mode & 0o7777) == (65534, 65533, 0o6755)


def test_symlinks_go_back_without_touching_what_they_lead_to(bench: Bench, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_bytes(b"theirs")
    bench.path("a").symlink_to(outside)
    bench.tool("a", os.unlink)
    bench.write("a", b"a file now")
    bench.undo()
    assert os.readlink(bench.path("a")) == str(outside)
    bench.redo()
    assert bench.path("a").read_bytes() == b"a file now"
    assert outside.read_bytes() == b"theirs"


# Conflicts


@pytest.mark.parametrize("reason", [*CHANGED, *UNTOUCHABLE])
def test_what_other_hands_changed_is_left_alone(bench: Bench, reason: str) -> None:
    bench.path("x").mkdir()
    bench.path("x/a").write_bytes(b"0")
    bench.write("x/a", b"1")
    {**CHANGED, **UNTOUCHABLE}[reason](bench.path("x/a"))
    found = tree(bench.work)
    assert only_reason(bench.undo()) == reason
    assert tree(bench.work) == found


def test_a_change_of_mode_by_other_hands_is_a_change(bench: Bench) -> None:
    bench.write("a", b"1", 0o644)
    bench.path("a").chmod(0o600)
    assert only_reason(bench.undo()) == "changed since by other hands"


@pytest.mark.parametrize(
    ("act", "before"),
    [*((act, b"0") for act in CHANGED.values()), (edit, None), (replace_by_link, None)],
)
def test_force_overwrites_what_was_changed_and_can_itself_be_undone(
    bench: Bench, act: Callable[[Path], None], before: bytes | None
) -> None:
    bench.path("x").mkdir()
    if before is not None:
        bench.path("x/a").write_bytes(before)
    bench.write("x/a", b"1")
    act(bench.path("x/a"))
    theirs = tree(bench.work)
    report = bench.undo(force=True)
    assert report.captured == report.accesses
    assert (report.restored, report.conflicts) == ([str(bench.path("x/a"))], [])
    assert tree(bench.work).get("x/a", (0, None))[1] == before
    assert bench.go(plan_restore(report.captured, direction="undo")).restored
    assert {**tree(bench.work), "x": None} == {**theirs, "x": None}


@pytest.mark.parametrize("act", UNTOUCHABLE.values())
def test_force_never_touches_what_cannot_be_captured(bench: Bench, act: Callable[[Path], None]) -> None:
    bench.path("x").mkdir()
    bench.write("x/a", b"1")
    bench.write("x/a", b"2")
    accesses = bench.accesses[1:]
    act(bench.path("x/a"))
    found = tree(bench.work)
    assert only_reason(apply(plan_restore(accesses, direction="undo"), bench.blobs, force=True))
    assert tree(bench.work) == found


@FORCES
@pytest.mark.parametrize("direction", ["undo", "redo"])
@pytest.mark.parametrize("large", ["before", "after", "both"])
def test_a_file_that_was_too_large_is_never_removed_or_overwritten(
    bench: Bench, large: str, direction: str, force: bool
) -> None:
    if large != "after":
        bench.path("a").write_bytes(b"L" * 100_001)
    bench.write("a", b"l" * 100_002 if large != "before" else b"small")
    found = tree(bench.work)
    report = bench.undo(force=force) if direction == "undo" else bench.redo(force=force)
    if (large, direction) == ("before", "redo"):
        assert report.unchanged == [str(bench.path("a"))]
    else:
        assert only_reason(report) == "not captured: it is larger than 100000 bytes"
    assert tree(bench.work) == found


def test_a_file_that_a_higher_limit_let_in_goes_back(bench: Bench) -> None:
    bench.tracker = FileTracker(bench.blobs, str(bench.work), max_bytes=1 << 30)
    bench.path("a").write_bytes(bytes(27 << 20))
    bench.write("a", bytes(28 << 20))
    bench.undo()
    assert bench.path("a").stat().st_size == 27 << 20


@FORCES
def test_a_file_that_is_gone_is_not_made_up_when_it_was_not_captured(bench: Bench, force: bool) -> None:
    bench.path("a").write_bytes(b"L" * 100_001)
    bench.remove("a")
    assert only_reason(bench.undo(force=force)).startswith("not captured")
    assert not bench.path("a").exists()


@FORCES
def test_a_file_whose_name_is_not_utf8_stays(bench: Bench, force: bool) -> None:
    name = os.fsdecode(b"caf\xe9")
    bench.write(name, b"1")
    bench.path("caf\\udce9").write_bytes(b"a file that is called so")
    found = tree(bench.work)
    assert only_reason(bench.undo(force=force)) == "not captured: its name is not UTF-8"
    assert tree(bench.work) == found


def test_an_edit_by_other_hands_between_two_writes_is_left_alone(bench: Bench) -> None:
    bench.path("a").write_bytes(b"0")
    bench.write("a", b"1")
    edit(bench.path("a"))
    bench.write("a", b"theirs and ours")
    assert only_reason(bench.undo()) == "changed by other hands between the session's own writes"
    assert bench.path("a").read_bytes() == b"theirs and ours"
    report = bench.undo(force=True)
    assert bench.path("a").read_bytes() == b"0"
    assert len(report.captured) == 1


def test_an_edit_by_other_hands_before_the_writes_is_what_undo_goes_back_to(bench: Bench) -> None:
    bench.write("a", b"1")
    edit(bench.path("a"))
    del bench.accesses[:]
    bench.write("a", b"2")
    bench.undo()
    assert bench.path("a").read_bytes() == b"theirs"


def test_what_others_have_already_put_back_is_unchanged(bench: Bench) -> None:
    bench.write("a", b"1")
    bench.path("a").unlink()
    assert bench.undo().unchanged == [str(bench.path("a"))]
    bench.write("x/a", b"1")
    shutil.rmtree(bench.path("x"))
    bench.path("x").touch()
    assert sorted(bench.undo().unchanged) == [str(bench.path("a")), str(bench.path("x/a"))]


@FORCES
@pytest.mark.parametrize("damage", ["missing", "damaged"])
def test_a_file_whose_blob_is_lost_stays_and_the_others_go_back(bench: Bench, damage: str, force: bool) -> None:
    bench.path("a").write_bytes(b"0")
    bench.path("b").write_bytes(b"zero")
    bench.write("a", b"1")
    bench.write("b", b"one")
    blob = Path(bench.blobs.folder, digest_of(b"0"))
    blob.unlink() if damage == "missing" else blob.write_bytes(b"x")
    report = bench.undo(force=force)
    assert report.restored == [str(bench.path("b"))]
    assert f"{digest_of(b'0')} in " in report.conflicts[0].reason
    assert damage in report.conflicts[0].reason
    assert bench.path("a").read_bytes() == b"1"


@FORCES
@pytest.mark.parametrize("path", ["a", "../a", "{}/x/../a", "{}//a", "{}/a/", "{}/a\0", "/"])
def test_only_plain_absolute_paths_are_written(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, path: str, force: bool
) -> None:
    """The paths of an event that somebody else has written may be anything."""
    monkeypatch.chdir(bench.work)
    wanted = RegularFile(bench.blobs.put(b"x"), 1, 0o644)
    plan = [PlannedFile(path.format(bench.work), Absent(), wanted)]
    assert only_reason(bench.go(plan, force))
    assert tree(bench.work) == {}

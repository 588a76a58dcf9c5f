"""The tracker: what a session's tools read and wrote, with what was there before and after."""

from __future__ import annotations

import contextlib
import errno
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from chimera.blobs import BlobStore, digest_of
from chimera.core.file_tracker import Absent, FileAccess, FileTracker, Image, NotCaptured, RegularFile, Symlink
from chimera.errors import InvalidParams, NoSpace
from chimera.events.check import encode_metadata


@pytest.fixture
def work(tmp_path: Path) -> Path:
    folder = tmp_path / "work"
    folder.mkdir()
    return folder


@pytest.fixture
def blobs(tmp_path: Path) -> BlobStore:
    return BlobStore(str(tmp_path / "blobs"))


@pytest.fixture
def tracker(blobs: BlobStore, work: Path) -> FileTracker:
    return FileTracker(blobs, str(work), max_bytes=1000)


def regular(body: bytes, permissions: int = 0o644) -> RegularFile:
    return RegularFile(digest_of(body), len(body), permissions)


def write(tracker: FileTracker, path: str, body: bytes) -> list[FileAccess]:
    with tracker.writing(path) as accesses:
        target = Path(tracker._cwd, path)
        target.write_bytes(body)
        target.chmod(0o644)
    return accesses


def fail(tracker: FileTracker, path: str, act: Callable[[], object]) -> list[FileAccess]:
    """A tool that is interrupted after it has acted."""
    with contextlib.suppress(KeyboardInterrupt), tracker.writing(path) as accesses:
        act()
        raise KeyboardInterrupt
    return accesses


def test_a_write_has_the_file_before_and_after(tracker: FileTracker, blobs: BlobStore, work: Path) -> None:
    path = str(work / "a.py")
    assert write(tracker, "a.py", b"1") == [FileAccess(path, "write", Absent(), regular(b"1"))]
    assert write(tracker, path, b"2") == [FileAccess(path, "write", regular(b"1"), regular(b"2"))]
    with tracker.writing("a.py") as accesses:
        (work / "a.py").unlink()
    assert accesses == [FileAccess(path, "write", regular(b"2"), Absent())]
    assert sorted(map(blobs.get, blobs.digests())) == [b"1", b"2"]


def test_the_bytes_before_are_kept_before_the_tool_writes(tracker: FileTracker, blobs: BlobStore, work: Path) -> None:
    (work / "a").write_bytes(b"precious")
    with tracker.writing("a") as accesses:
        assert blobs.get(digest_of(b"precious")) == b"precious"
        assert accesses == []


def test_what_is_there_now_is_before_a_second_write(tracker: FileTracker, work: Path) -> None:
    write(tracker, "a", b"ours")
    (work / "a").write_bytes(b"theirs")
    (access,) = write(tracker, "a", b"ours again")
    assert (access.before, access.after) == (regular(b"theirs"), regular(b"ours again"))


def test_a_change_of_mode_is_a_write(tracker: FileTracker, work: Path) -> None:
    write(tracker, "run.sh", b"#!")
    with tracker.writing("run.sh") as accesses:
        (work / "run.sh").chmod(0o755)
    assert [(access.before, access.after) for access in accesses] == [(regular(b"#!"), regular(b"#!", 0o755))]


def test_files_are_listed_once_in_the_order_of_the_first_time(tracker: FileTracker, work: Path) -> None:
    for name in ("b", "a", "b"):
        tracker.read(name)
        write(tracker, name + "2", b"x")
    assert tracker.files_read == [str(work / "b"), str(work / "a")]
    assert tracker.files_modified == [str(work / "b2"), str(work / "a2")]


def test_a_file_is_read_once(tracker: FileTracker, work: Path) -> None:
    access = tracker.read(Path("a"))
    assert access == FileAccess(str(work / "a"), "read")
    assert access.to_metadata() == {"path": str(work / "a"), "mode": "read"}
    assert tracker.read(f"{work}/./a") is tracker.read("../work/a") is None


def test_the_lists_go_on_after_a_resume(tracker: FileTracker, work: Path) -> None:
    tracker.read("gone with the process")
    tracker.restore_lists([str(work / "a")], [str(work / "b"), str(work / "c")])
    assert tracker.read("a") is None
    tracker.read("d")
    write(tracker, "c", b"x")
    assert tracker.files_read == [str(work / "a"), str(work / "d")]
    assert tracker.files_modified == [str(work / "b"), str(work / "c")]


@pytest.mark.parametrize(
    ("spelling", "meant"),
    [
        ("a", "a"),
        ("./a", "a"),
        ("real/../a", "a"),
        ("real/a/", "real/a"),
        ("folder-link/a", "real/a"),
        ("folder-link/../a", "a"),
        ("deep-link/../a", "real/a"),
        ("file-link", "file-link"),
        ("folder-link", "folder-link"),
        ("folder-link/.", "real"),
        ("real/..", ""),
        ("none/../a", "a"),
    ],
)
def test_a_path_is_absolute_and_only_its_last_component_may_be_a_link(
    tracker: FileTracker, work: Path, spelling: str, meant: str
) -> None:
    (work / "real/deep").mkdir(parents=True)
    (work / "folder-link").symlink_to("real")
    (work / "deep-link").symlink_to("real/deep")
    (work / "file-link").symlink_to("real/a")
    access = tracker.read(spelling)
    assert access is not None
    assert access.path == os.path.join(work, meant).rstrip("/")


def test_a_write_through_a_symlink_is_one_of_the_file_that_it_leads_to(tracker: FileTracker, work: Path) -> None:
    (work / "link").symlink_to("target")
    assert write(tracker, "link", b"1") == [FileAccess(str(work / "target"), "write", Absent(), regular(b"1"))]
    with tracker.writing("link") as accesses:
        (work / "link").unlink()
        (work / "link").symlink_to("elsewhere")
    assert accesses == [FileAccess(str(work / "link"), "write", Symlink("target"), Symlink("elsewhere"))]
    (work / "link").unlink()
    (work / "link").symlink_to("target")
    with tracker.writing("link") as accesses:
        (work / "link").write_bytes(b"2")
        (work / "link").unlink()
    assert [(access.path, access.after) for access in accesses] == [
        (str(work / "link"), Absent()),
        (str(work / "target"), regular(b"2")),
    ]


def test_a_tool_that_fails_has_written_what_it_has_written(tracker: FileTracker, work: Path) -> None:
    (work / "a").write_bytes(b"whole")
    (work / "a").chmod(0o644)
    accesses = fail(tracker, "a", lambda: (work / "a").write_bytes(b"ha"))
    assert accesses == [FileAccess(str(work / "a"), "write", regular(b"whole"), regular(b"ha"))]


@pytest.mark.parametrize("name", ["a", "none", "folder"])
def test_a_tool_that_fails_and_changes_nothing_has_written_nothing(tracker: FileTracker, work: Path, name: str) -> None:
    (work / "a").touch()
    (work / "folder").mkdir()
    assert fail(tracker, name, lambda: None) == []
    assert tracker.files_modified == []


def test_a_tool_that_writes_the_same_again_has_written(tracker: FileTracker, work: Path) -> None:
    write(tracker, "a", b"1")
    assert write(tracker, "a", b"1") == [FileAccess(str(work / "a"), "write", regular(b"1"), regular(b"1"))]


def test_a_file_over_the_limit_is_not_captured_and_yet_written(tracker: FileTracker, work: Path) -> None:
    too_large = NotCaptured("it is larger than 1000 bytes")
    (access,) = write(tracker, "a", b"x" * 1001)
    assert (access.before, access.after) == (Absent(), too_large)
    (access,) = write(tracker, "a", b"y" * 1001)
    assert (access.before, access.after) == (too_large, too_large)
    assert tracker.files_modified == [str(work / "a")]


def test_nothing_may_be_written_when_what_was_there_cannot_be_kept(
    tracker: FileTracker, blobs: BlobStore, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (work / "a").write_bytes(b"precious")

    def refuse(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    blobs.put(b"the folder is there")
    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(NoSpace), tracker.writing("a"):
        pytest.fail("the tool was let in")
    assert tracker.files_modified == []
    (access,) = write(tracker, "new", b"written while the disk was full")
    assert access.before == Absent()
    assert isinstance(access.after, NotCaptured)
    assert access.after.reason.startswith("its content could not be kept: the disk refused")


IMAGES: list[Image | None] = [
    None,
    Absent(),
    regular(b"\x00", 0o4755),
    Symlink("../größer"),
    NotCaptured("it is a folder"),
]


@pytest.mark.parametrize("before", IMAGES)
@pytest.mark.parametrize("after", IMAGES)
def test_an_access_comes_back_from_its_event(before: Image | None, after: Image | None) -> None:
    access = FileAccess("/srv/größer", "write", before, after)
    metadata = json.loads(encode_metadata({**access.to_metadata(), "call_id": "c1"}))
    assert metadata["path"] == "/srv/größer"
    assert FileAccess.from_metadata(metadata) == access


def test_the_metadata_is_as_documented() -> None:
    access = FileAccess("/a", "write", Absent(), RegularFile("0" * 64, 3, 0o755))
    assert access.to_metadata() == {
        "path": "/a",
        "mode": "write",
        "before": {"kind": "absent"},
        "after": {"kind": "file", "blob": "0" * 64, "size": 3, "permissions": 493},
    }


@pytest.mark.parametrize(
    "metadata",
    [
        {},
        {"path": "/a"},
        {"path": 7, "mode": "read"},
        {"path": "/a", "mode": "append"},
        {"path": "/a", "mode": "write", "before": {"kind": "file", "blob": "../../x", "size": 1, "permissions": 1}},
        {
            "path": "/a",
            "mode": "write",
            "before": {"kind": "file", "blob": "0" * 64 + "\n", "size": 1, "permissions": 1},
        },
        {"path": "/a", "mode": "write", "before": {"kind": "unheard of"}},
        {"path": "/a", "mode": "write", "after": {"kind": "file", "blob": "0" * 64, "size": 1, "permissions": 1 << 20}},
    ],
)
def test_metadata_that_is_not_an_access_is_refused(metadata: dict[str, object]) -> None:
    with pytest.raises(InvalidParams, match="file_access"):
        FileAccess.from_metadata(metadata)


def test_a_name_that_is_not_utf8_stands_escaped_in_the_event_and_is_not_captured(
    tracker: FileTracker, work: Path
) -> None:
    name = os.fsdecode(b"caf\xe9")
    tracker.read(name)
    (access,) = write(tracker, name, b"x")
    problem = NotCaptured("its name is not UTF-8")
    assert access == FileAccess(f"{work}/caf\\udce9", "write", problem, problem)
    assert tracker.files_modified == tracker.files_read == [access.path]
    assert FileAccess.from_metadata(json.loads(encode_metadata(access.to_metadata()))) == access


def test_a_name_with_a_nul_is_refused_by_the_system_not_by_the_tracker(tracker: FileTracker) -> None:
    with pytest.raises(ValueError, match="null"):
        write(tracker, "a\0b/c", b"x")

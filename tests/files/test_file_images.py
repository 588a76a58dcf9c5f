"""Images: what a file was, or the reason why that is not known; never "absent" for something that is there."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from chimera.blobs import MAX_BLOB_BYTES, BlobStore, digest_of
from chimera.core.file_images import FOLDER, Absent, NotCaptured, RegularFile, Symlink, capture, look
from tests.files.privileges import as_nobody


@pytest.fixture
def blobs(tmp_path: Path) -> BlobStore:
    return BlobStore(str(tmp_path / "blobs"))


@pytest.mark.parametrize("body", [b"", b"text\n", b"\x00\xff\r\n" * 3000])
@pytest.mark.parametrize("permissions", [0o644, 0o755, 0o600, 0o4711])
def test_a_regular_file_is_its_bytes_and_its_permission_bits(
    tmp_path: Path, blobs: BlobStore, body: bytes, permissions: int
) -> None:
    path = tmp_path / "file"
    path.write_bytes(body)
    path.chmod(permissions)
    image = capture(str(path), blobs)
    assert image == RegularFile(digest_of(body), len(body), permissions)
    assert blobs.get(image.blob) == body


def test_what_is_not_there_is_absent(tmp_path: Path, blobs: BlobStore) -> None:
    (tmp_path / "file").touch()
    for path in ("none", "no/folder/either", "file/below a file"):
        assert capture(str(tmp_path / path), blobs) == Absent()


@pytest.mark.parametrize("target", ["file", "nowhere", "/etc", "link"])
def test_a_symlink_is_what_it_says_wherever_it_leads(tmp_path: Path, blobs: BlobStore, target: str) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(target)
    assert capture(str(tmp_path / "link"), blobs) == Symlink(target)
    assert blobs.digests() == []


def test_folders_and_pipes_are_not_captured(tmp_path: Path, blobs: BlobStore) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert capture(str(tmp_path), blobs) == FOLDER == NotCaptured("it is a folder")
    assert capture(str(tmp_path / "pipe"), blobs) == NotCaptured("it is not a regular file")


def test_the_limit_is_the_last_size_that_is_captured(tmp_path: Path, blobs: BlobStore) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x" * 100)
    assert isinstance(capture(str(path), blobs, 100), RegularFile)
    assert capture(str(path), blobs, 99) == NotCaptured("it is larger than 99 bytes")


def test_a_file_above_the_usual_limit_is_not_read(tmp_path: Path, blobs: BlobStore) -> None:
    path = tmp_path / "huge"
    path.touch()
    os.truncate(path, 1 << 40)
    assert capture(str(path), blobs) == NotCaptured("it is larger than 26214400 bytes")
    assert capture(str(path), blobs, 1 << 50) == NotCaptured(f"it is larger than {MAX_BLOB_BYTES} bytes")


def test_an_unreadable_file_is_not_absent(nobodys_folder: Path) -> None:
    hidden, closed = nobodys_folder / "hidden", nobodys_folder / "closed"
    hidden.write_bytes(b"x")
    hidden.chmod(0)
    closed.mkdir()
    (closed / "file").touch()
    closed.chmod(0)
    with as_nobody():
        for path in (hidden, closed / "file"):
            assert look(str(path))[0] == NotCaptured("it cannot be read (Permission denied)")
    closed.chmod(0o700)


@pytest.mark.skipif(sys.platform != "linux", reason="procfs")
def test_a_file_that_cannot_be_read_to_its_end_is_not_captured(blobs: BlobStore) -> None:
    assert capture("/proc/self/mem", blobs) == NotCaptured("it cannot be read (Input/output error)")
    assert capture("/proc/self/status", blobs) == NotCaptured("it changes while it is read")  # its size is said to be 0


def test_names_and_targets_that_json_cannot_carry_are_not_captured(tmp_path: Path, blobs: BlobStore) -> None:
    name = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9")
    Path(name).write_bytes(b"x")
    assert capture(name, blobs) == NotCaptured("its name is not UTF-8")
    (tmp_path / "link").symlink_to(name)
    assert capture(str(tmp_path / "link"), blobs) == NotCaptured("its target is not UTF-8")
    assert capture(f"{tmp_path}/a\0b", blobs) == NotCaptured("its name is not one that a file can have")
    assert capture(f"{tmp_path}/größer 模型", blobs) == Absent()


@pytest.mark.parametrize("mode", ["a", "w"])
@pytest.mark.parametrize("changes", [1, 3, 1000])
def test_a_file_that_changes_while_it_is_read_is_read_again(
    tmp_path: Path, blobs: BlobStore, monkeypatch: pytest.MonkeyPatch, changes: int, mode: str
) -> None:
    """It grows, or other bytes of the same number take the place of its own."""
    path = tmp_path / "file"
    path.write_bytes(b"0")
    real, left = os.fstat, [changes]

    def with_a_writer_beside(descriptor: int) -> os.stat_result:
        status = real(descriptor)
        if left[0] and os.path.samestat(status, os.stat(path)):
            left[0] -= 1
            with open(path, mode) as file:
                file.write(str(left[0] % 10))
            os.utime(path, ns=(left[0], left[0]))
        return status

    with monkeypatch.context() as patch:
        patch.setattr(os, "fstat", with_a_writer_beside)
        image = capture(str(path), blobs)
    body = path.read_bytes()
    if changes == 1000:
        assert image == NotCaptured("it changes while it is read")
    else:
        assert image == RegularFile(digest_of(body), len(body), path.stat().st_mode & 0o777)

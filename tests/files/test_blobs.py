"""Blobs: the bytes that were put, or a clear error; each once, private, durable on return."""

from __future__ import annotations

import errno
import hashlib
import os
import random
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chimera import blobs as blobs_module
from chimera.blobs import BlobStore, digest_of
from chimera.errors import InvalidParams, NoSpace, StorageError, TooLarge
from tests.support.power_check import Span, cut_power
from tests.support.power_recorder import Operation, acknowledge, recording

TEXT = b"print('hello')\n" * 400
NOISE = random.Random(1).randbytes(5000)


@pytest.fixture
def store(tmp_path: Path) -> BlobStore:
    return BlobStore(str(tmp_path / "blobs"))


def only_file(store: BlobStore) -> Path:
    (path,) = Path(store.folder).iterdir()
    return path


@pytest.mark.parametrize("body", [b"", b"x", TEXT, NOISE, bytes(1 << 20)])
def test_what_was_put_is_got_under_its_sha256(store: BlobStore, body: bytes) -> None:
    digest = store.put(body)
    assert digest == hashlib.sha256(body).hexdigest() == digest_of(body)
    assert store.get(digest) == BlobStore(store.folder).get(digest) == body
    assert store.has(digest)
    assert store.digests() == [digest]


@settings(deadline=None, max_examples=40)
@given(st.lists(st.binary(max_size=300), max_size=6))
def test_any_bytes_come_back(tmp_path_factory: pytest.TempPathFactory, bodies: list[bytes]) -> None:
    store = BlobStore(str(tmp_path_factory.mktemp("s") / "blobs"))
    kept = {store.put(body): body for body in bodies}
    assert {digest: store.get(digest) for digest in store.digests()} == kept


def test_a_store_that_was_never_written_is_empty_and_makes_no_folder(store: BlobStore) -> None:
    assert store.digests() == []
    assert not store.has("0" * 64)
    assert not os.path.exists(store.folder)


def test_the_same_bytes_are_kept_once(store: BlobStore) -> None:
    assert store.put(TEXT) == store.put(TEXT) == BlobStore(store.folder).put(TEXT)
    assert only_file(store).name.startswith(digest_of(TEXT))


def test_what_compresses_is_compressed_and_what_does_not_is_plain(store: BlobStore) -> None:
    store.put(TEXT)
    path = only_file(store)
    assert path.suffix == ".zst"
    assert path.stat().st_size < len(TEXT) / 10
    path.unlink()
    store.put(NOISE)
    assert only_file(store).read_bytes() == NOISE


def test_files_are_private(store: BlobStore) -> None:
    store.put(TEXT)
    assert os.stat(store.folder).st_mode & 0o777 == 0o700
    assert only_file(store).stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("digest", ["", "../" * 20, "A" * 64, "0" * 63, "0" * 64 + "\n", "0" * 65, "/" + "0" * 63])
def test_what_is_no_digest_never_becomes_a_path(store: BlobStore, digest: str) -> None:
    for call in (store.get, store.has):
        with pytest.raises(InvalidParams, match="no digest"):
            call(digest)


def test_a_missing_blob_is_named(store: BlobStore) -> None:
    with pytest.raises(StorageError, match=r"000 in .* is missing"):
        store.get("0" * 64)


@pytest.mark.parametrize("body", [TEXT, NOISE])
@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "more", "other"])
def test_a_damaged_blob_is_never_given_and_is_whole_after_the_next_put(
    store: BlobStore, body: bytes, damage: str
) -> None:
    digest = store.put(body)
    path = only_file(store)
    whole = path.read_bytes()
    damaged = {
        "flip": bytes([*whole[:30], whole[30] ^ 1, *whole[31:]]),
        "cut": whole[:-1],
        "empty": b"",
        "more": whole + b"x",
        "other": NOISE[::-1],
    }[damage]
    path.write_bytes(damaged)
    with pytest.raises(StorageError, match=f"{digest} in .* is damaged"):
        store.get(digest)
    assert store.put(body) == digest
    assert store.get(digest) == body


def test_a_small_file_that_claims_to_hold_too_much_is_damaged(
    store: BlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = store.put(bytes(100_000))
    monkeypatch.setattr(blobs_module, "MAX_BLOB_BYTES", 99_999)
    with pytest.raises(StorageError, match="damaged"):
        store.get(digest)
    with pytest.raises(TooLarge):
        store.put(bytes(100_000))


def test_files_beside_the_blobs_are_none(store: BlobStore) -> None:
    digest = store.put(TEXT)
    for name in (f"{digest}.new-1-abcd", f"{digest}.zst.new-1-abcd", "notes.txt", digest.upper()):
        (Path(store.folder) / name).write_bytes(b"x")
    assert store.digests() == [digest]


def test_a_session_that_is_gone_does_not_come_back_with_a_blob(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="is gone"):
        BlobStore(str(tmp_path / "session" / "blobs")).put(TEXT)
    assert not (tmp_path / "session").exists()


@pytest.mark.parametrize(("number", "kind"), [(errno.ENOSPC, NoSpace), (errno.EIO, StorageError)])
@pytest.mark.parametrize("call", ["write", "fsync", "rename"])
def test_a_disk_that_refuses_leaves_no_blob_that_is_not_whole_and_the_next_put_writes_again(
    store: BlobStore, monkeypatch: pytest.MonkeyPatch, call: str, number: int, kind: type[Exception]
) -> None:
    store.put(b"the folder is there")

    def refuse(*arguments: object) -> int:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(os, call, refuse)
        with pytest.raises(kind, match=digest_of(TEXT)):
            store.put(TEXT)
    assert len(os.listdir(store.folder)) == 1
    store.put(TEXT)
    assert store.get(digest_of(TEXT)) == TEXT


def test_a_failed_sync_is_not_believed_a_second_time(store: BlobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    store.put(b"the folder is there")
    real, written = os.fsync, []

    def refuse_folders(descriptor: int) -> None:
        if os.path.samestat(os.fstat(descriptor), os.stat(store.folder)):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        real(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", refuse_folders)
        with pytest.raises(StorageError):
            store.put(TEXT)
    rename = os.rename
    monkeypatch.setattr(os, "rename", lambda source, target: (written.append(target), rename(source, target))[1])
    store.put(TEXT)
    assert len(written) == 1
    store.put(TEXT)
    assert len(written) == 1


def test_processes_may_put_the_same_at_once(store: BlobStore) -> None:
    program = (
        "import sys; from chimera.blobs import BlobStore\n"
        "store = BlobStore(sys.argv[1])\n"
        "for number in range(60): assert store.get(store.put(b'%d ' % number * 50)) == b'%d ' % number * 50\n"
    )
    running = [subprocess.Popen([sys.executable, "-c", program, store.folder]) for _ in range(3)]
    assert [process.wait(60) for process in running] == [0, 0, 0]
    assert len(store.digests()) == len(os.listdir(store.folder)) == 60


class KeptBlobs:
    """After a power cut: what ``put`` has returned for is whole; no other blob that shows is damaged."""

    def __init__(self, operations: Sequence[Operation], bodies: Iterable[bytes]) -> None:
        self.returned = [
            (number, operation[1]) for number, operation in enumerate(operations) if operation[0] == "mark"
        ]
        self.bodies = {digest_of(body): body for body in bodies}

    def recover(self, folder: str) -> dict[str, bool]:
        store = BlobStore(os.path.join(folder, "blobs"))
        return {digest: store.get(digest) == self.bodies[digest] for digest in store.digests()}

    def complaints(self, found: dict[str, bool], before: int) -> list[str]:
        return [f"{digest} is lost" for number, digest in self.returned if number < before and not found.get(digest)]

    def moments(self, spans: Sequence[Span]) -> Sequence[int]:
        return sorted({end for _, end in spans})


@pytest.mark.parametrize("folder_left_by_another", [False, True])
def test_a_blob_survives_every_power_cut_after_put_has_returned(tmp_path: Path, folder_left_by_another: bool) -> None:
    """Store rule 17; also where another process made it and was killed before it had synced."""
    disk = tmp_path / "disk"
    disk.mkdir()
    bodies = [TEXT, NOISE, b"left by another", b""]
    with recording(str(disk)) as operations:
        store = BlobStore(str(disk / "blobs"))
        if folder_left_by_another:
            os.mkdir(store.folder)
        for body in bodies[:2]:
            acknowledge(store.put(body))
        beside = os.path.join(store.folder, "beside")
        descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        os.write(descriptor, bodies[2])
        os.fsync(descriptor)
        os.close(descriptor)
        os.rename(beside, os.path.join(store.folder, digest_of(bodies[2])))
        for body in bodies[2:]:
            acknowledge(store.put(body))
    report = cut_power(operations, KeptBlobs(operations, bodies), workers=1)
    assert not report.failures, report
    assert report.distinct > 10

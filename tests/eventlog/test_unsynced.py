"""An embedder's syncs: one that failed is not believed a second time, and a repeated append is synced too (rule 7)."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

import pytest

from chimera.errors import StorageError
from chimera.sessions.eventlog.log import EventLog
from chimera.sessions.eventlog.verify import verify_session

NAMES = {"jsonl": "mink-a", "ids": "otter-a", "typed": "stoat-a"}


class Disk:
    """What is synced and written from here on; syncs fail while ``failing``."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.failing = False
        self.synced: list[str] = []
        self.written: list[tuple[str, bytes]] = []
        real_fdatasync, real_write = os.fdatasync, os.write

        def fdatasync(descriptor: int) -> None:
            if self.failing:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            self.synced.append(os.path.basename(os.readlink(f"/proc/self/fd/{descriptor}")))
            real_fdatasync(descriptor)

        def write(descriptor: int, body: bytes) -> int:
            self.written.append((os.path.basename(os.readlink(f"/proc/self/fd/{descriptor}")), bytes(body)))
            return real_write(descriptor, body)

        monkeypatch.setattr(os, "fdatasync", fdatasync)
        monkeypatch.setattr(os, "write", write)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk(monkeypatch)


@pytest.fixture(params=["jsonl", "ids", "typed"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return tmp_path / "eventlog" / NAMES[request.param]


def event_file(folder: Path, number: int) -> str:
    """The name of the file that this event lies in."""
    return "events.jsonl" if folder.name == NAMES["jsonl"] else next(folder.glob(f"event-{number:06d}-*")).name


def test_what_a_failed_sync_was_to_keep_is_written_again(folder: Path, disk: Disk) -> None:
    log = EventLog(folder)
    log.append("user_message", {"content": "before"})
    disk.failing = True
    with pytest.raises(StorageError) as failed:
        log.append("user_message", {"content": "doubtful"}, event_id="one")
    assert failed.value.details["outcome"] == "unknown"
    disk.failing = False
    disk.written.clear()
    assert log.append("user_message", {"content": "doubtful"}, event_id="one") == 1
    file = event_file(folder, 2)
    [again] = [body for name, body in disk.written if name == file]
    assert again.count(b"\n") == 1
    assert b"doubtful" in again
    assert disk.synced[-1] == file
    assert verify_session(str(folder)) == (2, [])


def test_a_repeated_append_is_synced_whoever_wrote_it(folder: Path, disk: Disk) -> None:
    """Its first writer died before it had synced."""
    EventLog(folder, fsync="never").append("user_message", {"content": "x"}, event_id="one")
    assert disk.synced == []
    assert EventLog(folder).append("user_message", {"content": "x"}, event_id="one") == 0
    assert disk.synced == [event_file(folder, 1)]


def test_a_folder_that_goes_before_the_sync_is_no_success(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = EventLog(folder)
    log.append("user_message")
    real = os.write

    def write(descriptor: int, body: bytes) -> int:
        count = real(descriptor, body)
        shutil.rmtree(folder, ignore_errors=True)
        return count

    monkeypatch.setattr(os, "write", write)
    with pytest.raises(StorageError):
        log.append("user_message")


def test_a_turn_is_synced_at_its_end(folder: Path, disk: Disk) -> None:
    log = EventLog(folder, fsync="turn")
    log.append("user_message")
    log.append("tool_call")
    assert disk.synced == []
    log.append("turn_end")
    assert set(disk.synced) == {event_file(folder, number) for number in (1, 2, 3)}

"""Disks that refuse: errors, no room, read-only. A clear answer, no damage, and service when the fault has ended."""

from __future__ import annotations

import os
import resource
import select
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import crash_strace
from tests.support.crash_client import BookkeepingConnection, attempt, event
from tests.support.crash_ledger import Ledger, find
from tests.support.daemon import RpcError, RunningDaemon

needs_strace = pytest.mark.skipif(not crash_strace.AVAILABLE, reason="strace is not installed")
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount")
MIB = 1 << 20


def append(connection: BookkeepingConnection, session_id: str, *ids: str, text: str = "") -> dict[str, Any]:
    events = [event(text, event_id=event_id) for event_id in ids] or [event(text)]
    return dict(connection.call("sessions.append", session_id=session_id, events=events))


def refusal(connection: BookkeepingConnection, session_id: str, *ids: str, text: str = "") -> RpcError:
    with pytest.raises(RpcError) as error:
        append(connection, session_id, *ids, text=text)
    return error.value


def until_served_again(connection: BookkeepingConnection, session_id: str, event_id: str) -> dict[str, Any]:
    """Retry under the same id, as the message says, until the store has recovered by itself."""
    events = [event("the same", event_id=event_id)]
    while True:
        answer, error = attempt(connection, "sessions.append", session_id=session_id, events=events)
        if error is None:
            return dict(answer)
        assert error.kind in ("io_error", "no_space"), error
        select.select([], [], [], 0.05)


def assert_whole(daemon: RunningDaemon, ledger: Ledger) -> None:
    """By its own word, by the books, and after a kill by the books again."""
    with daemon.connect() as connection:
        assert connection.call("sessions.verify")["problems"] == []
    wrong = ledger.complaints(find(str(daemon.root)))
    assert not wrong, "\n".join(wrong)
    daemon.kill()
    again = RunningDaemon(daemon.home).wait_ready()
    assert again.stop() == 0
    wrong = ledger.complaints(find(str(again.root)))
    assert not wrong, "\n".join(wrong)


@needs_strace
@pytest.mark.parametrize("flavour", ["mink", "otter", "stoat"])
@pytest.mark.parametrize(
    ("call", "fault", "kind"),
    [
        ("fdatasync", "error=EIO", "io_error"),
        ("pwritev2", "error=EIO", "io_error"),
        ("pwritev2", "error=ENOSPC", "no_space"),
        ("write", "error=EIO", "io_error"),
        ("write", "error=ENOSPC", "no_space"),
    ],
)
def test_an_append_on_a_failing_disk_says_so_and_succeeds_when_it_works_again(
    daemon: RunningDaemon, flavour: str, call: str, fault: str, kind: str
) -> None:
    ledger = Ledger()
    with BookkeepingConnection(daemon.socket_path, ledger) as connection:
        session_id = connection.call("sessions.create", flavour=flavour)["session_id"]
        shown = append(connection, session_id, text="before")
        with crash_strace.injecting(daemon.process.pid, call, fault):
            error = refusal(connection, session_id, "evt-retried", text="the same")
            assert error.kind == kind
            assert error.data.get("outcome") == "unknown"
            page = connection.call("sessions.read", session_id=session_id)
            assert [one["id"] for one in page["events"]] == shown["ids"]
        assert until_served_again(connection, session_id, "evt-retried")["first_seq"] == 2
        assert append(connection, session_id)["first_seq"] == 3
    assert_whole(daemon, ledger)


@needs_strace
@pytest.mark.parametrize("flavour", ["mink", "stoat"])
@pytest.mark.parametrize("call", ["fdatasync", "fsync", "syncfs"])
def test_a_flush_that_fails_is_recovered_from_the_journal(daemon: RunningDaemon, flavour: str, call: str) -> None:
    """After a failed sync the page cache proves nothing: what was acknowledged is written again."""
    ledger = Ledger()
    with BookkeepingConnection(daemon.socket_path, ledger) as connection:
        session_ids = [connection.call("sessions.create", flavour=flavour)["session_id"] for _ in range(140)]
        for session_id in session_ids[:70]:
            append(connection, session_id)
        with crash_strace.injecting(daemon.process.pid, call, "error=EIO"):
            error = None
            for session_id in session_ids[70:]:  # whose folders were never flushed
                if error is not None or not connection.call("daemon.status")["journal"]["unflushed_events"]:
                    break
                select.select([], [], [], 0.1)
                _, error = attempt(connection, "sessions.append", session_id=session_id, events=[event()])
            assert error is None or error.kind == "io_error", error
        until_served_again(connection, session_ids[0], "evt-after")
    assert_whole(daemon, ledger)


@needs_strace
@pytest.mark.parametrize("call", ["rename", "fsync", "openat", "unlink"])
def test_a_change_beside_the_log_that_fails_changes_nothing_or_is_done(daemon: RunningDaemon, call: str) -> None:
    """Finish, rename, delete and restore with their nth call failing; afterwards each works."""
    ledger = Ledger()
    with BookkeepingConnection(daemon.socket_path, ledger) as connection:
        session_id = connection.call("sessions.create", flavour="mink")["session_id"]
        append(connection, session_id)
        for number in range(1, 6):
            title = f"title {number}"
            with crash_strace.injecting(daemon.process.pid, call, f"error=EIO:when={number}"):
                for method, params in (
                    ("sessions.rename", {"title": title}),
                    ("sessions.finish", {"summary": {"success": True}}),
                ):
                    _, error = attempt(connection, method, session_id=session_id, **params)
                    assert error is None or error.kind in ("io_error", "malformed_summary"), error
            until_served_again(connection, session_id, f"evt-{number}")
            assert connection.call("sessions.rename", session_id=session_id, title=title)["title"] == title
    assert_whole(daemon, ledger)


@needs_strace
def test_bytes_that_never_reached_the_file_come_back_from_the_journal(daemon: RunningDaemon) -> None:
    """A disk that claims to have written a session's file: the journal still holds it after a kill."""
    ledger = Ledger()
    with BookkeepingConnection(daemon.socket_path, ledger) as connection:
        session_id = connection.call("sessions.create", flavour="mink")["session_id"]
        append(connection, session_id, text="before")
        log = str(daemon.root / session_id / "events.jsonl")
        with crash_strace.injecting(daemon.process.pid, "write", "retval=40:when=1", path=log):
            append(connection, session_id, text="claimed")
            os.kill(daemon.process.pid, 9)
        daemon.kill()
    again = RunningDaemon(daemon.home).wait_ready()
    assert_whole(again, ledger)


@pytest.fixture
def small_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A home on a file system of 100 MiB of its own."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=100m", "tmpfs", str(folder)], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"cannot mount: {mounted.stderr.decode()}")
    monkeypatch.setenv("CHIMERA_HOME", str(folder))
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@needs_root
@pytest.mark.parametrize("flavour", ["mink", "stoat"])
def test_a_full_disk_refuses_and_serves_again_when_there_is_room(small_disk: Path, flavour: str) -> None:
    ledger = Ledger()
    daemon = RunningDaemon(small_disk).wait_ready()
    try:
        with BookkeepingConnection(daemon.socket_path, ledger) as connection:
            session_id = connection.call("sessions.create", flavour=flavour)["session_id"]
            append(connection, session_id, text="before")
            fill(small_disk / "ballast")
            error = until_refused(connection, session_id)
            assert error.kind == "no_space"
            head = len(connection.call("sessions.read", session_id=session_id, limit=100000)["events"])
            assert refusal(connection, session_id).kind == "no_space"
            assert len(connection.call("sessions.read", session_id=session_id, limit=100000)["events"]) == head
            os.unlink(small_disk / "ballast")
            until_served_again(connection, session_id, "evt-after")
            append(connection, session_id)
        assert_whole(daemon, ledger)
    finally:
        if daemon.process.poll() is None:
            daemon.kill()


@needs_root
def test_a_disk_that_fills_while_the_daemon_is_down_lets_it_say_so(small_disk: Path) -> None:
    """With frames to recover and no room for it: a clear refusal, or service without writing; nothing is lost."""
    ledger = Ledger()
    daemon = RunningDaemon(small_disk).wait_ready()
    with BookkeepingConnection(daemon.socket_path, ledger) as connection:
        session_id = connection.call("sessions.create", flavour="mink")["session_id"]
        for _ in range(50):
            append(connection, session_id, text="x" * 2000)
    daemon.kill()
    fill(small_disk / "ballast")
    full = RunningDaemon(small_disk)
    try:
        full.wait_ready()
    except RuntimeError:
        full.log.close()
        assert "no space" in full.read_log().lower()
    else:
        with BookkeepingConnection(full.socket_path, ledger) as connection:
            assert refusal(connection, session_id).kind == "no_space"
        full.kill()
    os.unlink(small_disk / "ballast")
    again = RunningDaemon(small_disk).wait_ready()
    assert_whole(again, ledger)


def test_a_file_that_may_not_grow_suspends_the_store_until_it_may(
    start_daemon: Callable[..., RunningDaemon],
) -> None:
    """RLIMIT_FSIZE: a real short write, then EFBIG, in the middle of a session's file."""
    limit = 17 * MIB  # a journal segment still fits
    daemon = start_daemon(prefix=("prlimit", f"--fsize={limit}:unlimited"))
    ledger = Ledger()
    with BookkeepingConnection(daemon.socket_path, ledger) as connection:
        session_id = connection.call("sessions.create", flavour="mink")["session_id"]
        error = until_refused(connection, session_id, most=40)
        assert error.kind == "no_space"
        assert error.data.get("outcome") == "unknown"
        resource.prlimit(daemon.process.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        until_served_again(connection, session_id, "evt-after")
        append(connection, session_id)
    assert_whole(daemon, ledger)


@needs_root
def test_a_read_only_home_is_named_and_left_alone(small_disk: Path) -> None:
    ledger = Ledger()
    daemon = RunningDaemon(small_disk).wait_ready()
    with BookkeepingConnection(daemon.socket_path, ledger) as connection:
        session_id = connection.call("sessions.create", flavour="mink")["session_id"]
        append(connection, session_id, text="before")
    daemon.kill()
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    refused = RunningDaemon(small_disk)
    assert refused.process.wait(20) != 0
    refused.log.close()
    said = refused.log_path.read_text()
    assert "Traceback" not in said
    assert "read-only" in said.lower()
    subprocess.run(["mount", "-o", "remount,rw", str(small_disk)], check=True)
    again = RunningDaemon(small_disk).wait_ready()
    with BookkeepingConnection(again.socket_path, ledger) as connection:
        append(connection, session_id, text="after")
    assert_whole(again, ledger)


def fill(ballast: Path) -> None:
    """Take all the room there is."""
    with open(ballast, "wb", buffering=0) as file:
        chunk = bytes(MIB)
        try:
            while file.write(chunk):
                pass
        except OSError:
            pass


def until_refused(connection: BookkeepingConnection, session_id: str, most: int = 10_000) -> RpcError:
    """Append half a megabyte at a time until the disk has no more room."""
    for _ in range(most):
        try:
            append(connection, session_id, text="x" * (MIB // 2))
        except RpcError as error:
            return error
    raise AssertionError("the disk never filled")

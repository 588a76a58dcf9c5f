"""The flush, and sessions that others remove, replace or write while they are open (store rules 6 and 9)."""

from __future__ import annotations

import fcntl
import json
import os
import select
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from chimera.sessions.eventlog.journal import SECTOR, list_segments, read_journal
from tests.support import crash_strace
from tests.support.daemon import Connection, RunningDaemon
from tests.support.logs import shape_c
from tests.support.store import (
    LAYOUTS,
    append,
    configure,
    contents_of,
    create,
    event,
    events_of,
    generation_of,
    lost_events,
    problems_of,
    refusal,
    until_flushed,
)


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningDaemon]:
    """One for the tests that only flush; sessions of each test are its own."""
    running = RunningDaemon(tmp_path_factory.mktemp("flush") / "home").wait_ready()
    yield running
    running.kill()


@pytest.fixture(params=LAYOUTS.values(), ids=list(LAYOUTS))
def session(connection: Connection, request: pytest.FixtureRequest) -> str:
    return create(connection, request.param)


@pytest.fixture
def slow(start_daemon: Callable[..., RunningDaemon], home: Path) -> RunningDaemon:
    """A daemon that flushes only when it must, so that a test has the time before a flush for itself."""
    configure(home, flush_interval_ms=60_000)
    return start_daemon()


def journal_of(daemon: RunningDaemon) -> str:
    return str(daemon.root / ".journal")


def until_gone(connection: Connection, session_id: str) -> list[str]:
    """Append until the flush has seen that the session is no more; the ids that were acknowledged meanwhile."""
    acknowledged: list[str] = []
    for number in range(100_000):
        request = connection.send("sessions.append", session_id=session_id, events=[event(f"late {number}")])
        [reply] = [connection.read_message()]
        assert reply["id"] == request
        if "error" in reply:
            assert reply["error"]["data"]["kind"] == "session_not_found"
            return acknowledged
        acknowledged += reply["result"]["ids"]
    raise AssertionError("nobody noticed")


# -- rule 6


def test_a_flush_leaves_nothing_for_recovery(daemon: RunningDaemon, connection: Connection, session: str) -> None:
    append(connection, session, event("x" * 1000))
    until_flushed(connection)
    append(connection, session, event("y"))  # its frame says what is flushed
    [*_, last] = read_journal(journal_of(daemon)).frames
    assert [entry.seq for entry in last.entries] == [2]
    assert all(entry.seq != 1 for frame in read_journal(journal_of(daemon)).frames for entry in frame.entries)


def test_full_segments_go_when_they_are_flushed(daemon: RunningDaemon, connection: Connection, session: str) -> None:
    for _ in range(40):
        append(connection, session, event("x" * (1 << 20)))
    until_flushed(connection)
    append(connection, session)
    until_flushed(connection)
    assert connection.call("daemon.status")["journal"]["segments"] == 1
    assert len(list_segments(journal_of(daemon))) <= 3  # it, its spare, and the trace of the start
    assert len(events_of(connection, session)) == 41


def test_a_clean_stop_leaves_no_frame_and_the_index_is_believed(start_daemon: Callable[..., RunningDaemon]) -> None:
    daemon = start_daemon()
    with daemon.connect() as connection:
        for flavour in LAYOUTS.values():
            append(connection, create(connection, flavour))
    assert daemon.stop() == 0
    segments = list_segments(journal_of(daemon))
    assert {os.path.getsize(path) for _, path in segments} == {SECTOR}
    reading = read_journal(journal_of(daemon))
    assert reading.frames == []
    with sqlite3.connect(daemon.home / "state" / "index.db") as index:
        [(covered,)] = index.execute("SELECT value FROM facts WHERE name = 'covered_lsn'").fetchall()
    index.close()
    assert int(covered) == reading.flushed_lsn


def test_every_shutdown_waits_for_the_flush_that_runs(start_daemon: Callable[..., RunningDaemon], home: Path) -> None:
    """Stopped in the middle of a flush: what it had taken upon itself is durable before the journal goes."""
    if not crash_strace.AVAILABLE:
        pytest.skip("strace is not installed")
    configure(home, flush_interval_ms=10)
    daemon = start_daemon()
    with daemon.connect() as connection:
        session_id = create(connection)
        append(connection, session_id)
        log = str(daemon.root / session_id / "events.jsonl")
        with crash_strace.injecting(daemon.process.pid, "fdatasync", "error=EIO:delay_enter=300000", path=log):
            append(connection, session_id, event("unsynced"))
            connection.call("daemon.shutdown")
            daemon.process.wait()
            daemon.log.close()
    assert read_journal(journal_of(daemon)).frames, "the sync had failed, and yet the journal was emptied"
    with start_daemon().connect() as connection:
        assert contents_of(connection, session_id) == ["hello", "unsynced"]


def test_too_much_unflushed_is_overload_and_passes(start_daemon: Callable[..., RunningDaemon], home: Path) -> None:
    if not crash_strace.AVAILABLE:
        pytest.skip("strace is not installed")
    configure(home, max_unflushed_mib=16, flush_mib=1)
    daemon = start_daemon()
    with daemon.connect() as connection:
        session_id = create(connection)
        append(connection, session_id)
        until_flushed(connection)
        log = str(daemon.root / session_id / "events.jsonl")
        with crash_strace.injecting(daemon.process.pid, "fdatasync", "delay_enter=1000000", path=log):
            shown = 1
            while True:
                request = connection.send("sessions.append", session_id=session_id, events=[event("x" * (1 << 20))])
                reply = connection.read_message()
                assert reply["id"] == request
                if "error" in reply:
                    break
                shown += 1
            assert (reply["error"]["code"], reply["error"]["data"]["kind"]) == (-32001, "overloaded")
            assert len(events_of(connection, session_id)) == shown
        until_flushed(connection)
        assert append(connection, session_id)["first_seq"] == shown + 1


# -- rule 9


@pytest.mark.parametrize("flavour", LAYOUTS.values(), ids=list(LAYOUTS))
def test_a_removed_session_is_not_found_and_its_unflushed_events_are_kept(slow: RunningDaemon, flavour: str) -> None:
    with slow.connect() as connection, slow.connect() as watcher:
        session_id = create(connection, flavour)
        append(connection, session_id, event("flushed"))
        other = create(connection)
        trash_id = connection.call("sessions.delete", session_id=other)["trash_id"]  # that flushes
        append(connection, session_id, event("one"), event("two"))
        watcher.call("sessions.subscribe", session_id=session_id)
        shutil.rmtree(slow.root / session_id)
        assert refusal(connection, "sessions.read", session_id=session_id).kind == "session_not_found"
        assert refusal(connection, "sessions.rename", session_id=session_id, title="x").kind == "session_not_found"
        assert watcher.next_notification()["method"] == "session.lagged"
        error = refusal(connection, "sessions.append", session_id=session_id, events=[event("late")])
        assert error.kind == "session_not_found"
        connection.call("sessions.restore", trash_id=trash_id)
        while len(lost_events(slow.root, session_id)) < 2:
            select.select([], [], [], 0.01)
        assert [one["metadata"]["content"] for one in lost_events(slow.root, session_id)] == ["one", "two"]
        assert not (slow.root / session_id).exists()
        assert append(connection, other)["first_seq"] == 1


@pytest.mark.parametrize("flavour", LAYOUTS.values(), ids=list(LAYOUTS))
def test_a_session_removed_under_load_takes_nothing_else_with_it(
    daemon: RunningDaemon, connection: Connection, flavour: str
) -> None:
    """Calls for it are queued, numbered and unsynced when it goes; the store goes on without a pause."""
    doomed, other = create(connection, flavour), create(connection, flavour)
    append(connection, doomed)
    append(connection, other)
    with daemon.connect() as busy:
        sent = [
            busy.send("sessions.append", session_id=doomed, events=[event(number)], durability=durability)
            for number in range(200)
            for durability in ("buffered", "durable")
        ]
        (daemon.root / doomed).rename(daemon.root / ".doomed")
        shutil.rmtree(daemon.root / ".doomed", ignore_errors=True)
        late = until_gone(connection, doomed)
        replies = [busy.read_message() for _ in sent]
    kinds = {reply["error"]["data"]["kind"] for reply in replies if "error" in reply}
    assert kinds <= {"session_not_found"}
    assert append(connection, other)["first_seq"] == 2
    until_flushed(connection)
    kept = {one["id"] for one in lost_events(daemon.root, doomed)}
    assert kept >= set(late)
    assert "suspended" not in daemon.read_log()


@pytest.mark.parametrize("flavour", LAYOUTS.values(), ids=list(LAYOUTS))
def test_a_session_made_anew_has_nothing_of_the_removed_one(
    slow: RunningDaemon, flavour: str, start_daemon: Callable[..., RunningDaemon]
) -> None:
    """Made again under the same name before any flush, and the daemon killed: recovery keeps them apart."""
    with slow.connect() as connection:
        session_id = create(connection, flavour)
        append(connection, session_id, event("old one"), event("old two"))
        shutil.rmtree(slow.root / session_id)
        assert create(connection, flavour, session_id=session_id) == session_id
        assert append(connection, session_id, event("new"))["first_seq"] == 1
        assert contents_of(connection, session_id) == ["new"]
        generation = generation_of(connection, session_id)
    slow.kill()
    with start_daemon().connect() as connection:
        assert contents_of(connection, session_id) == ["new"]
        assert generation_of(connection, session_id) == generation
        assert problems_of(connection, session_id) == []
        assert [one["metadata"]["content"] for one in lost_events(slow.root, session_id)] == ["old one", "old two"]


def test_a_folder_that_somebody_made_again_has_nothing_of_the_removed_one(
    slow: RunningDaemon, start_daemon: Callable[..., RunningDaemon]
) -> None:
    """As above, but by hand: the first append to the new folder keeps them apart."""
    with slow.connect() as connection:
        session_id = create(connection)
        append(connection, session_id, event("old one"), event("old two"))
        shutil.rmtree(slow.root / session_id)
        assert refusal(connection, "sessions.rename", session_id=session_id, title="x").kind == "session_not_found"
        (slow.root / session_id).mkdir()
        assert append(connection, session_id, event("new"))["first_seq"] == 1
    slow.kill()
    with start_daemon().connect() as connection:
        assert contents_of(connection, session_id) == ["new"]
        assert len(lost_events(slow.root, session_id)) == 2


@pytest.mark.parametrize("what", ["folder", "log"])
def test_a_replaced_folder_or_log_is_noticed(daemon: RunningDaemon, connection: Connection, what: str) -> None:
    """Moved away and a copy put there: the copy is the session, what it lacks goes to .lost."""
    session_id = create(connection)
    append(connection, session_id, event("copied"))
    until_flushed(connection)
    folder = daemon.root / session_id
    if what == "folder":
        shutil.copytree(folder, folder.parent / ".copy")
        folder.rename(folder.parent / ".moved")
        (folder.parent / ".copy").rename(folder)
    else:
        shutil.copy(folder / "events.jsonl", folder / "copy")
        (folder / "events.jsonl").rename(folder / "moved")
        (folder / "copy").rename(folder / "events.jsonl")
    answer = append(connection, session_id, event("after"))
    until_flushed(connection)
    kept = [
        one["metadata"]["content"] for one in events_of(connection, session_id) + lost_events(daemon.root, session_id)
    ]
    assert kept == ["copied", "after"]
    assert append(connection, session_id, event("again"))["ids"] != answer["ids"]
    assert contents_of(connection, session_id)[-1] == "again"
    for name in (".moved", ".copy"):
        shutil.rmtree(daemon.root / name, ignore_errors=True)


def test_a_foreign_line_appended_while_open_survives_and_nothing_false_is_shown(
    slow: RunningDaemon, start_daemon: Callable[..., RunningDaemon]
) -> None:
    with slow.connect() as connection:
        session_id = create(connection)
        append(connection, session_id, event("one"))
        with (slow.root / session_id / "events.jsonl").open("ab") as file:
            file.write(shape_c(content="foreign") + b"\n")
        append(connection, session_id, event("two"), event("three"))
        append(connection, session_id, event("four"))
        assert contents_of(connection, session_id) == ["one", "two", "three", "four"]
        again = append(connection, session_id, event("five", id="five"))
        assert append(connection, session_id, event("five", id="five")) == again
    assert slow.stop() == 0
    body = (slow.root / session_id / "events.jsonl").read_bytes()
    assert shape_c(content="foreign") + b"\n" in body
    with start_daemon().connect() as connection:
        assert contents_of(connection, session_id) == ["one", "two", "three", "four", "five"]
        assert [problem["kind"] for problem in problems_of(connection, session_id)] == ["stray"]


def test_a_foreign_line_at_the_end_is_read_and_gone_on_from(daemon: RunningDaemon, connection: Connection) -> None:
    session_id = create(connection)
    append(connection, session_id, event("one"))
    with (daemon.root / session_id / "events.jsonl").open("ab") as file:
        file.write(shape_c(content="foreign") + b"\n")
    while contents_of(connection, session_id) != ["one", "foreign"]:
        select.select([], [], [], 0.01)
    assert append(connection, session_id, event("two"))["first_seq"] == 3
    assert problems_of(connection, session_id) == []


def test_a_foreign_event_file_in_our_place_is_kept(daemon: RunningDaemon, connection: Connection) -> None:
    """The same name to the letter: the store recovers, theirs stays, ours follows, the generation is another."""
    session_id = create(connection, "stoat")
    append(connection, session_id, event("one"))
    before = generation_of(connection, session_id)
    foreign = daemon.root / session_id / "event-000002-user_message.json"
    foreign.write_bytes(shape_c(content="foreign"))
    error = refusal(connection, "sessions.append", session_id=session_id, events=[event("two", id="two")])
    assert (error.kind, error.data["outcome"]) == ("io_error", "unknown")
    while contents_of(connection, session_id) != ["one", "foreign", "two"]:
        select.select([], [], [], 0.01)
    assert json.loads(foreign.read_bytes())["metadata"] == {"content": "foreign"}
    assert generation_of(connection, session_id) != before
    while True:
        request = connection.send("sessions.append", session_id=session_id, events=[event("two", id="two")])
        reply = connection.read_message()
        assert reply["id"] == request
        if "result" in reply:
            break
    assert reply["result"]["first_seq"] == 3


def test_a_lock_file_that_was_replaced_is_noticed(daemon: RunningDaemon, connection: Connection) -> None:
    """Somebody else may hold the one that lies there now; then he has it, and is named."""
    session_id = create(connection)
    append(connection, session_id)
    lock = daemon.root / session_id / ".lock"
    lock.unlink()
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        for number in range(100_000):
            request = connection.send("sessions.append", session_id=session_id, events=[event(number)])
            reply = connection.read_message()
            assert reply["id"] == request
            if "error" in reply:
                break
        assert reply["error"]["data"]["kind"] == "locked"
        assert str(os.getpid()) in reply["error"]["message"]
        assert events_of(connection, session_id)
    assert append(connection, session_id)["first_seq"] == number + 2

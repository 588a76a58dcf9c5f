"""Power cuts of a real daemon: recorded once, cut at every operation, recovered from every state that may be left."""

from __future__ import annotations

import contextlib
import os
import select
import shutil
from collections.abc import Callable
from itertools import count
from pathlib import Path

import pytest

from chimera.sessions.eventlog.journal import SEGMENT_BYTES
from chimera.sessions.eventlog.log import EventLog
from chimera.sessions.eventlog.recovery import Recovered
from tests.support import power_recorder, power_strace
from tests.support.crash_client import event
from tests.support.crash_faults import arm, kill_prefix
from tests.support.crash_ledger import Conversation, Found, find
from tests.support.daemon import Connection, RunningDaemon
from tests.support.power_check import cut_power, some_states
from tests.support.power_disk import continued
from tests.support.power_recorder import Operation, read_trace, recording
from tests.support.power_store import ROOT, StoreJudge, recover

ONE = "mink-20260101T000000-00000001"
SMALL_SEGMENT = 48 * 1024
LAYOUTS = {"mink": "jsonl", "otter": "ids", "stoat": "typed"}


def create_each(connection: Connection) -> list[str]:
    return [connection.call("sessions.create", flavour=flavour)["session_id"] for flavour in LAYOUTS]


def append(connection: Connection, session_id: str, *texts: str, durability: str = "durable") -> None:
    connection.call(
        "sessions.append", session_id=session_id, events=[event(text) for text in texts], durability=durability
    )


def until_flushed(connection: Connection) -> None:
    while connection.call("daemon.status")["journal"]["unflushed_events"]:
        select.select([], [], [], 0.02)


def append_in_every_way(connection: Connection, sessions: list[str]) -> None:
    """Alone, in a batch, buffered, over sector bounds, twice under one id, several calls on their way at once."""
    for session_id in sessions:
        append(connection, session_id, "one")
        append(connection, session_id, "a batch", "x" * 1500, "of three")
        append(connection, session_id, "buffered", durability="buffered")
    waiting = [
        connection.send("sessions.append", session_id=session_id, events=[event("at once")])
        for session_id in sessions
        for _ in range(2)
    ]
    for request in waiting:
        connection.wait_reply(request)
    repeated = event("twice", event_id="evt-twice")
    for _ in range(2):
        connection.call("sessions.append", session_id=sessions[0], events=[repeated])


def live_a_whole_life(connection: Connection, watcher: Connection) -> None:
    """Every call that changes a log or what lies beside it, before and after a flush."""
    sessions = create_each(connection)
    for session_id in sessions:
        watcher.call("sessions.subscribe", session_id=session_id)
    append_in_every_way(connection, sessions)
    until_flushed(connection)
    connection.call("sessions.rename", session_id=sessions[0], title="a title")
    connection.call("sessions.tag", session_id=sessions[1], add=["one", "two"])
    connection.call("sessions.pin", session_id=sessions[2])
    append_in_every_way(connection, sessions)
    for session_id in sessions:
        connection.call("sessions.read", session_id=session_id)
    connection.call("sessions.finish", session_id=sessions[1], summary={"success": True})
    append(connection, sessions[1], "after the finish")
    trash_id = connection.call("sessions.delete", session_id=sessions[2])["trash_id"]
    connection.call("sessions.restore", trash_id=trash_id)
    append(connection, sessions[2], "after the restoration")
    doomed = connection.call("sessions.create", flavour="mink")["session_id"]
    append(connection, doomed, "to be deleted")
    connection.call("sessions.delete", session_id=doomed)
    append(connection, sessions[0], "the last")


Record = Callable[..., tuple[RunningDaemon, str]]


@pytest.fixture
def record(watch: Path, tmp_path: Path, start_daemon: Callable[..., RunningDaemon]) -> Record:
    """Start a daemon that records itself; answers it and where."""

    def start(*outside: str, segment_bytes: int = SMALL_SEGMENT) -> tuple[RunningDaemon, str]:
        trace = str(tmp_path / f"trace-{len(list(tmp_path.glob('trace-*')))}")
        prefix = (*outside, *power_recorder.prefix(trace, str(watch)))
        environment = {power_recorder.SEGMENT_BYTES_VARIABLE: str(segment_bytes)}
        return start_daemon(prefix=prefix, env=environment), trace

    return start


def end(daemon: RunningDaemon, *, cleanly: bool) -> None:
    with daemon.connect() as connection:
        if cleanly:
            connection.call("daemon.shutdown")
        else:
            os.kill(connection.call("daemon.hello")["pid"], 9)
    daemon.process.wait()
    daemon.log.close()


def assert_survives(operations: list[Operation], *, least: int = 100, **options: int) -> None:
    report = cut_power(operations, StoreJudge(operations), **options)
    print(report)
    assert not report.failures, str(report)
    assert report.distinct > least


@pytest.mark.timeout(600)
def test_nothing_answered_or_shown_is_lost_at_any_cut(record: Record) -> None:
    daemon, trace = record()
    with daemon.connect() as connection, daemon.connect() as watcher:
        live_a_whole_life(connection, watcher)
    end(daemon, cleanly=True)
    assert_survives(read_trace(trace))


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "skipped",
    [
        "chimera.sessions.eventlog.journal:SegmentWriter.sync",
        "chimera.durable:make_durable",
        "chimera.durable:sync_folder",
        "chimera.durable:sync_file",
        "chimera.sessions.eventlog.recovery:recover_root",
    ],
)
def test_a_daemon_that_leaves_out_a_step_is_caught(
    record: Record, skipped: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The teeth of the test above: each of these steps is needed, and its absence is seen."""
    if skipped.endswith("recover_root"):
        daemon, trace = record()
        monkeypatch.setattr("tests.support.power_store.recover_root", lambda _: Recovered(1, 1, 0))
    else:
        monkeypatch.setenv(power_recorder.SKIP_VARIABLE, skipped)
        daemon, trace = record()
    with daemon.connect() as connection, daemon.connect() as watcher:
        live_a_whole_life(connection, watcher)
    end(daemon, cleanly=False)
    operations = read_trace(trace)
    assert cut_power(operations, StoreJudge(operations), workers=1, most_failures=1, random_states=5).failures


@pytest.mark.skipif(not power_strace.AVAILABLE, reason="strace is not installed")
def test_strace_proves_the_recording_of_the_daemon_whole(record: Record, watch: Path, tmp_path: Path) -> None:
    daemon, trace = record(*power_strace.prefix(str(tmp_path / "strace")), segment_bytes=SEGMENT_BYTES)
    with daemon.connect() as connection, daemon.connect() as watcher:
        live_a_whole_life(connection, watcher)
    end(daemon, cleanly=True)
    kernel = power_strace.kernel_story(str(tmp_path / "strace"), str(watch))
    recorded = power_strace.recorded_story(read_trace(trace))
    assert power_strace.differences(kernel, recorded) == []
    assert sum(map(len, kernel.values())) > 300


@pytest.mark.timeout(600)
def test_a_daemon_that_follows_a_killed_one_may_lose_power_too(record: Record, share: int) -> None:
    """A kill with much unflushed, and then a successor: what the kernel still held back is lost at every operation."""
    daemon, trace = record()
    with daemon.connect() as connection, daemon.connect() as watcher:
        live_a_whole_life(connection, watcher)
        sessions = create_each(connection)
        append_in_every_way(connection, sessions)
        end(daemon, cleanly=False)
    successor, second = record()
    with successor.connect() as connection:
        for session_id in sessions:
            append(connection, session_id, "after the recovery")
        session_id = connection.call("sessions.create", flavour="mink")["session_id"]
        append(connection, session_id, "after the recovery")
    end(successor, cleanly=False)
    before = read_trace(trace)
    assert_survives(continued(before, read_trace(second)), first=len(before), share=share)


@pytest.mark.timeout(600)
def test_a_recovery_after_a_kill_may_be_cut_anywhere_and_run_again(record: Record, watch: Path, share: int) -> None:
    daemon, trace = record()
    with daemon.connect() as connection, daemon.connect() as watcher:
        live_a_whole_life(connection, watcher)
        append_in_every_way(connection, create_each(connection))
        end(daemon, cleanly=False)
    before = read_trace(trace)
    with recording(str(watch)) as during:
        recover(str(watch / ROOT))
    assert_survives(continued(before, during), first=len(before), share=share)


@pytest.mark.timeout(600)
def test_a_recovery_after_a_power_cut_may_be_cut_too(record: Record, tmp_path: Path) -> None:
    """Some states that a first cut leaves; recovery runs on each and is cut at every operation."""
    daemon, trace = record()
    with daemon.connect() as connection, daemon.connect() as watcher:
        live_a_whole_life(connection, watcher)
    end(daemon, cleanly=False)
    operations = read_trace(trace)
    distinct = 0
    for number, (before, disk, state) in enumerate(some_states(operations, 12)):
        folder = str(tmp_path / f"state-{number}")
        disk.materialise(state, folder)
        if not os.path.isdir(os.path.join(folder, ROOT)):
            continue
        with recording(folder) as during:
            recover(os.path.join(folder, ROOT))
        words = [operation for operation in operations[:before] if operation[0] in ("sent", "received")]
        second = [*words, *during]
        report = cut_power(second, StoreJudge(second), first=len(words), workers=1, random_states=10)
        assert not report.failures, f"{state.label} before {before}, recovery cut again:\n{report}"
        distinct += report.distinct
    assert distinct > 100


@pytest.mark.timeout(300)
def test_a_daemon_starts_on_what_a_cut_leaves_whatever_the_index_says(
    record: Record, watch: Path, tmp_path: Path
) -> None:
    """The real start, socket and all, beside an index of another time: ahead of the log, or none."""
    daemon, trace = record()
    with daemon.connect() as connection, daemon.connect() as watcher:
        live_a_whole_life(connection, watcher)
    end(daemon, cleanly=True)
    operations = read_trace(trace)
    conversation = Conversation(operations)
    for number, (before, disk, state) in enumerate(some_states(operations, 12, seed=2)):
        folder = tmp_path / f"state-{number}"
        disk.materialise(state, str(folder))
        if number % 2 and (folder / "home").is_dir():
            shutil.copytree(watch / "home" / "state", folder / "home" / "state", dirs_exist_ok=True)
        again = RunningDaemon(folder / "home").wait_ready()
        with again.connect() as connection:
            assert connection.call("sessions.verify")["problems"] == []
            listed = connection.call("sessions.list", limit=0)["sessions"]
            for record_of_session in listed:
                append(connection, record_of_session["session_id"], "after the cut")
        assert again.stop() == 0
        found = find(str(again.root))
        assert {one["session_id"]: one["events"] + 1 for one in listed} == {
            session_id: len(session.records) for session_id, session in found.sessions.items()
        }
        wrong = [wrong for wrong in conversation.ledger(before).complaints(found) if "nobody appended" not in wrong]
        assert not wrong, f"{state.label} before {before}:\n" + "\n".join(wrong)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("flavour", LAYOUTS)
def test_what_is_acknowledged_behind_another_programs_events_survives(
    record: Record, watch: Path, flavour: str
) -> None:
    """An embedder does not sync and ends; the daemon goes on behind its events, and the power goes."""
    daemon, first = record()
    with daemon.connect() as connection:
        session_id = connection.call("sessions.create", flavour=flavour)["session_id"]
        append(connection, session_id, "the first")
    end(daemon, cleanly=True)
    with recording(str(watch)) as second:
        log = EventLog(watch / ROOT / session_id, fsync="never")
        for number in range(3):
            log.append("user_message", {"token": f"never synced {number}"})
    daemon, third = record()
    with daemon.connect() as connection:
        append(connection, session_id, "behind it")
        until_flushed(connection)
        append(connection, session_id, "and once more")
    end(daemon, cleanly=False)
    before = continued(read_trace(first), second)
    operations = continued(before, read_trace(third))
    report = cut_power(operations, OnlyAnswered(operations), first=len(before))
    assert not report.failures, str(report)


class OnlyAnswered(StoreJudge):
    """Leaves alone what was not appended through the daemon: nobody promised that it would last."""

    def complaints(self, found: Found, before: int) -> list[str]:
        ours = ("answered", "shown", ".lost", "recovery")
        return [wrong for wrong in super().complaints(found, before) if any(word in wrong for word in ours)]


def create_again(connection: Connection) -> None:
    connection.call("sessions.create", session_id=ONE, flavour="mink")


def delete_and_restore(connection: Connection) -> None:
    items = connection.call("trash.list")["items"]
    trash_id = items[0]["trash_id"] if items else connection.call("sessions.delete", session_id=ONE)["trash_id"]
    connection.call("sessions.restore", trash_id=trash_id)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("act", [create_again, delete_and_restore])
def test_a_kill_in_the_middle_and_a_power_cut_later(
    act: Callable[[Connection], None], tmp_path: Path, share: int
) -> None:
    """What a killed daemon had renamed may stand there unsynced: what is then acknowledged in it must survive."""
    for number in count(1, 1 if act is create_again else share):
        watch = tmp_path / f"disk-{number}"
        watch.mkdir()
        if kill_and_cut(watch, act, number):
            break
    assert number > 5


def kill_and_cut(watch: Path, act: Callable[[Connection], None], number: int) -> bool:
    """Kill after the act's nth operation, go on with a second daemon, cut its power; whether the act was over."""
    control, trace, second = (f"{watch}-{part}" for part in ("control", "first", "second"))
    small = {power_recorder.SEGMENT_BYTES_VARIABLE: str(SMALL_SEGMENT)}
    daemon = RunningDaemon(watch / "home", prefix=kill_prefix(control, str(watch), trace), env=small).wait_ready()
    over = False
    with daemon.connect() as connection, contextlib.suppress(OSError, EOFError):
        if act is not create_again:
            create_again(connection)
            append(connection, ONE, "before")
        arm(control, number)
        act(connection)
        over = True
    daemon.kill()
    successor = RunningDaemon(watch / "home", prefix=power_recorder.prefix(second, str(watch)), env=small).wait_ready()
    with successor.connect() as connection:
        if not os.path.isdir(successor.root / ONE):
            act(connection)
        append(connection, ONE, "acknowledged")
        until_flushed(connection)
    end(successor, cleanly=False)
    before = read_trace(trace)
    assert_survives(continued(before, read_trace(second)), first=len(before), least=5, workers=1, random_states=10)
    return over

"""A daemon that was killed, stopped or asked to end, and its successor: everything acknowledged is there."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from chimera.sessions.eventlog.journal import list_segments, read_journal
from tests.support.daemon import RunningDaemon
from tests.support.journals import frame_places, overwrite
from tests.support.store import (
    LAYOUTS,
    append,
    append_raw,
    configure,
    contents_of,
    create,
    event,
    events_of,
    foreign_session,
    generation_of,
    problems_of,
    summary_of,
)

Start = Callable[..., RunningDaemon]


def segment_numbers(daemon: RunningDaemon) -> list[int]:
    return [number for number, _ in list_segments(str(daemon.root / ".journal"))]


@pytest.mark.parametrize("ending", ["kill", "terminate", "shutdown"])
def test_everything_acknowledged_is_there_afterwards(start_daemon: Start, home: Path, ending: str) -> None:
    """Flushed and not, durable and buffered, of every layout; byte for byte."""
    configure(home, flush_interval_ms=50)
    daemon = start_daemon()
    with daemon.connect() as connection:
        sessions = [create(connection, flavour) for flavour in LAYOUTS.values()]
        for number in range(40):
            for session_id in sessions:
                durability = "buffered" if number % 3 else "durable"
                append(connection, session_id, event(number), event("x" * 700), durability=durability)
        append_raw(connection, sessions[0], b'{ "content": 1.50 }')
        for session_id in sessions:
            append(connection, session_id, event("last"))
        before = [events_of(connection, session_id) for session_id in sessions]
        generations = [generation_of(connection, session_id) for session_id in sessions]
        if ending == "shutdown":
            assert connection.call("daemon.shutdown") == {"stopping": True}
    if ending == "kill":
        daemon.kill()
    else:
        assert daemon.stop() == 0
    with start_daemon().connect() as connection:
        assert [events_of(connection, session_id) for session_id in sessions] == before
        assert [generation_of(connection, session_id) for session_id in sessions] == generations
        assert [problems_of(connection, session_id) for session_id in sessions] == [[], [], []]
        for session_id, events in zip(sessions, before, strict=True):
            assert append(connection, session_id, event("after"))["first_seq"] == len(events) + 1


def test_appends_that_were_under_way_at_the_end_are_there_whole_or_not_at_all(start_daemon: Start) -> None:
    daemon = start_daemon()
    with daemon.connect() as connection:
        session_id = create(connection)
        for number in range(300):
            connection.send("sessions.append", session_id=session_id, events=[event(number), event(number)])
        answered = [connection.read_message() for _ in range(20)]
        daemon.kill()
    with start_daemon().connect() as connection:
        found = contents_of(connection, session_id)
        assert found == [number for number in range(len(found) // 2) for _ in range(2)]
        assert len(found) >= 2 * len(answered)
        assert problems_of(connection, session_id) == []


@pytest.mark.parametrize("flavour", LAYOUTS.values(), ids=list(LAYOUTS))
def test_what_the_files_lost_comes_back_from_the_journal(start_daemon: Start, home: Path, flavour: str) -> None:
    """As after a power cut: nothing of what was not flushed is in the files any more."""
    configure(home, flush_interval_ms=60_000)
    daemon = start_daemon()
    with daemon.connect() as connection:
        session_id = create(connection, flavour)
        append(connection, session_id, *(event(number) for number in range(5)))
        append(connection, session_id, event(5))
        before = events_of(connection, session_id)
    daemon.kill()
    for path in (daemon.root / session_id).glob("event*"):
        os.truncate(path, 10)
    with start_daemon().connect() as connection:
        assert events_of(connection, session_id) == before
        assert problems_of(connection, session_id) == []


def test_numbers_of_frames_and_segments_go_on_over_every_kind_of_start(start_daemon: Start, home: Path) -> None:
    configure(home, flush_interval_ms=60_000)
    last_lsn, last_number = 0, 0
    for ending in ("kill", "stop", "stop", "kill", "kill"):
        daemon = start_daemon()
        with daemon.connect() as connection:
            append(connection, create(connection))
        assert min(segment_numbers(daemon)) > last_number
        [frame] = read_journal(str(daemon.root / ".journal")).frames
        assert frame.lsn > last_lsn
        if ending == "kill":
            daemon.kill()
        else:
            assert daemon.stop() == 0
        last_number = max(segment_numbers(daemon))
        last_lsn = read_journal(str(daemon.root / ".journal")).next_lsn - 1


def test_a_kill_without_any_append_leaves_nothing_behind(start_daemon: Start) -> None:
    for _ in range(3):
        daemon = start_daemon()
        daemon.kill()
    daemon = start_daemon()
    assert daemon.stop() == 0
    assert {path.stat().st_size for path in (daemon.root / ".journal").iterdir()} == {512}
    assert not (daemon.root / ".lost").exists()


def test_a_damaged_journal_is_reported_and_the_daemon_starts(start_daemon: Start, home: Path) -> None:
    configure(home, flush_interval_ms=60_000)
    daemon = start_daemon()
    with daemon.connect() as connection:
        session_id = create(connection)
        for number in range(4):
            append(connection, session_id, event(number))
    daemon.kill()
    first = next(path for path in sorted((daemon.root / ".journal").iterdir()) if len(frame_places(path)) > 1)
    overwrite(first, frame_places(first)[1] + 60, b"?")
    again = start_daemon()
    assert "acknowledged and cannot be read" in again.read_log()
    [kept] = (again.root / ".lost").glob("journal-*")
    assert first.name in os.listdir(kept)
    with again.connect() as connection:
        assert contents_of(connection, session_id) == [0, 1, 2, 3]  # the files had them


def test_many_sessions_of_a_killed_daemon_are_all_recovered(start_daemon: Start) -> None:
    daemon = start_daemon()
    with daemon.connect() as connection:
        sessions = [create(connection, flavour) for flavour in LAYOUTS.values() for _ in range(30)]
        for session_id in sessions:
            append(connection, session_id, event("one"), event("two"))
    daemon.kill()
    with start_daemon().connect() as connection:
        listed = {one["session_id"]: one for one in connection.call("sessions.list", limit=0)["sessions"]}
        assert {listed[session_id]["events"] for session_id in sessions} == {2}
        assert connection.call("sessions.verify") == {"sessions": 90, "events": 180, "problems": []}


def recovered_session(start_daemon: Start) -> tuple[RunningDaemon, str]:
    """A daemon that has just recovered a session of its dead predecessor."""
    daemon = start_daemon()
    with daemon.connect() as connection:
        session_id = create(connection)
        append(connection, session_id, event("the prompt"), event("x", "tool_call"))
    daemon.kill()
    return start_daemon(), session_id


def test_a_session_that_died_is_recovered_until_somebody_goes_on(start_daemon: Start, home: Path) -> None:
    configure(home, flush_interval_ms=60_000)
    daemon, session_id = recovered_session(start_daemon)
    summary = summary_of(daemon.root, session_id)
    assert (summary["recovered"], summary["state"], summary["prompt"]) == (True, "recovered", "the prompt")
    assert (summary["events"], summary["tool_calls_total"]) == (2, 1)
    assert summary["ended_at"]
    with daemon.connect() as connection:
        assert connection.call("sessions.list")["sessions"][0]["state"] == "recovered"
        append(connection, session_id)
        connection.call("sessions.rename", session_id=session_id, title="behind the reopening")
        summary = summary_of(daemon.root, session_id)
        assert (summary["recovered"], summary["state"], summary["ended_at"]) == (False, "open", "")
        assert connection.call("sessions.list")["sessions"][0]["state"] == "open"


def test_a_finish_that_comes_with_the_reopening_append_stands(start_daemon: Start) -> None:
    """The append is on its way when another client finishes: the summary is not opened again behind it."""
    daemon, session_id = recovered_session(start_daemon)
    with daemon.connect() as one, daemon.connect() as other:
        renames = [other.send("sessions.rename", session_id=session_id, title=f"t{n}") for n in range(3)]
        appended = one.send("sessions.append", session_id=session_id, events=[event()])
        finished = other.send("sessions.finish", session_id=session_id, summary={"success": True})
        for request in (*renames, finished):
            other.wait_reply(request)
        one.wait_reply(appended)
        one.call("sessions.rename", session_id=session_id, title="behind all")
        summary = summary_of(daemon.root, session_id)
    assert (summary["state"], summary["recovered"], summary["success"]) == ("finished", False, True)


def test_foreign_and_finished_summaries_are_not_completed(start_daemon: Start, home: Path) -> None:
    configure(home, flush_interval_ms=60_000)
    daemon = start_daemon()
    with daemon.connect() as connection:
        finished = create(connection)
        connection.call("sessions.finish", session_id=finished, summary={"success": True})
        folders = [
            foreign_session(daemon.root, f"mink-20260101T000000-0000000{number}", text)
            for number, text in enumerate(('{"model": "m", "ended_at": ""}', "{broken", None))
        ]
        names = [finished, *(folder.name for folder in folders)]
        for name in names:
            append(connection, name, event("unflushed"))
    before = {path: path.read_bytes() for path in daemon.root.glob("*/summary.json")}
    daemon.kill()
    daemon = start_daemon()
    assert {path: path.read_bytes() for path in daemon.root.glob("*/summary.json")} == before
    with daemon.connect() as connection:
        assert [contents_of(connection, name)[-1] for name in names] == ["unflushed"] * 4

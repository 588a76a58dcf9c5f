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
    append,
    append_raw,
    configure,
    contents_of,
    create,
    event,
    events_of,
    generation_of,
    problems_of,
)

LAYOUTS = {"jsonl": "mink", "ids": "otter", "typed": "stoat"}

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


def test_numbers_of_frames_and_segments_go_on_over_every_kind_of_start(start_daemon: Start) -> None:
    lsns, numbers = [0], [0]
    for ending in ("kill", "stop", "stop", "kill", "kill"):
        daemon = start_daemon()
        with daemon.connect() as connection:
            append(connection, create(connection))
        reading = read_journal(str(daemon.root / ".journal"))
        assert reading.next_lsn - 1 > lsns[-1]
        assert min(segment_numbers(daemon)) > numbers[-1] - 2, "a segment from before the last start is still there"
        assert max(segment_numbers(daemon)) > numbers[-1]
        lsns.append(reading.next_lsn - 1)
        numbers.append(max(segment_numbers(daemon)))
        if ending == "kill":
            daemon.kill()
        else:
            assert daemon.stop() == 0
        assert read_journal(str(daemon.root / ".journal")).next_lsn >= lsns[-1]


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

"""Index and watcher inside a real daemon: what other programs do to the event log is what its lists show."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.daemon import Connection, RunningDaemon
from tests.support.folders import make_session, write_summary

Start = Callable[..., RunningDaemon]


def until(connection: Connection, condition: Callable[[dict[str, Any]], bool]) -> None:
    """Ask for the list until the condition holds of its records by session id; the test's own timeout ends it."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        records = connection.call("sessions.list", limit=0)["sessions"]
        if condition({record["session_id"]: record for record in records}):
            return
    raise AssertionError(f"never so: {records}")


def test_sessions_removed_copied_in_and_edited_by_hand_are_listed_so(home: Path, start_daemon: Start) -> None:
    make_session(home / "eventlog", "mink-removed")
    edited = make_session(home / "eventlog", "mink-edited")
    daemon = start_daemon()
    with daemon.connect() as connection:
        until(connection, lambda found: set(found) == {"mink-removed", "mink-edited"})

        shutil.rmtree(home / "eventlog" / "mink-removed")
        make_session(home / "eventlog", "otter-copied", title="from elsewhere")
        write_summary(edited, title="by hand")

        expected = {"otter-copied": "from elsewhere", "mink-edited": "by hand"}
        until(connection, lambda found: {name: record["title"] for name, record in found.items()} == expected)


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_a_restart_compares_and_does_not_read_everything_again(start_daemon: Start, end: str) -> None:
    daemon = start_daemon("--log-level", "debug")
    with daemon.connect() as connection:
        session_id = connection.call("sessions.create")["session_id"]
        connection.call("sessions.append", session_id=session_id, events=[{"type": "note"}])
        until(connection, lambda found: found[session_id]["events"] == 1)
        while connection.call("daemon.status")["journal"]["unflushed_events"]:
            pass
    daemon.stop() if end == "stop" else daemon.kill()

    again = start_daemon("--log-level", "debug")
    with again.connect() as connection:
        until(connection, lambda found: found[session_id]["events"] == 1)

    assert "every session is read again" not in again.read_log()


def test_a_database_removed_between_two_runs_is_built_anew(home: Path, start_daemon: Start) -> None:
    daemon = start_daemon()
    with daemon.connect() as connection:
        session_id = connection.call("sessions.create", title="kept")["session_id"]
    daemon.stop()
    shutil.rmtree(home / "state")

    with start_daemon().connect() as connection:
        until(connection, lambda found: found[session_id]["title"] == "kept")


def test_a_rebuild_while_serving_answers_what_it_found(home: Path, daemon: RunningDaemon) -> None:
    with daemon.connect() as connection:
        session_id = connection.call("sessions.create")["session_id"]
        connection.call("sessions.append", session_id=session_id, events=[{"type": "note"}] * 3)

        rebuilt = connection.call("index.rebuild")

        assert (rebuilt["sessions"], rebuilt["events"]) == (1, 3)
        assert rebuilt["seconds"] >= 0
        assert connection.call("sessions.list")["sessions"][0]["events"] == 3

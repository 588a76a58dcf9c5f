"""`chimera tail [ID]`."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.command import begin, chimera
from tests.support.daemon import RunningDaemon


@pytest.fixture(autouse=True)
def session(daemon: RunningDaemon) -> None:
    with daemon.connect() as connection:
        connection.call("sessions.create", session_id="mink-1")
        append(connection, "mink-1", "one", "two")


@pytest.fixture
def tail(daemon: RunningDaemon) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Start tails; each is subscribed when it is returned. They end with Ctrl-C, quietly."""
    running: list[subprocess.Popen[bytes]] = []

    def start(*words: str, **options: object) -> subprocess.Popen[bytes]:
        with daemon.connect() as connection:
            clients = connection.call("daemon.status")["clients"]
            running.append(begin("tail", *words, **options))
            while connection.call("daemon.status")["clients"] <= clients:
                assert running[-1].poll() is None, running[-1].communicate()
        return running[-1]

    yield start
    for process in running:
        if process.poll() is None:
            process.kill()
        process.communicate()


def append(connection: Any, session_id: str, *contents: str) -> None:
    events = [{"type": "user_message", "metadata": {"content": content}} for content in contents]
    connection.call("sessions.append", session_id=session_id, events=events)


def line_of(process: subprocess.Popen[bytes]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().decode()


def interrupt(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=30) == (b"", b"")
    assert process.returncode == 130


def test_from_the_first_event_on_and_then_live(daemon: RunningDaemon, tail) -> None:
    process = tail("mink-1", "--from", "1")
    assert line_of(process)[8:] == "      1  user_message  one\n"
    assert line_of(process)[8:] == "      2  user_message  two\n"
    with daemon.connect() as connection:
        append(connection, "mink-1", "three")
    assert line_of(process).endswith("3  user_message  three\n")
    interrupt(process)


def test_as_json_for_a_script(daemon: RunningDaemon, tail) -> None:
    process = tail("mink-1", "--from", "2", "--json")
    seen = json.loads(line_of(process))
    assert list(seen) == ["session_id", "generation", "event"]
    assert seen["session_id"] == "mink-1"
    with daemon.connect() as connection:
        page = connection.call("sessions.read", session_id="mink-1", from_seq=2)
    assert (seen["event"], seen["generation"]) == (page["events"][0], page["generation"])
    interrupt(process)


def test_all_sessions_are_followed_without_an_id(daemon: RunningDaemon, tail) -> None:
    process = tail()
    with daemon.connect() as connection:
        connection.call("sessions.create", session_id="otter-new")
        while True:  # it may subscribe a moment after it connected
            append(connection, "otter-new", "hello")
            if process.stdout in __import__("select").select([process.stdout], [], [], 0.2)[0]:
                break
    assert "  otter-new  " in line_of(process)
    process.send_signal(signal.SIGINT)
    process.communicate()
    assert process.returncode == 130


def test_it_goes_on_after_the_daemon_was_killed_and_misses_nothing(
    daemon: RunningDaemon, tail, start_daemon: Callable[..., RunningDaemon]
) -> None:
    process = tail("mink-1", "--from", "1")
    assert "one" in line_of(process)
    assert "two" in line_of(process)
    daemon.kill()
    assert process.stderr is not None
    assert process.stderr.readline().startswith(b"the daemon has gone (")
    with start_daemon().connect() as connection:
        append(connection, "mink-1", "three")
    assert "3  user_message  three" in line_of(process)
    interrupt(process)


def test_a_closed_pipe_ends_it_quietly(daemon: RunningDaemon, tail) -> None:
    process = tail("mink-1", "--from", "1")
    assert "one" in line_of(process)
    process.stdout.close()
    with daemon.connect() as connection:
        while process.poll() is None:
            append(connection, "mink-1", "more")
    assert process.stderr.read() == b""
    assert process.returncode == 0
    process.stderr.close()
    process.stdout = process.stderr = None


def test_a_line_fits_the_terminal_and_drives_it_nowhere(daemon: RunningDaemon, tail) -> None:
    with daemon.connect() as connection:
        append(connection, "mink-1", "\x1b]0;owned\x07" + "long " * 100)
    ours, theirs = pty.openpty()
    tail("mink-1", "--from", "3", stdout=theirs, env={**os.environ, "COLUMNS": "60", "NO_COLOR": "1"})
    os.close(theirs)
    shown = b""
    while b"\n" not in shown:
        shown += os.read(ours, 4096)
    line = shown.decode().strip()
    assert "\x1b" not in line
    assert len(line) == 60
    assert line.endswith("…")
    os.close(ours)


@pytest.mark.parametrize(
    ("words", "told", "code"),
    [
        (("nobody-1",), "session not found: nobody-1", 2),
        (("nobody-1", "--from", "1"), "session not found: nobody-1", 2),
        (("../up",), "begins with a dot", 2),
        (("--from", "1"), "--from needs the ID of one session", 2),
        (("mink-1", "--from", "0"), "from 1 on", 2),
        (("mink-1", "--from", "x"), "invalid int value", 2),
    ],
)
def test_wrong_usage_is_a_sentence(words: tuple[str, ...], told: str, code: int) -> None:
    done = chimera("tail", *words)
    assert (done.returncode, done.stdout) == (code, "")
    assert told in done.stderr
    assert done.stderr.count("\n") == 1


def test_it_starts_a_daemon_where_there_is_none(home: Path, daemon: RunningDaemon) -> None:
    daemon.stop()
    done = chimera("tail", "nobody-1")
    assert "session not found" in done.stderr
    chimera("daemon", "stop")

"""SIGKILL at random under load: of what was acknowledged nothing is lost and nothing is there twice."""

from __future__ import annotations

import os
import queue
import random
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path

import msgspec
import pytest

from chimera import paths
from chimera.sessions.eventlog.reader import read_log
from chimera.sessions.eventlog.verify import verify_session
from tests.support.crash_client import BookkeepingConnection
from tests.support.crash_ledger import Found, Ledger, find, find_session
from tests.support.crash_load import Load
from tests.support.daemon import RunningDaemon


def check(root: str, ledger: Ledger, sessions: set[str]) -> None:
    """The books against the disk, for the sessions that were in use."""
    found = Found()
    for session_id in sessions:
        folder = paths.session_folder(root, session_id)
        if os.path.isdir(folder):
            found.sessions[session_id] = find_session(folder)
    wrong = [complaint for name in sessions for complaint in ledger.complaints_of(name, found)]
    assert not wrong, "\n".join(wrong)


@pytest.mark.timeout(3600)
def test_a_daemon_killed_at_random_loses_nothing(home: Path, rounds: int) -> None:
    ledger = Ledger(power_cut=False)
    dice = random.Random(rounds)
    touched: set[str] = set()
    retry: list[dict[str, object]] = []
    for number in range(rounds):
        daemon = RunningDaemon(home).wait_ready()
        try:
            check(str(daemon.root), ledger, touched)
            with BookkeepingConnection(daemon.socket_path, ledger) as connection:
                for call in retry:
                    connection.call("sessions.append", **call)
            everyone = [name for name, session in ledger.sessions.items() if session.stands]
            load = Load(daemon.socket_path, ledger, everyone[-8:] + everyone[:2], number)
            load.start()
            load.wait_answers(dice.choice((1, 4, 15, 50, 150)))
        finally:
            daemon.kill()
        load.join()
        touched, retry = load.touched, load.retry
    daemon = RunningDaemon(home).wait_ready()
    with daemon.connect() as connection:
        verified = connection.call("sessions.verify")
        listed = connection.call("sessions.list", limit=0)
    assert daemon.stop() == 0
    assert verified["problems"] == []
    found = find(str(daemon.root))
    wrong = ledger.complaints(found)
    assert not wrong, "\n".join(wrong)
    assert {record["session_id"]: record["events"] for record in listed["sessions"]} == {
        session_id: len(session.records) for session_id, session in found.sessions.items()
    }
    calls = [call for session in ledger.sessions.values() for call in session.appends]
    print(f"{rounds} kills, {sum(call.answer is not None for call in calls)} of {len(calls)} calls acknowledged")


@pytest.mark.timeout(3600)
def test_embedders_killed_at_random_lose_nothing(tmp_path: Path, rounds: int) -> None:
    """Two processes append to one session without a daemon, synced each; both are killed, again and again."""
    dice = random.Random(rounds)
    acknowledged: dict[str, dict[int, str]] = {}
    for number in range(rounds):
        flavour = ("mink", "otter", "stoat")[number % 3]
        name = f"{flavour}-20260101T000000-{number // 25:08x}"  # a session lives for 25 rounds
        folder = tmp_path / "eventlog" / name
        known = acknowledged.setdefault(name, {})
        writers = [start_embedder(str(folder), f"{number}-{writer}") for writer in range(2)]
        told = dice.choice((1, 3, 10, 30))
        answers = [writers[0].stdout.readline() for _ in range(told)]  # type: ignore[union-attr]
        for writer in writers:
            writer.kill()
        for writer in writers:
            rest, _ = writer.communicate()
            for line in [*(answers if writer is writers[0] else []), *rest.splitlines(keepends=True)]:
                if line.endswith(b"\n"):
                    index, token = line.split()
                    assert int(index) not in known, f"two appends were answered with index {int(index)}"
                    known[int(index)] = token.decode()
        check_embedded(str(folder), known)
    print(f"{rounds} kills, {sum(map(len, acknowledged.values()))} appends acknowledged")


@pytest.mark.timeout(3600)
def test_embedders_beside_a_daemon_that_dies_again_and_again_lose_nothing(home: Path, rounds: int) -> None:
    """They go through the daemon while it lives, recover its journal when it died, and write by themselves until the
    next one comes: one log all the while."""
    dice = random.Random(rounds)
    folder = home / "eventlog" / "stoat-20260101T000000-00000001"
    daemon = RunningDaemon(home).wait_ready()
    writers = [start_embedder(str(folder), f"writer{number}", "patient") for number in range(2)]
    outputs = [Output(writer) for writer in writers]
    try:
        for _ in range(max(rounds // 10, 3)):
            for output in outputs:
                output.wait_lines(dice.choice((1, 5, 20)))
            daemon.kill()
            for output in outputs:
                output.wait_lines(dice.choice((1, 5, 20)))
            daemon = RunningDaemon(home).wait_ready()
    finally:
        for writer in writers:
            writer.kill()
        daemon.kill()
    known: dict[int, str] = {}
    for output in outputs:
        for line in output.rest():
            index, token = line.split()
            assert int(index) not in known, f"two appends were answered with index {int(index)}"
            known[int(index)] = token.decode()
    final = RunningDaemon(home).wait_ready()
    assert final.stop() == 0
    check_embedded(str(folder), known)
    print(f"{len(known)} appends acknowledged")


class Output:
    """What an embedder says, read in a thread of its own so that it never has to wait for us."""

    def __init__(self, writer: subprocess.Popen[bytes]) -> None:
        self.lines: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self.all: list[bytes] = []
        self.thread = threading.Thread(target=self._read, args=(writer,))
        self.thread.start()

    def wait_lines(self, count: int) -> None:
        """Return when so many more appends were answered."""
        for _ in range(count):
            self.lines.get(timeout=30)

    def rest(self) -> list[bytes]:
        self.thread.join()
        return self.all

    def _read(self, writer: subprocess.Popen[bytes]) -> None:
        assert writer.stdout is not None
        with writer, writer.stdout as stdout:
            for line in stdout:
                if line.endswith(b"\n"):
                    self.all.append(line)
                    self.lines.put(line)


def start_embedder(folder: str, name: str, *options: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "tests.support.crash_embedder", folder, name, *options]
    return subprocess.Popen(command, stdout=subprocess.PIPE)


def check_embedded(folder: str, known: dict[int, str]) -> None:
    records = read_log(folder).records
    tokens = [msgspec.json.decode(record.raw)["metadata"]["token"] for record in records]
    for index, token in known.items():
        assert tokens[index : index + 1] == [token], f"event {index} was answered as {token}"
    assert max(Counter(tokens).values()) == 1
    _, problems = verify_session(folder)
    unfinished = [problem for problem in problems if problem.kind not in ("torn_tail", "no_summary")]
    assert unfinished == []

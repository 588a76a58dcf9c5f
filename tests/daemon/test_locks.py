"""Who may write: the owner of a root, the holder of a session, and an embedder beside a daemon (store rule 10)."""

from __future__ import annotations

import fcntl
import multiprocessing
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection as Pipe
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

import pytest

from chimera.errors import Locked, OwnerRunning
from chimera.sessions.eventlog.locks import Owner, OwnerLock, SessionLock, living_owner, wait_for_owner
from chimera.sessions.eventlog.log import EventLog
from chimera.sessions.eventlog.verify import verify_session
from tests.support.daemon import Connection, RunningDaemon
from tests.support.store import (
    LAYOUTS,
    append,
    configure,
    contents_of,
    create,
    event,
    events_of,
    generation_of,
    problems_of,
    refusal,
    until_closed,
)

HOLDER = "import fcntl, sys; file = open(sys.argv[1], 'a'); fcntl.flock(file, fcntl.LOCK_EX); print(); sys.stdin.read()"


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningDaemon]:
    """It lets go of sessions soon."""
    home = tmp_path_factory.mktemp("locks") / "home"
    configure(home, idle_close_s=0.1, flush_interval_ms=20)
    running = RunningDaemon(home).wait_ready()
    yield running
    running.kill()


@pytest.fixture
def hold(request: pytest.FixtureRequest) -> Iterator[Callable[[Path], subprocess.Popen[str]]]:
    """Have another process flock a file; ``communicate`` ends it."""
    holders: list[subprocess.Popen[str]] = []

    def take(path: Path) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", HOLDER, str(path)]
        holder = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        holders.append(holder)
        assert holder.stdout is not None
        holder.stdout.readline()
        return holder

    yield take
    for holder in holders:
        holder.communicate()


# -- the root


def test_a_second_daemon_is_refused_and_names_the_first(daemon: RunningDaemon, connection: Connection) -> None:
    announced = (daemon.root / ".owner.lock").read_bytes()
    second = RunningDaemon(daemon.home)
    assert second.process.wait(20) != 0
    second.log.close()
    said = second.read_log()
    assert f"process {daemon.process.pid}" in said
    assert "Traceback" not in said
    assert (daemon.root / ".owner.lock").read_bytes() == announced
    owner = living_owner(str(daemon.root))
    assert owner is not None
    assert (owner.pid, owner.socket) == (daemon.process.pid, daemon.socket_path)
    assert connection.call("daemon.hello")["pid"] == daemon.process.pid


def test_the_root_is_free_again_after_a_kill(start_daemon: Callable[..., RunningDaemon]) -> None:
    first = start_daemon()
    first.kill()
    assert living_owner(str(first.root)) is None
    second = start_daemon()
    owner = living_owner(str(second.root))
    assert owner is not None
    assert owner.pid == second.process.pid


def test_nobody_is_sent_to_an_earlier_owner(tmp_path: Path) -> None:
    """The lock is taken and its new holder has not said who it is: what stands there is not believed."""
    root = str(tmp_path)
    first = OwnerLock(root)
    first.acquire()
    first.announce(Owner(1, "/old/socket", "0", "then"))
    first.release()
    second = OwnerLock(root)
    second.acquire()
    assert living_owner(root) is None
    with pytest.raises(OwnerRunning):
        wait_for_owner(root, 0.0)
    with pytest.raises(OwnerRunning) as refused:
        OwnerLock(root).acquire(0.0)
    assert "/old/socket" not in refused.value.message
    second.announce(Owner(2, "/new", "0", "now"))
    assert living_owner(root) == Owner(2, "/new", "0", "now")
    second.release()
    assert wait_for_owner(root, 0.0) is None


def test_a_lock_counts_only_while_its_path_is_what_is_locked(tmp_path: Path) -> None:
    lock = SessionLock(str(tmp_path))
    lock.acquire()
    assert lock.still_held()
    (tmp_path / ".lock").rename(tmp_path / "elsewhere")
    assert not lock.still_held()
    other = SessionLock(str(tmp_path))
    other.acquire()
    assert other.still_held()
    assert not lock.still_held()
    other.release()
    assert not other.still_held()
    lock.release()


def test_a_lock_that_was_replaced_while_it_was_waited_for_is_taken_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the opening of the file and its lock somebody renames another one into its place."""
    (tmp_path / ".lock").touch()
    (tmp_path / "other").touch()
    real = fcntl.flock

    def flock(descriptor: int, operation: int) -> None:
        if (tmp_path / "other").exists():
            (tmp_path / ".lock").rename(tmp_path / "moved")
            (tmp_path / "other").rename(tmp_path / ".lock")
        real(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", flock)
    lock = SessionLock(str(tmp_path))
    lock.acquire(1.0)
    assert lock.still_held()
    with pytest.raises(Locked):
        SessionLock(str(tmp_path)).acquire()
    lock.release()


# -- one session


@pytest.mark.parametrize("flavour", LAYOUTS.values(), ids=list(LAYOUTS))
def test_a_session_that_another_process_writes_is_locked_and_readable(
    daemon: RunningDaemon, connection: Connection, hold: Callable[[Path], subprocess.Popen[str]], flavour: str
) -> None:
    session_id = create(connection, flavour)
    append(connection, session_id, event("ours"))
    until_closed(connection)
    holder = hold(daemon.root / session_id / ".lock")
    error = refusal(connection, "sessions.append", session_id=session_id, events=[event("late", id="late")])
    assert (error.code, error.kind, error.data["holder"]) == (-32018, "locked", holder.pid)
    assert str(holder.pid) in error.message
    assert contents_of(connection, session_id) == ["ours"]
    assert connection.call("sessions.get", session_id=session_id)["summary"]["session_id"] == session_id
    assert problems_of(connection, session_id) == []
    holder.communicate()
    assert append(connection, session_id, event("late", id="late"))["first_seq"] == 2


@pytest.mark.parametrize("flavour", LAYOUTS.values(), ids=list(LAYOUTS))
def test_an_idle_session_is_let_go_of_for_others_and_read_anew(
    daemon: RunningDaemon, connection: Connection, flavour: str
) -> None:
    """A writer of the family takes the lock, appends, and lets go; we go on behind it."""
    session_id = create(connection, flavour)
    append(connection, session_id, event("ours"))
    until_closed(connection)
    folder = daemon.root / session_id
    with (folder / ".lock").open("r+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        theirs = b'{"type":"user_message","metadata":{"content":"theirs"}}'
        if flavour == "mink":
            with (folder / "events.jsonl").open("ab") as file:
                file.write(theirs + b"\n")
        else:
            (folder / "event-000002-theirs.json").write_bytes(theirs)
    assert append(connection, session_id, event("ours again"))["first_seq"] == 3
    assert contents_of(connection, session_id) == ["ours", "theirs", "ours again"]
    assert problems_of(connection, session_id) == []


def test_a_session_in_use_is_not_let_go_of(daemon: RunningDaemon, connection: Connection) -> None:
    session_id = create(connection)
    for number in range(300):
        append(connection, session_id, event(number))
        if number % 100 == 0:
            with pytest.raises(Locked, match=str(daemon.process.pid)):
                SessionLock(str(daemon.root / session_id)).acquire()
    assert contents_of(connection, session_id) == list(range(300))


# -- an embedder beside a daemon


@pytest.mark.parametrize("flavour", LAYOUTS.values(), ids=list(LAYOUTS))
def test_an_embedder_goes_through_the_daemon_that_owns_the_root(
    daemon: RunningDaemon, connection: Connection, flavour: str
) -> None:
    session_id = create(connection, flavour)
    with daemon.connect() as watcher:
        watcher.call("sessions.subscribe", session_id=session_id)
        log = EventLog(daemon.root / session_id)
        assert log.append("user_message", {"content": "embedded"}, event_id="one") == 0
        assert watcher.next_notification()["params"]["event"]["id"] == "one"
    assert append(connection, session_id, event("direct"))["first_seq"] == 2
    assert log.append("user_message", {"content": "again"}) == 2
    assert log.append("user_message", {"content": "embedded"}, event_id="one") == 0
    assert [one.metadata["content"] for one in log.replay()] == ["embedded", "direct", "again"]


def test_an_embedder_makes_its_session_through_the_daemon(daemon: RunningDaemon, connection: Connection) -> None:
    name = "stoat-20260101T000000-0e0e0e0e"
    assert EventLog(daemon.root / name).append("user_message", {"content": "x"}) == 0
    assert (daemon.root / name / "event-000001-user_message.json").exists()
    assert connection.call("sessions.get", session_id=name)["summary"]["layout"] == "typed"


def test_an_embedder_takes_over_what_a_killed_daemon_left(start_daemon: Callable[..., RunningDaemon]) -> None:
    daemon = start_daemon()
    with daemon.connect() as connection:
        session_id = create(connection)
        append(connection, session_id, event("acknowledged"))
    daemon.kill()
    os.truncate(daemon.root / session_id / "events.jsonl", 0)  # as a power cut may leave it
    log = EventLog(daemon.root / session_id)
    assert log.append("user_message", {"content": "embedded"}) == 1
    with start_daemon().connect() as connection:
        assert contents_of(connection, session_id) == ["acknowledged", "embedded"]
        assert problems_of(connection, session_id) == []


def append_when_free(connection: Connection, session_id: str, one: dict[str, Any]) -> None:
    """As a client does: again while somebody else has the session's lock."""
    while True:
        request = connection.send("sessions.append", session_id=session_id, events=[one])
        reply = connection.read_message()
        assert reply["id"] == request
        if "result" in reply:
            return
        assert reply["error"]["data"]["kind"] == "locked"


def _append_until(folder: str, started: Event, stop: Event, connection: Pipe) -> None:
    log = EventLog(folder)
    number = 0
    while not stop.is_set():
        log.append("user_message", {"content": f"embedded {number}"})
        number += 1
        started.set()
    connection.send(number)


@pytest.mark.parametrize("flavour", LAYOUTS.values(), ids=list(LAYOUTS))
def test_an_embedder_goes_on_while_daemons_start_stop_and_die(
    start_daemon: Callable[..., RunningDaemon], home: Path, flavour: str
) -> None:
    """It appends all the time: to the files while there is no daemon, through it when there is one."""
    folder = home / "eventlog" / f"{flavour}-20260101T000000-0a0a0a0a"
    context = multiprocessing.get_context("spawn")
    started, stop = context.Event(), context.Event()
    ours, theirs = context.Pipe()
    embedder = context.Process(target=_append_until, args=(str(folder), started, stop, theirs))
    embedder.start()
    started.wait()
    direct: list[str] = []
    generations = set()
    for cleanly in (True, False, True):
        daemon = start_daemon()
        with daemon.connect() as connection:
            for _ in range(10):
                text = f"direct {len(direct)}"
                append_when_free(connection, folder.name, event(text, id=text.replace(" ", "-")))
                direct.append(text)
            generations.add(generation_of(connection, folder.name))
        if cleanly:
            assert daemon.stop() == 0
        else:
            daemon.kill()
        started.clear()
        started.wait()  # it has found out that the daemon is no more
    stop.set()
    count = ours.recv()
    embedder.join()
    with start_daemon().connect() as connection:
        found = [one["metadata"]["content"] for one in events_of(connection, folder.name)]
        assert [text for text in found if text.startswith("embedded")] == [f"embedded {n}" for n in range(count)]
        assert [text for text in found if text.startswith("direct")] == direct
        assert problems_of(connection, folder.name) == []
    assert len(generations) == 1


@pytest.mark.parametrize("layout", list(LAYOUTS))
def test_an_embedder_sees_an_append_within_one_tick_of_the_clock(tmp_path: Path, layout: str) -> None:
    """Before Linux 6.13 two files may come into a folder without its time showing it."""
    folder = tmp_path / "eventlog" / "badger-x"
    one, other = (EventLog(folder, layout=layout, fsync="never") for _ in range(2))
    one.append("user_message", {"content": 0})
    before = os.stat(folder).st_mtime_ns
    other.append("tool_call", {"content": 1})
    os.utime(folder, ns=(before, before))
    assert one.append("user_message", {"content": 2}) == 2
    assert verify_session(str(folder)) == (3, [])


def test_an_embedder_in_two_threads_of_one_process(tmp_path: Path) -> None:
    folder = tmp_path / "eventlog" / "badger-y"

    def work(name: str) -> None:
        log = EventLog(folder, fsync="never")
        for number in range(50):
            log.append("user_message", {"content": f"{name} {number}"})

    threads = [threading.Thread(target=work, args=(name,)) for name in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert verify_session(str(folder)) == (100, [])

"""`chimera daemon run|start|stop|status`."""

from __future__ import annotations

import json
import os
import select
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from chimera import paths
from chimera_cli.commands.daemon import _duration
from tests.support.canned import HELLO, CannedDaemon, polite, refusal, reply, silent
from tests.support.command import begin, chimera
from tests.support.daemon import Connection, RunningDaemon


@pytest.fixture
def started(home: Path) -> Iterator[Callable[[], int]]:
    """`chimera daemon start`; the pid. Whatever is left of it at the end is stopped."""

    def start() -> int:
        done = chimera("daemon", "start")
        assert done.returncode == 0, done.stderr
        return int(done.stdout.split("pid ")[1].split(",")[0])

    yield start
    chimera("daemon", "stop")


@pytest.fixture
def socket_path(home: Path) -> str:
    (home / "run").mkdir(parents=True)
    return paths.socket_path()


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"  # ended; its new parent has not collected it yet


def test_start_returns_when_the_daemon_answers_and_does_nothing_the_second_time(home: Path, started) -> None:
    pid = started()
    with Connection(paths.socket_path()) as connection:
        assert connection.call("daemon.hello")["pid"] == pid
    again = chimera("daemon", "start")
    assert f"is already running: pid {pid}, socket {paths.socket_path()}\n" in again.stdout


def test_stop_returns_when_the_process_is_gone_and_does_nothing_the_second_time(home: Path, started) -> None:
    pid = started()
    done = chimera("daemon", "stop")
    assert (done.returncode, done.stdout) == (0, f"chimerad (pid {pid}) has stopped\n")
    assert not is_alive(pid)
    again = chimera("daemon", "stop")
    assert (again.returncode, again.stdout, again.stderr) == (0, "no daemon is running\n", "")
    assert started() != pid, "and it can be started again at once"


def test_stop_loses_nothing_that_was_only_buffered(home: Path, started) -> None:
    started()
    assert chimera("append", "mink-1", "--create", "--buffered", "--type", "a", "{}").returncode == 0
    assert chimera("daemon", "stop").returncode == 0
    started()
    assert len(json.loads(chimera("rpc", "sessions.read", '{"session_id":"mink-1"}').stdout)["events"]) == 1


def test_status_tells_a_person_and_a_script(daemon: RunningDaemon) -> None:
    done = chimera("daemon", "status")
    assert (done.returncode, done.stderr) == (0, "")
    assert f"pid {daemon.process.pid}\n" in done.stdout
    assert done.stdout.startswith("ready     chimerad ")
    status = json.loads(chimera("daemon", "status", "--json").stdout)
    with daemon.connect() as connection:
        assert status.keys() == connection.call("daemon.status").keys()


def test_status_of_no_daemon_starts_none_and_says_so(home: Path) -> None:
    done = chimera("daemon", "status")
    assert done.returncode == 1
    assert done.stdout.startswith(f"unreachable: no daemon answers at {paths.socket_path()}")
    told = json.loads(chimera("daemon", "status", "--json").stdout)
    assert (told["state"], told["socket"]) == ("unreachable", paths.socket_path())
    assert not home.exists()


def test_status_of_a_daemon_that_does_not_answer_or_is_of_another_version(socket_path: str) -> None:
    with CannedDaemon(socket_path, silent):
        done = chimera("daemon", "status")
        assert (done.returncode, done.stdout.split(":")[0]) == (1, "wedged")
    os.unlink(socket_path)
    with CannedDaemon(socket_path, lambda request, number: [reply(request, {**HELLO, "protocol": 2})]):
        done = chimera("daemon", "status", "--json")
        assert (done.returncode, json.loads(done.stdout)["state"]) == (1, "wrong_version")


def test_stop_ends_a_daemon_that_was_frozen(started, home: Path) -> None:
    """It does not answer, so it gets a signal; and one that no signal reaches is named."""
    pid = started()
    os.kill(pid, signal.SIGSTOP)
    done = chimera("daemon", "stop", "--timeout", "0.2")
    assert done.returncode == 1
    assert f"(pid {pid}) is still there after 0.2 s" in done.stderr
    process = os.pidfd_open(pid)
    os.kill(pid, signal.SIGCONT)
    assert select.select([process], [], [], 30)[0], "the signal has been waiting for it"
    os.close(process)


def test_stop_asks_a_daemon_of_another_version_as_well(socket_path: str) -> None:
    """In a process of its own, because it is going to be ended."""
    import subprocess
    import sys

    program = (
        "import os, sys; from tests.support.canned import *\n"
        "def script(request, number):\n"
        "    if request['method'] == 'daemon.shutdown': os._exit(7)\n"
        "    return [reply(request, {**HELLO, 'protocol': 2, 'pid': os.getpid()})]\n"
        "CannedDaemon(sys.argv[1], script); print('listens', flush=True); sys.stdin.read()"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", program, socket_path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert other.stdout is not None
    assert other.stdin is not None
    other.stdout.readline()
    done = chimera("daemon", "stop")
    assert (done.returncode, done.stdout) == (0, f"chimerad (pid {other.pid}) has stopped\n")
    assert other.wait(20) == 7
    other.stdout.close()
    other.stdin.close()


def test_run_is_the_daemon_itself_in_the_foreground(home: Path) -> None:
    command = begin("daemon", "run", "--log-level", "debug")
    connected = None
    while connected is None:
        assert command.poll() is None, command.communicate()
        try:
            connected = Connection(paths.socket_path())
        except OSError:
            os.sched_yield()
    with connected:
        assert connected.call("daemon.hello")["pid"] == command.pid
    command.send_signal(signal.SIGINT)
    assert command.communicate(timeout=30)[0] == b""
    assert command.returncode == 0


def test_a_daemon_that_cannot_start_is_told_with_its_own_words(home: Path) -> None:
    home.mkdir()
    (home / "config.toml").write_text("colour = 'red'\n")
    done = chimera("daemon", "start")
    assert (done.returncode, done.stdout) == (1, "")
    assert "colour" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.2, "0s"), (59.9, "59s"), (61, "1m 1s"), (3599, "59m 59s"), (7260, "2h 1m"), (90000, "1d 1h")],
)
def test_an_uptime_is_short(seconds: float, text: str) -> None:
    assert _duration(seconds) == text


def test_a_refused_call_is_no_reason_to_call_the_daemon_unreachable(socket_path: str) -> None:
    script = polite(lambda request, number: [refusal(request, -32001, "overloaded", "overloaded, retry")])
    with CannedDaemon(socket_path, script):
        done = chimera("daemon", "status")
    assert (done.returncode, done.stderr) == (1, "error: overloaded, retry\n")

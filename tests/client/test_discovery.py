"""Finding, asking, classifying and starting a daemon."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from chimera import paths
from chimera.client import discovery
from chimera.errors import ConfigError, DaemonUnreachable, DaemonWedged, NotPermitted, WrongVersion
from tests.support.canned import CLOSE, HELLO, CannedDaemon, polite, refusal, reply, silent

FAKE_DAEMON = """
import json, os, socketserver, sys
home, path = sys.argv[2], sys.argv[4]
open(os.path.join(home, "starts"), "a").write("x")
{body}
class Lines(socketserver.StreamRequestHandler):
    def handle(self):
        for line in self.rfile:
            request = json.loads(line)
            hello = {{"name": "chimerad", "version": "0", "protocol": 1, "pid": os.getpid(), "home": home}}
            self.wfile.write(json.dumps({{"jsonrpc": "2.0", "id": request["id"], "result": hello}}).encode() + b"\\n")
            if request["method"] == "daemon.shutdown":
                os._exit(0)
class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True
Server(path, Lines).serve_forever()
"""


@pytest.fixture
def socket_path(home: Path) -> str:
    (home / "run").mkdir(parents=True)
    return paths.socket_path()


@pytest.fixture
def fake_daemon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Put another program in the place of chimerad: it answers hello, after the lines that are given."""

    def put(body: str = "") -> None:
        folder = tmp_path / "fake" / "chimerad"
        folder.mkdir(parents=True)
        (folder / "__main__.py").write_text(FAKE_DAEMON.format(body=body))
        monkeypatch.setenv("PYTHONPATH", str(folder.parent))

    return put


def shut_down(answer: discovery.Answer) -> None:
    assert answer.connection is not None
    answer.connection.call("daemon.shutdown", {}, 10)
    answer.close()
    for process in discovery._started:
        process.wait(10)


def test_a_daemon_that_answers_its_protocol_is_ready(socket_path: str) -> None:
    with CannedDaemon(socket_path, polite(silent)):
        assert discovery.classify(socket_path) == "ready"
        answer = discovery.ask(socket_path)
        assert answer.hello == HELLO
        assert answer.pid == os.getpid()
        answer.close()


@pytest.mark.parametrize(
    "script",
    [
        lambda request, number: [reply(request, {**HELLO, "protocol": 2})],
        lambda request, number: [reply(request, {"name": "something else"})],
        lambda request, number: [refusal(request, -32601, "method_not_found")],
    ],
    ids=["protocol 2", "another program", "no hello"],
)
def test_another_protocol_is_a_wrong_version(socket_path: str, script) -> None:
    with CannedDaemon(socket_path, script):
        assert discovery.classify(socket_path) == "wrong_version"
        with pytest.raises(WrongVersion, match="daemon stop"):
            discovery.connect()


def test_nobody_and_a_stale_socket_and_a_plain_file_are_unreachable(socket_path: str) -> None:
    assert discovery.classify(socket_path) == "unreachable"
    CannedDaemon(socket_path).close()
    assert os.path.exists(socket_path)
    assert discovery.classify(socket_path) == "unreachable"
    os.unlink(socket_path)
    Path(socket_path).write_text("")
    assert discovery.classify(socket_path) == "unreachable"


def test_a_daemon_that_hangs_up_on_us_is_unreachable(socket_path: str) -> None:
    with CannedDaemon(socket_path, lambda request, number: [CLOSE]):
        assert discovery.classify(socket_path) == "unreachable"


@pytest.mark.parametrize("how", ["accepts and is silent", "listens only", "backlog full"])
def test_who_listens_and_does_not_answer_is_wedged(socket_path: str, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(discovery, "PATIENCE_SECONDS", 0.3)
    waiting = []
    if how == "accepts and is silent":
        listener = CannedDaemon(socket_path)
    else:
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.bind(socket_path)
        listener.listen(0)
        while how == "backlog full":
            client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            client.setblocking(False)
            waiting.append(client)
            try:
                client.connect(socket_path)
            except BlockingIOError:
                break
    try:
        assert discovery.classify(socket_path) == "wedged"
        with pytest.raises(DaemonWedged, match="does not answer"):
            discovery.connect()
    finally:
        for client in waiting:
            client.close()
        listener.close()


def test_a_slow_hello_is_classified_as_wedged_but_waited_for_by_a_call(socket_path: str) -> None:
    """A busy machine is no reason to fail a call."""
    import time

    def slow(request: dict, number: int) -> list[object]:
        time.sleep(discovery.HELLO_SECONDS * 1.6)  # the behaviour of the other side, not a wait of the test
        return [reply(request, HELLO)]

    with CannedDaemon(socket_path, slow):
        assert discovery.classify(socket_path) == "wedged"
        discovery.connect().close()


def test_the_owner_of_the_log_is_asked_when_nobody_is_at_our_own_path(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (home / "eventlog").mkdir(parents=True)
    owner = home / "eventlog" / ".owner.lock"
    elsewhere = str(tmp_path / "elsewhere.sock")
    owner.write_text(json.dumps({"pid": 1, "socket": elsewhere, "version": "0.1.0"}))
    assert discovery.locate(None, None).state == "unreachable"
    with CannedDaemon(elsewhere, polite(silent)):
        answer = discovery.connect(start=False)
        assert answer.socket_path == elsewhere
        answer.close()
    for content in ("", "{", "[]", '{"socket": 5}', '{"socket": ""}'):
        owner.write_text(content)
        assert discovery.locate(None, None).socket_path == paths.socket_path()


def test_without_starting_the_error_says_how_to_start(socket_path: str) -> None:
    with pytest.raises(DaemonUnreachable, match="chimera daemon start"):
        discovery.connect(start=False)


def test_a_daemon_is_started_detached_and_found(home: Path, fake_daemon) -> None:
    fake_daemon()
    answer = discovery.connect()
    pid = answer.hello["pid"]
    assert os.getsid(pid) == pid, "a session of its own: closing the terminal must not end it"
    assert os.readlink(f"/proc/{pid}/cwd") == "/"
    assert os.readlink(f"/proc/{pid}/fd/0") == os.devnull
    assert os.readlink(f"/proc/{pid}/fd/2") == paths.daemon_log_path(str(home))
    assert os.stat(home).st_mode & 0o777 == 0o700
    again = discovery.connect()
    assert again.hello["pid"] == pid
    again.close()
    shut_down(answer)


def test_many_clients_at_once_start_one_daemon(home: Path, fake_daemon) -> None:
    fake_daemon()
    program = "from chimera.client import discovery; print(discovery.connect().hello['pid'])"
    clients = [subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) for _ in range(6)]
    pids = {client.communicate(timeout=60)[0] for client in clients}
    assert len(pids) == 1
    assert (home / "starts").read_text() == "x"
    shut_down(discovery.connect())


def test_a_daemon_that_ends_instead_of_starting_is_quoted(home: Path, fake_daemon) -> None:
    fake_daemon("print('config.toml line 3: unknown key colour', file=sys.stderr); sys.exit(2)")
    with pytest.raises(DaemonUnreachable) as caught:
        discovery.connect()
    assert caught.value.message.endswith("(exit code 2): config.toml line 3: unknown key colour")
    Path(paths.daemon_log_path(str(home))).write_text("an older line\n")
    with pytest.raises(DaemonUnreachable) as again:
        discovery.connect()
    assert "older" not in again.value.message


@pytest.fixture
def other_owner(home: Path, tmp_path: Path) -> Iterator[Path]:
    """Another process holds the event log, and is going to listen on this socket."""
    (home / "eventlog").mkdir(parents=True)
    elsewhere = tmp_path / "elsewhere.sock"
    lock = (home / "eventlog" / ".owner.lock").open("w")
    json.dump({"pid": os.getpid(), "socket": str(elsewhere)}, lock)
    lock.flush()
    fcntl.flock(lock, fcntl.LOCK_EX)
    yield elsewhere
    lock.close()


def test_a_daemon_that_owns_the_log_and_is_still_starting_is_waited_for(
    home: Path, other_owner: Path, fake_daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A service manager's, say: a second one beside it would be refused, so none is started."""
    fake_daemon()
    canned: list[CannedDaemon] = []
    pauses = iter(range(100))

    def open_the_socket_at_the_third_look(seconds: float) -> None:
        if next(pauses) == 2:
            canned.append(CannedDaemon(other_owner, polite(silent)))

    monkeypatch.setattr(discovery.time, "sleep", open_the_socket_at_the_third_look)
    answer = discovery.connect()
    assert answer.socket_path == str(other_owner)
    assert not (home / "starts").exists()
    answer.close()
    canned[0].close()


def test_an_owner_that_never_answers_is_named(other_owner: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(discovery, "START_SECONDS", 0.05)
    with pytest.raises(DaemonUnreachable, match=rf"\(pid {os.getpid()}\) holds the event log"):
        discovery.connect()


def test_a_daemon_that_lost_to_a_faster_one_is_not_an_error(
    home: Path, tmp_path: Path, fake_daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ours ends because another took the log while it started; the other answers a moment later."""
    elsewhere = tmp_path / "elsewhere.sock"
    program = (
        "import fcntl, json, os, sys; from tests.support.canned import *\n"
        "lock = open(sys.argv[1], 'w'); fcntl.flock(lock, fcntl.LOCK_EX)\n"
        "json.dump({'pid': os.getpid(), 'socket': sys.argv[2]}, lock); lock.flush()\n"
        "print('owns', flush=True); sys.stdin.readline()\n"
        "CannedDaemon(sys.argv[2], polite(silent)); print('listens', flush=True); sys.stdin.read()"
    )
    lock_path = home / "eventlog" / ".owner.lock"
    lock_path.parent.mkdir(parents=True)
    other: list[subprocess.Popen[str]] = []
    spawn = discovery._spawn

    def be_slower(*arguments: str):
        command = [sys.executable, "-c", program, str(lock_path), str(elsewhere)]
        other.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
        assert other[0].stdout.readline() == "owns\n"
        started = spawn(*arguments)
        started[0].wait(20)
        other[0].stdin.write("listen\n")
        other[0].stdin.flush()
        return started

    fake_daemon("sys.exit('the log is taken')")
    monkeypatch.setattr(discovery, "_spawn", be_slower)
    answer = discovery.connect()
    assert answer.socket_path == str(elsewhere)
    answer.close()
    other[0].communicate(timeout=20)


def test_a_home_that_is_a_file_is_said_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for home in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(ConfigError, match=r"/file is not a folder; name another home with --home"):
            discovery.connect(str(home))


def test_a_home_that_cannot_be_written_is_said_in_a_sentence() -> None:
    with pytest.raises(DaemonUnreachable, match=r"none can be started: /proc/chimera"):
        discovery.connect("/proc/chimera")


def test_a_socket_path_that_is_too_long_is_said_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(NotPermitted, match="longer than the system's 107 bytes"):
        discovery.connect(str(tmp_path / ("x" * 120)))


def test_a_folder_called_chimerad_where_the_user_stands_is_not_run(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fake_daemon
) -> None:
    fake_daemon()
    trap = tmp_path / "trap"
    (trap / "chimerad").mkdir(parents=True)
    (trap / "chimerad" / "__main__.py").write_text(f"open({str(tmp_path / 'trapped')!r}, 'w')")
    monkeypatch.chdir(trap)
    shut_down(discovery.connect())
    assert not (tmp_path / "trapped").exists()

"""Find the daemon, ask it, classify what answers, and start one where there is none.

A daemon is judged by its answer to ``daemon.hello`` alone, never by a file that holds a pid: a pid may live on
in a process that answers nobody. Standard library only; ``subprocess`` is loaded when a daemon is really started.
"""

from __future__ import annotations

import json
import os
import sys
import time

from chimera import paths
from chimera.client.protocol import PROTOCOL, LineConnection
from chimera.errors import (
    ChimeraError,
    ConfigError,
    ConnectionLost,
    DaemonUnreachable,
    DaemonWedged,
    MethodNotFound,
    WrongVersion,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    import subprocess
    from typing import Any

__all__ = ["Answer", "ask", "classify", "connect", "is_owned", "locate", "owner_of"]

HELLO_SECONDS = 0.25
"""Who does not answer within this is classified as wedged."""

PATIENCE_SECONDS = 1.0
"""How long a call waits for the same hello before it gives up: a busy machine is not a wedged daemon."""

START_SECONDS = 30.0
"""How long a start may take: recovery runs before the daemon answers."""

_POLL_SECONDS = 0.01
_LOG_KEPT_BYTES = 4 * 1024 * 1024
_LOG_LINES_SHOWN = 5

_started: list[subprocess.Popen[bytes]] = []
"""Daemons that this process started: they outlive it, and ``subprocess`` must not warn about that."""


class Answer:
    """What a socket answered.

    Attributes:
        state: ``ready``, ``wrong_version``, ``unreachable`` or ``wedged``.
        socket_path: which socket was asked.
        hello: the result of ``daemon.hello``; empty unless ready or wrong_version.
        connection: open when ready; the caller closes it.
        detail: why it is not ready, as a part of a sentence.
        pid: the process that listens, where the system tells; a service manager may do that for the daemon.
    """

    __slots__ = ("connection", "detail", "hello", "pid", "socket_path", "state")

    def __init__(self, state: str, socket_path: str, detail: str = "") -> None:
        self.state = state
        self.socket_path = socket_path
        self.detail = detail
        self.hello: dict[str, Any] = {}
        self.connection: LineConnection | None = None
        self.pid: int | None = None

    def close(self) -> None:
        if self.connection is not None:
            self.connection.close()
            self.connection = None


def ask(socket_path: str, patience: float = HELLO_SECONDS) -> Answer:
    """Connect and say hello; what came of it, within ``patience`` seconds. Raises nothing."""
    try:
        connection = LineConnection(socket_path, patience)
    except (BlockingIOError, TimeoutError):
        return Answer("wedged", socket_path, "it takes no connections")
    except OSError as error:
        return Answer("unreachable", socket_path, error.strerror or str(error))
    answer = Answer("ready", socket_path)
    answer.pid = connection.peer_pid()
    try:
        answer.hello = connection.call("daemon.hello", {}, patience)
        spoken = answer.hello.get("protocol")
    except DaemonWedged:
        answer.state, answer.detail = "wedged", f"no answer in {patience:g} s"
    except MethodNotFound:
        answer.state, answer.detail = "wrong_version", "it does not know `daemon.hello`"
    except ConnectionLost as error:
        answer.state, answer.detail = "unreachable", error.message
    except (ChimeraError, AttributeError) as error:
        answer.state, answer.detail = "wedged", f"it answered with an error: {error}"
    else:
        if spoken == PROTOCOL:
            answer.connection = connection
            return answer
        answer.state, answer.detail = "wrong_version", f"it speaks protocol {spoken}, this client speaks {PROTOCOL}"
    connection.close()
    return answer


def classify(socket_path: str) -> str:
    """``ready``, ``wrong_version``, ``unreachable`` or ``wedged``, by asking."""
    answer = ask(socket_path)
    answer.close()
    return answer.state


def owner_of(home_folder: str) -> dict[str, Any]:
    """What the owner lock says of the daemon that holds it, or held it last: pid, socket, version; {} for nothing."""
    try:
        with open(paths.owner_lock_path(paths.eventlog_root(home_folder)), "rb") as file:
            content = json.loads(file.read(65536))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def locate(home: str | None, socket_path: str | None, patience: float = HELLO_SECONDS) -> Answer:
    """Ask at our own path; where nobody listens there, ask the socket that the owner of the log named."""
    own = ask(paths.socket_path(home, socket_path), patience)
    if own.state != "unreachable":
        return own
    named = owner_of(paths.home(home)).get("socket")
    if not isinstance(named, str) or named in ("", own.socket_path):
        return own
    answer = ask(named, patience)
    return own if answer.state == "unreachable" else answer


def connect(home: str | None = None, socket_path: str | None = None, start: bool = True) -> Answer:
    """A daemon that is ready, started where there was none.

    Raises:
        DaemonUnreachable: none answers, and none could be started or ``start`` is False.
        DaemonWedged, WrongVersion: what answers is of no use; a second daemon beside it would only be refused.
    """
    answer = locate(home, socket_path, PATIENCE_SECONDS)
    if answer.state == "unreachable" and start:
        answer = _start(paths.home(home), answer.socket_path)
    if answer.state == "ready":
        return answer
    raise _refusal(answer)


def _refusal(answer: Answer) -> DaemonUnreachable:
    where = f"at {answer.socket_path}"
    if answer.state == "wedged":
        return DaemonWedged(
            f"the daemon {where} does not answer: {answer.detail}; `chimera daemon stop` ends it", sent=False
        )
    if answer.state == "wrong_version":
        return WrongVersion(f"the daemon {where} is of another version: {answer.detail}; `chimera daemon stop` ends it")
    return DaemonUnreachable(f"no daemon answers {where}: {answer.detail}; `chimera daemon start` starts one")


def _start(home_folder: str, socket_path: str) -> Answer:
    """Start a daemon while holding the start lock, so that ten clients start one; ready, or an error."""
    deadline = time.monotonic() + START_SECONDS
    lock = _open_start_lock(home_folder, socket_path)
    try:
        while not _take(lock):
            answer = locate(home_folder, socket_path, PATIENCE_SECONDS)
            if answer.state not in ("unreachable", "wedged"):
                return answer
            if time.monotonic() > deadline:
                raise DaemonUnreachable(
                    f"another client has been starting the daemon for {START_SECONDS:g} s; "
                    f"see {paths.daemon_log_path(home_folder)}"
                )
            time.sleep(_POLL_SECONDS)
        answer = locate(home_folder, socket_path, PATIENCE_SECONDS)  # somebody may have started it while we waited
        if answer.state != "unreachable":
            return answer
        return _spawn_until_ready(home_folder, socket_path, deadline)
    finally:
        os.close(lock)


def _spawn_until_ready(home_folder: str, socket_path: str, deadline: float) -> Answer:
    log_path = paths.daemon_log_path(home_folder)
    while True:
        answer = _wait_while_owned(home_folder, socket_path, deadline)
        if answer is not None:
            return answer
        process, log_start = _spawn(home_folder, socket_path, log_path)
        while process.poll() is None:
            answer = locate(home_folder, socket_path, PATIENCE_SECONDS)
            if answer.state not in ("unreachable", "wedged"):  # ours may listen a moment before it answers
                return answer
            if time.monotonic() > deadline:
                raise DaemonUnreachable(f"the daemon has been starting for {START_SECONDS:g} s; see {log_path}")
            time.sleep(_POLL_SECONDS)
        if not is_owned(home_folder):  # else another one was faster: it is waited for above
            raise DaemonUnreachable(
                f"the daemon ended while it started (exit code {process.returncode}): "
                f"{_last_lines(log_path, log_start) or f'it wrote nothing to {log_path}'}"
            )


def _wait_while_owned(home_folder: str, socket_path: str, deadline: float) -> Answer | None:
    """Wait for a daemon that owns the log and does not answer: it starts, recovers or stops. None: there is none."""
    while is_owned(home_folder):
        answer = locate(home_folder, socket_path, PATIENCE_SECONDS)
        if answer.state not in ("unreachable", "wedged"):
            return answer
        if time.monotonic() > deadline:
            who = owner_of(home_folder).get("pid", "unknown")
            raise DaemonUnreachable(
                f"another process (pid {who}) holds the event log and has not answered for {START_SECONDS:g} s"
            )
        time.sleep(_POLL_SECONDS)
    return None


def _open_start_lock(home_folder: str, socket_path: str) -> int:
    lock_path = paths.start_lock_path(home_folder)
    try:
        for folder in (home_folder, os.path.dirname(lock_path)):
            if not os.path.isdir(folder):
                os.makedirs(folder, paths.FOLDER_MODE, exist_ok=True)
        return os.open(lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, paths.FILE_MODE)
    except (NotADirectoryError, FileExistsError):
        obstacle = lock_path
        while not os.path.lexists(obstacle):
            obstacle = os.path.dirname(obstacle)
        raise ConfigError(f"{obstacle} is not a folder; name another home with --home or CHIMERA_HOME") from None
    except OSError as error:
        raise DaemonUnreachable(
            f"no daemon answers at {socket_path} and none can be started: "
            f"{error.filename or lock_path}: {error.strerror}"
        ) from error


def is_owned(home_folder: str) -> bool:
    """Whether a process holds the event log at this moment: the lock itself is asked, and let go at once."""
    import fcntl

    try:
        lock = os.open(paths.owner_lock_path(paths.eventlog_root(home_folder)), os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(lock)
    return False


def _take(lock: int) -> bool:
    import fcntl

    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _spawn(home_folder: str, socket_path: str, log_path: str) -> tuple[subprocess.Popen[bytes], int]:
    """A daemon of its own session, its log in its own file; and where its lines begin there."""
    import subprocess

    environment = {**os.environ, "CHIMERA_HOME": home_folder}
    if "PYTHONPATH" in environment:  # the daemon does not run in our folder
        entries = environment["PYTHONPATH"].split(os.pathsep)
        environment["PYTHONPATH"] = os.pathsep.join(os.path.abspath(entry) for entry in entries)
    try:
        if os.path.exists(log_path) and os.path.getsize(log_path) > _LOG_KEPT_BYTES:
            os.replace(log_path, f"{log_path}.1")
        log = os.open(log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, paths.FILE_MODE)
    except OSError as error:
        raise DaemonUnreachable(f"no daemon can be started: {log_path}: {error.strerror}") from error
    try:
        log_start = os.fstat(log).st_size
        # -P: a folder called chimerad where the user happens to stand must not be run as the daemon
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "chimerad", "--home", home_folder, "--socket", socket_path],
            env=environment,
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    except OSError as error:
        raise DaemonUnreachable(f"no daemon can be started: {sys.executable}: {error.strerror}") from error
    finally:
        os.close(log)
    _started[:] = [earlier for earlier in _started if earlier.poll() is None] + [process]
    return process, log_start


def _last_lines(log_path: str, start: int) -> str:
    try:
        with open(log_path, "rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(start, size - 4096))
            lines = file.read().decode("utf-8", "replace").splitlines()
    except OSError:
        return ""
    return " | ".join(line.strip() for line in lines[-_LOG_LINES_SHOWN:] if line.strip())

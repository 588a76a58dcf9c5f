"""``chimera daemon run|start|stop|status``. Judges the daemon by its answers alone (chimera.client.discovery)."""

from __future__ import annotations

import os
import sys
import time

from chimera import paths
from chimera.client import discovery
from chimera.client.blocking import Client
from chimera.client.protocol import LineConnection
from chimera.errors import ChimeraError, ConnectionLost, DaemonUnreachable
from chimera_cli.output import print_json, write

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from typing import Any

__all__ = ["add_arguments", "run"]

STOP_SECONDS = 60.0

_POLL_SECONDS = 0.02

EXAMPLES = """\
examples:
  chimera daemon status || chimera daemon start
  chimera daemon status --json | jq .sessions
  chimera daemon run --log-level debug        in the foreground, to look at it or for a service manager
"""


def add_arguments(subparsers: argparse._SubParsersAction[Any]) -> None:
    parser = subparsers.add_parser(
        "daemon",
        description="Run, start, stop the session daemon, or ask how it is. Other commands start it as needed.",
        epilog=EXAMPLES,
    )
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    foreground = actions.add_parser("run", help="run in the foreground until a signal or `daemon stop`")
    foreground.add_argument("--log-level", choices=("debug", "info", "warning", "error"), help="how much is logged")
    actions.add_parser("start", help="start it in the background; returns when it answers")
    stop = actions.add_parser("stop", help="let it finish what it does, and wait until it is gone")
    stop.add_argument("--timeout", type=float, default=STOP_SECONDS, metavar="SECONDS", help="how long (60)")
    status = actions.add_parser("status", help="how it is; exit code 0 when it is ready, else 1")
    status.add_argument("--json", action="store_true", help="the result of daemon.status")


def run(arguments: Any) -> int:
    return _ACTIONS[arguments.action](arguments)


def _run(arguments: Any) -> int:
    home_folder = paths.home(arguments.home)
    words = ["--home", home_folder, "--socket", paths.socket_path(arguments.home, arguments.socket)]
    if arguments.log_level:
        words += ["--log-level", arguments.log_level]
    # -P: a folder called chimerad where the user happens to stand must not be run as the daemon
    os.execv(sys.executable, [sys.executable, "-P", "-m", "chimerad", *words])  # noqa: S606 - it takes our place


def _start(arguments: Any) -> int:
    answer = discovery.locate(arguments.home, arguments.socket)
    already = answer.state == "ready"
    answer.close()
    answer = discovery.connect(arguments.home, arguments.socket)
    answer.close()
    state = "is already running" if already else "is ready"
    write(f"chimerad {answer.hello['version']} {state}: pid {answer.hello['pid']}, socket {answer.socket_path}\n")
    return 0


def _status(arguments: Any) -> int:
    try:
        with Client(arguments.socket, arguments.home, start=False) as client:
            status = client.call("daemon.status")
    except DaemonUnreachable as error:
        answer = discovery.locate(arguments.home, arguments.socket)
        answer.close()
        state = answer.state if answer.state != "ready" else error.kind
        if arguments.json:
            print_json({"state": state, "socket": answer.socket_path, "detail": error.message})
        else:
            write(f"{state}: {error.message}\n")
        return 1
    if arguments.json:
        print_json(status)
    else:
        write(_status_text(status))
    return 0


def _status_text(status: dict[str, Any]) -> str:
    journal, index = status["journal"], status["index"]
    lines = (
        ("ready", f"chimerad {status['version']}, protocol {status['protocol']}, pid {status['pid']}"),
        ("since", f"{status['started_at']} ({_duration(status['uptime_s'])})"),
        ("home", status["home"]),
        ("socket", status["socket"]),
        ("sessions", f"{status['sessions']}, {status['open_sessions']} open for writing"),
        ("turns", f"{status['turns_running']} running"),
        ("clients", status["clients"]),
        ("journal", f"{journal['bytes']} bytes, {journal['unflushed_events']} events not flushed yet"),
        ("index", f"{index['state']}, {index['sessions']} sessions, {index['lag_events']} events behind"),
    )
    return "".join(f"{name:<10}{value}\n" for name, value in lines)


def _duration(seconds: float) -> str:
    whole = int(seconds)
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if whole >= size:
            rest, below = divmod(whole % size, {"d": 3600, "h": 60, "m": 1}[unit])[0], {"d": "h", "h": "m", "m": "s"}
            return f"{whole // size}{unit} {rest}{below[unit]}"
    return f"{whole}s"


def _stop(arguments: Any) -> int:
    answer = discovery.locate(arguments.home, arguments.socket, discovery.PATIENCE_SECONDS)
    answer.close()
    home_folder = paths.home(arguments.home)
    if answer.state == "unreachable" and not discovery.is_owned(home_folder):
        write("no daemon is running\n")
        return 0
    pid = _pid_of(answer, home_folder)
    ending = _Ending(pid)
    try:
        _ask_to_stop(answer, pid)
        if not ending.wait(arguments.timeout):
            raise DaemonUnreachable(
                f"chimerad (pid {pid}) is still there after {arguments.timeout:g} s; `kill -9 {pid}` ends it, "
                "and no acknowledged event is lost by that"
            )
    finally:
        ending.close()
    write(f"chimerad (pid {pid}) has stopped\n")
    return 0


def _pid_of(answer: discovery.Answer, home_folder: str) -> int:
    """Which process to wait for: as it says itself, as it wrote into the lock that it holds, as the kernel knows."""
    pid = answer.hello.get("pid")
    if pid is None and discovery.is_owned(home_folder):
        pid = discovery.owner_of(home_folder).get("pid")
    if pid is None:
        pid = answer.pid
    if not isinstance(pid, int) or pid <= 1:  # a service manager may listen for it
        raise DaemonUnreachable(
            f"the daemon at {answer.socket_path} does not answer and does not say which process it is; "
            "end it as it was started"
        )
    return pid


def _ask_to_stop(answer: discovery.Answer, pid: int) -> None:
    """By ``daemon.shutdown``; by SIGTERM, which means the same, where it does not listen, or does not answer."""
    if answer.state in ("ready", "wrong_version"):
        try:
            connection = LineConnection(answer.socket_path, discovery.PATIENCE_SECONDS)
            try:
                connection.call("daemon.shutdown", {}, discovery.PATIENCE_SECONDS)
            finally:
                connection.close()
        except (ConnectionLost, ConnectionRefusedError, FileNotFoundError):
            return  # it is on its way already
        except (ChimeraError, OSError):
            pass  # another version may call it otherwise
        else:
            return
    import signal

    try:
        os.kill(pid, signal.SIGTERM)
    except ProcessLookupError:
        return
    except PermissionError:
        raise DaemonUnreachable(f"chimerad (pid {pid}) does not answer and belongs to another user") from None


class _Ending:
    """Waits for the end of a process, of which we took hold before we asked it to end."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._handle = -1
        if hasattr(os, "pidfd_open"):
            try:
                self._handle = os.pidfd_open(pid)
            except ProcessLookupError:
                self._pid = 0
            except OSError:
                pass  # a kernel or a sandbox without it: ask by number

    def wait(self, seconds: float) -> bool:
        if self._handle >= 0:
            import select

            return bool(select.select([self._handle], [], [], seconds)[0])
        deadline = time.monotonic() + seconds
        while self._pid and _lives(self._pid):
            if time.monotonic() > deadline:
                return False
            time.sleep(_POLL_SECONDS)
        return True

    def close(self) -> None:
        if self._handle >= 0:
            os.close(self._handle)


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


_ACTIONS = {"run": _run, "start": _start, "stop": _stop, "status": _status}

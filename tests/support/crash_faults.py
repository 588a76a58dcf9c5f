"""A process that kills itself at an exact operation, or fails at an exact function; loaded as a command prefix.

python -m tests.support.crash_faults kill CONTROL WATCH python -m chimerad ...
    From the moment that CONTROL exists (it holds a number N) the process dies by SIGKILL after its Nth change of a
    file below WATCH, sync or answer; threads count together.
python -m tests.support.crash_faults cut TARGET COUNT HOW python -m chimerad ...
    The function TARGET (``package.module:Class.name``) fails from its COUNTth call on: with EIO, or ``exit``: the
    process ends on the spot.
"""

from __future__ import annotations

import errno
import itertools
import os
import runpy
import signal
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from tests.support.power_recorder import Operation, Recorder, change_program, locate, trace_sink

CUT_OFF = "cut off:"
"""What the process says when the step was due, so that a test knows that it came so far."""


def kill_prefix(control: str, watch: str, trace: str = os.devnull) -> tuple[str, ...]:
    return (sys.executable, "-m", "tests.support.crash_faults", "kill", control, trace, watch)


def cut_prefix(target: str, count: int, how: str) -> tuple[str, ...]:
    return (sys.executable, "-m", "tests.support.crash_faults", "cut", target, str(count), how)


def arm(control: str, number: int) -> None:
    """Let the process count from here on."""
    with open(control + ".new", "w") as file:
        file.write(str(number))
    os.replace(control + ".new", control)


class Countdown:
    """A sink for a recorder that passes everything on and kills at the chosen operation."""

    def __init__(self, control: str, sink: Callable[[Operation], None]) -> None:
        self.control = control
        self.sink = sink
        self.left: int | None = None

    def __call__(self, operation: Operation) -> None:
        self.sink(operation)
        if operation[0] in ("received", "sync_begin", "folder", "file"):
            return
        if self.left is None:
            try:
                descriptor = os.open(self.control, os.O_RDONLY)
            except FileNotFoundError:
                return
            self.left = int(os.read(descriptor, 20))
            os.close(descriptor)
        self.left -= 1
        if self.left <= 0:
            os.kill(os.getpid(), signal.SIGKILL)


def _install_cut(target: str, count: int, how: str) -> None:
    owner, name = locate(target)
    real: Callable[..., Any] = getattr(owner, name)
    calls = itertools.count(1)

    def failing(*arguments: Any, **options: Any) -> Any:
        if next(calls) < count:
            return real(*arguments, **options)
        os.write(sys.stderr.fileno(), f"{CUT_OFF} {target}\n".encode())
        if how == "exit":
            os._exit(137)
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    setattr(owner, name, failing)


def main(arguments: Sequence[str]) -> NoReturn:
    if arguments[0] == "kill":
        Recorder(arguments[3], Countdown(arguments[1], trace_sink(arguments[2]))).install()
        change_program()
        command = arguments[4:]
    else:
        change_program()
        _install_cut(arguments[1], int(arguments[2]), arguments[3])
        command = arguments[4:]
    _, _, module, *rest = command
    sys.argv = [module, *rest]
    runpy.run_module(module, run_name="__main__", alter_sys=True)
    sys.exit(0)


if __name__ == "__main__":
    main(sys.argv[1:])

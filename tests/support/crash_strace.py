"""Faults from outside: strace attached to a running process makes chosen calls fail, or kills at them.

strace counts calls for each thread by itself (run and seen, strace 6.1).
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import subprocess
from collections.abc import Iterator

AVAILABLE = shutil.which("strace") is not None


STRACE_LEAVES_SECONDS = 3.0


@contextlib.contextmanager
def injecting(pid: int, call: str, fault: str, *, path: str | None = None) -> Iterator[None]:
    """While the block runs: ``inject=CALL:FAULT`` in all threads of ``pid``, on ``path`` alone where one is given."""
    only = ("-P", path) if path else ()
    faults = ("-e", f"trace={call}", "-e", f"inject={call}:{fault}")
    command = ["strace", "-f", "-qq", "-o", "/dev/null", *only, *faults, "-p", str(pid)]
    strace = subprocess.Popen(command, stderr=subprocess.PIPE)
    try:
        _wait_attached(strace, pid)
        yield
    finally:
        strace.terminate()
        try:
            strace.wait(STRACE_LEAVES_SECONDS)
        except subprocess.TimeoutExpired:  # it waits for ever for a thread of a process that was killed under it
            strace.kill()
            strace.wait()
        assert strace.stderr is not None
        strace.stderr.close()


def _wait_attached(strace: subprocess.Popen[bytes], pid: int) -> None:
    while not _all_traced(pid):
        if strace.poll() is not None:
            assert strace.stderr is not None
            raise RuntimeError(f"strace ended: {strace.stderr.read().decode(errors='replace')}")
        select.select([], [], [], 0.002)


def _all_traced(pid: int) -> bool:
    try:
        for thread in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{thread}/status") as file:
                status = file.read()
            if "TracerPid:\t0\n" in status and "State:\tZ" not in status:  # one that has died is traced by nobody
                return False
    except (FileNotFoundError, ProcessLookupError):
        return True  # it died at once: that is what some faults are for
    return True

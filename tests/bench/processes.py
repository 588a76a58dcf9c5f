"""Timing of whole processes: from spawn to end, in a pipe or on a terminal. Knows nothing of chimera."""

from __future__ import annotations

import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios
import time

__all__ = ["bare_python", "in_a_pipe", "on_a_terminal"]


def bare_python() -> float:
    """Seconds of ``python -I -c pass``, by the interpreter that runs the bench."""
    return in_a_pipe([sys.executable, "-I", "-c", "pass"])


def in_a_pipe(arguments: list[str], environment: dict[str, str] | None = None, stdin: bytes = b"") -> float:
    """Seconds until a program has ended; raises with what it said if it failed."""
    began = time.perf_counter()
    process = subprocess.Popen(
        arguments, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    output, _ = process.communicate(stdin)
    seconds = time.perf_counter() - began
    _require_success(process, arguments, output)
    return seconds


def on_a_terminal(arguments: list[str], environment: dict[str, str]) -> float:
    """The same on a pseudo terminal of 120 columns."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
    began = time.perf_counter()
    process = subprocess.Popen(
        arguments, env={**environment, "TERM": "xterm-256color"}, stdin=theirs, stdout=theirs, stderr=theirs
    )
    os.close(theirs)
    output = b""
    while True:
        try:
            chunk = os.read(ours, 65536)
        except OSError:  # EIO: nobody holds the other end any more
            break
        if not chunk:
            break
        output += chunk
    process.wait()
    seconds = time.perf_counter() - began
    os.close(ours)
    _require_success(process, arguments, output)
    return seconds


def _require_success(process: subprocess.Popen[bytes], arguments: list[str], output: bytes) -> None:
    if process.returncode != 0:
        raise RuntimeError(f"{' '.join(arguments)} ended with {process.returncode}: {output.decode(errors='replace')}")

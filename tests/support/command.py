"""The `chimera` command as a process of its own, for tests of what a shell sees."""

from __future__ import annotations

import os
import subprocess
import sys

CHIMERA = (sys.executable, "-m", "chimera_cli")


def chimera(*words: str, stdin: str | bytes | None = None, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run one command to its end; ``variables`` are added to its environment."""
    given = stdin.encode() if isinstance(stdin, str) else stdin
    done = subprocess.run(
        [*CHIMERA, *words],
        input=given,
        stdin=subprocess.DEVNULL if given is None else None,
        capture_output=True,
        env={**os.environ, **variables},
        timeout=60,
        check=False,
    )
    return subprocess.CompletedProcess(done.args, done.returncode, done.stdout.decode(), done.stderr.decode())


def begin(*words: str, **options: object) -> subprocess.Popen[bytes]:
    """Start one command; its standard output and error are pipes unless ``options`` say otherwise."""
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen([*CHIMERA, *words], **{**pipes, **options})  # type: ignore[call-overload,no-any-return]

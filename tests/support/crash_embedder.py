"""A program that embeds the library and says what each append answered, to be killed at any time.

    python -m tests.support.crash_embedder FOLDER NAME [patient]    a line "<index> <token>" for each answered append

A patient one tries again under the same id when an append fails: its daemon may be dying.
"""

from __future__ import annotations

import itertools
import os
import sys
import time

from chimera.errors import ChimeraError
from chimera.sessions.eventlog.log import EventLog
from tests.support.power_recorder import acknowledge


def main(folder: str, name: str, most: int = 1 << 30, *, patient: bool = False) -> None:
    log = EventLog(folder, fsync="event")
    for number in itertools.islice(itertools.count(), most):
        token = f"{name}-{number}"
        index = append(log, token, patient)
        acknowledge((folder, index, token))
        os.write(sys.stdout.fileno(), f"{index} {token}\n".encode())


def append(log: EventLog, token: str, patient: bool) -> int:
    metadata = {"token": token, "text": "x" * (len(token) % 7 * 100)}
    while True:
        try:
            return log.append("user_message", metadata, event_id=f"evt-{token}")
        except ChimeraError:
            if not patient:
                raise
            time.sleep(0.01)  # nobody tells when a daemon is back


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], patient=sys.argv[3:] == ["patient"])

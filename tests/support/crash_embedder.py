"""A program that embeds the library without a daemon and says what each append answered, to be killed at any time.

python -m tests.support.crash_embedder FOLDER NAME    one line "<index> <token>" for each acknowledged append
"""

from __future__ import annotations

import itertools
import os
import sys

from chimera.sessions.eventlog.log import EventLog
from tests.support.power_recorder import acknowledge


def main(folder: str, name: str, most: int = 1 << 30) -> None:
    log = EventLog(folder, fsync="event")
    for number in itertools.islice(itertools.count(), most):
        token = f"{name}-{number}"
        index = log.append("user_message", {"token": token, "text": "x" * (number % 7 * 100)})
        acknowledge((folder, index, token))
        os.write(sys.stdout.fileno(), f"{index} {token}\n".encode())


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], *map(int, sys.argv[3:]))

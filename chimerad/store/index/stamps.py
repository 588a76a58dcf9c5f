"""Stamps: whether a session's files are still those that its row was made from, told by ``stat`` alone.

A summary edited in place changes its own modification time, one replaced by a rename its inode too. A log of lines
changes its size and time; in the layouts with a file an event the folder does. Reads no file.
"""

from __future__ import annotations

import os
import stat
import time
from typing import NamedTuple

from chimera.sessions.eventlog.layouts import LINES_FILE

__all__ = ["NO_STAMP", "UNSETTLED", "Stamp", "fingerprint", "stamp_of"]

RACY_NS = 20_000_000
"""A file changed so short a time ago may change again within one tick of the file system's clock, unseen."""


class Stamp(NamedTuple):
    """What a rescan compares.

    Attributes:
        summary: fingerprint of ``summary.json``; 0 where there is none, UNSETTLED where it may change unseen.
        log: fingerprint of ``events.jsonl`` or, without one, of the folder; or UNSETTLED.
        log_is_file: which of the two ``log`` is.
    """

    summary: int
    log: int
    log_is_file: bool


UNSETTLED = -1
"""No fingerprint is this: it differs from whatever is there, so the next rescan reads the session again."""

NO_STAMP = Stamp(UNSETTLED, UNSETTLED, False)


def fingerprint(status: os.stat_result) -> int:
    """Modification time, inode and size in 64 bits; never -1, and the same in every process of one Python version."""
    return hash((status.st_mtime_ns, status.st_ino, status.st_size))


def stamp_of(root: str, session_id: str) -> Stamp | None:
    """The stamp of a session's folder as it lies; None if there is no such folder.

    Take it before the files are read: what changes afterwards then differs from it. A part that changed in this very
    moment is given as UNSETTLED.
    """
    folder = os.path.join(root, session_id)
    try:
        status = os.stat(folder)
        if not stat.S_ISDIR(status.st_mode):
            return None
    except OSError:
        return None
    log = _of_file(os.path.join(folder, LINES_FILE))
    summary = _of_file(os.path.join(folder, "summary.json"))
    return Stamp(summary or 0, _settled(status) if log is None else log, log is not None)


def _of_file(path: str) -> int | None:
    try:
        return _settled(os.stat(path))
    except OSError:
        return None


def _settled(status: os.stat_result) -> int:
    return UNSETTLED if abs(time.time_ns() - status.st_mtime_ns) < RACY_NS else fingerprint(status)

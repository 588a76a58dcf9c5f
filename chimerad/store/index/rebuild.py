"""A session's row from its folder alone: its summary, and its events counted without reading them one by one.

Runs in a thread. Never raises for what stands in a folder: a session that cannot be read gets a row that is not
listed, so that it is counted, and looked at again when it changes.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Mapping

import msgspec

from chimera.errors import MalformedSummary, NoSummary
from chimera.sessions.eventlog.layouts import LINES_FILE, PACKED_FILE, event_file_number
from chimera.sessions.eventlog.layouts.packed import Packing, unpack
from chimera.sessions.summary import Summary, read_summary
from chimerad.store.index.rows import SessionRow, row_of
from chimerad.store.index.stamps import UNSETTLED, Stamp, stamp_of

__all__ = ["SeenSummary", "count_events", "read_rows", "row_from_folder", "row_of_open"]

READ_BYTES = 1 << 20

LAST_FRAME_BYTES = 4096
"""More than the last frame of a packed log has, which says how many events are in it."""


def row_from_folder(root: str, session_id: str) -> SessionRow | None:
    """The row of a session as its folder says; None if there is no such folder."""
    stamp = stamp_of(root, session_id)
    return None if stamp is None else _read_row(root, session_id, stamp)


class SeenSummary(msgspec.Struct):
    """The summary of a session that is being written, as it was last read: an append need not read it again."""

    fingerprint: int = UNSETTLED
    view: Summary | None = None

    def look(self, folder: str, stamp: Stamp) -> Summary | None:
        """The view of the summary that has this stamp."""
        if stamp.summary == UNSETTLED or stamp.summary != self.fingerprint:
            self.fingerprint, self.view = stamp.summary, _view_of(folder)
        return self.view


def row_of_open(root: str, session_id: str, events: int, seen: SeenSummary) -> SessionRow | None:
    """The row of a session that the store writes and whose events it has counted; None if the folder is gone."""
    stamp = stamp_of(root, session_id)
    if stamp is None:
        return None
    view = seen.look(os.path.join(root, session_id), stamp)
    return row_of(view, root, session_id, events=events, stamp=stamp)


def read_rows(
    root: str, names: Iterable[str], known: Mapping[str, Stamp], is_open: Callable[[str], bool]
) -> tuple[list[SessionRow], list[str]]:
    """The rows of those sessions that differ from their ``known`` stamp, and the names without a folder.

    A session that the store has open is only looked for: what is in its row, the store says.
    """
    rows: list[SessionRow] = []
    gone: list[str] = []
    for name in names:
        stamp = stamp_of(root, name)
        if stamp is None:
            gone.append(name)
        elif name not in known or ((stamp != known[name] or UNSETTLED in stamp) and not is_open(name)):
            rows.append(_read_row(root, name, stamp))
    return rows, gone


def count_events(folder: str) -> int:
    """How many events a log has: its lines, its files, or what a packed log says of itself and what follows that.

    A quick count. What is wrong with a log, and what of it does not count, is for ``sessions.verify`` to say.
    """
    try:
        names = os.listdir(folder)
    except OSError:
        return 0
    count = _count_lines(os.path.join(folder, LINES_FILE)) if LINES_FILE in names else 0
    first_loose = 0
    if PACKED_FILE in names:
        packing = _read_packing(os.path.join(folder, PACKED_FILE))
        if packing is not None:
            count += packing.count
            first_loose = packing.base + packing.count
    for name in names:
        number = event_file_number(name)
        if number is not None and number >= first_loose:
            count += 1
    return count


def _read_row(root: str, session_id: str, stamp: Stamp) -> SessionRow:
    folder = os.path.join(root, session_id)
    return row_of(_view_of(folder), root, session_id, events=count_events(folder), stamp=stamp)


def _view_of(folder: str) -> Summary | None:
    with contextlib.suppress(NoSummary, MalformedSummary):
        return read_summary(folder)[1]
    return None


def _count_lines(path: str) -> int:
    count = 0
    with contextlib.suppress(OSError), open(path, "rb", buffering=0, opener=_open_at_once) as file:
        while chunk := file.read(READ_BYTES):
            count += chunk.count(b"\n")
    return count


def _open_at_once(path: str, flags: int) -> int:
    """A pipe somebody left in the place of a file is read as empty, never waited for."""
    return os.open(path, flags | os.O_NONBLOCK)


def _read_packing(path: str) -> Packing | None:
    with contextlib.suppress(OSError), open(path, "rb", buffering=0, opener=_open_at_once) as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - LAST_FRAME_BYTES))
        return unpack(file.read()).packing
    return None

"""The periodic rescan: finds by ``stat`` what changed behind our back, for a bounded share of one core.

Nobody tells us of a summary edited by hand or of an event that a foreign writer added: only the session's own
files change. One ``stat`` costs 2 to 4 us, so a tick cannot look at everything in a large store. It looks, in this
order, at the root (were folders added or removed?), at the sessions that changed in the last two minutes, and then,
as far as its share goes, at the summaries of all others and every eighth of their logs, going round.

Runs in a thread, one call at a time. Reads no file and writes nothing: it names suspects.
"""

from __future__ import annotations

import math
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import islice

from chimera.errors import InvalidId
from chimera.identifiers import check_session_id
from chimera.sessions.eventlog.layouts import LINES_FILE
from chimerad.store.index.stamps import Stamp, fingerprint

__all__ = ["Rescan"]

HOT_SECONDS = 120.0
HOT_SESSIONS = 500
SLICE = 64
STAT_SECONDS = 5e-6
"""An upper guess, to decide how many logs a round can look at and still end within one tick."""

FEWEST_LOGS = 8
"""In a store too large for that, one log in so many."""

RACY_NS = 50_000_000


class Rescan:
    """Compares the event-log root with the stamps of the rows in the index.

    Args:
        known: the stamp of every row; the owner changes it as rows change.
        is_open: sessions that the store has open for writing are passed over (store rule 9).
    """

    def __init__(self, root: str, known: dict[str, Stamp], is_open: Callable[[str], bool]) -> None:
        self._root = root
        self._known = known
        self._is_open = is_open
        self._noted: deque[str] = deque(maxlen=HOT_SESSIONS)
        self._hot: dict[str, float] = {}
        self._round: Iterator[tuple[str, bool]] = iter(())
        self._rounds = 0
        self._root_stamp = 0
        self._next_listing = 0.0

    def note(self, session_id: str) -> None:
        """A session changed: look at it in every tick for a while. May be called from another thread."""
        self._noted.append(session_id)

    def everything(self) -> Iterator[set[str]]:
        """All sessions that differ, in slices: the first scan after a start.

        Raises:
            OSError: the root cannot be listed.
        """
        found = self._list_root()
        known = set(self._known)
        yield known ^ found
        folder = os.open(self._root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            names = sorted(known & found, reverse=True)
            for start in range(0, len(names), SLICE):
                yield set(self._changed(folder, [(name, True) for name in names[start : start + SLICE]]))
        finally:
            os.close(folder)

    def tick(self, seconds: float) -> set[str]:
        """The sessions that seem to have changed, as far as this tick got in so much CPU time.

        Raises:
            OSError: the root cannot be opened.
        """
        started = time.thread_time()
        suspects: set[str] = set()
        folder = os.open(self._root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            if self._root_changed(folder):
                suspects |= self._list_root() ^ set(self._known)
                self._next_listing = time.monotonic() + 2 * (time.thread_time() - started) / seconds
            suspects.update(self._changed(folder, self._hot_sessions()))
            spent, slice_cost = time.thread_time() - started, 0.0
            while spent + slice_cost < seconds or not slice_cost:  # always one slice, so that the round goes on
                batch = self._next_slice(seconds)
                if not batch:
                    break
                suspects.update(self._changed(folder, batch))
                before, spent = spent, time.thread_time() - started
                slice_cost = spent - before
        finally:
            os.close(folder)
        return suspects

    def _root_changed(self, folder: int) -> bool:
        """Whether folders came or went, asked no oftener than listing them all may cost."""
        if time.monotonic() < self._next_listing:
            return False
        status = os.stat(folder)
        changed = fingerprint(status) != self._root_stamp
        racy = abs(time.time_ns() - status.st_mtime_ns) < RACY_NS
        self._root_stamp = 0 if racy else fingerprint(status)
        return changed

    def _list_root(self) -> set[str]:
        """The names in the root that may be sessions."""
        return {name for name in os.listdir(self._root) if name in self._known or _may_be_session(name)}

    def _hot_sessions(self) -> list[tuple[str, bool]]:
        now = time.monotonic()
        while self._noted:
            name = self._noted.popleft()
            self._hot.pop(name, None)  # to the end: the dictionary stays in the order of its times
            self._hot[name] = now + HOT_SECONDS
        for name in list(self._hot):
            if self._hot[name] > now and len(self._hot) <= HOT_SESSIONS:
                break
            del self._hot[name]
        return [(name, True) for name in self._hot]

    def _next_slice(self, seconds: float) -> list[tuple[str, bool]]:
        """The next sessions of the round, each with whether its log is looked at; empty once, where a round ends."""
        batch = list(islice(self._round, SLICE))
        if not batch:
            self._rounds += 1
            names = list(self._known)
            summaries = STAT_SECONDS * len(names)
            room = 0.7 * seconds - summaries
            every = min(FEWEST_LOGS, math.ceil(summaries / room)) if room > 0 and names else FEWEST_LOGS
            self._round = ((name, (place + self._rounds) % every == 0) for place, name in enumerate(names))
        return batch

    def _changed(self, folder: int, batch: Iterable[tuple[str, bool]]) -> Iterator[str]:
        """Those of a slice, each with whether its log is looked at too, whose files differ from their stamps."""
        known = self._known
        for name, check_log in batch:
            stamp = known.get(name)
            if stamp is None:
                continue
            differs = _now(f"{name}/summary.json", folder) != stamp.summary
            if check_log and not differs:
                differs = _now(f"{name}/{LINES_FILE}" if stamp.log_is_file else name, folder) != stamp.log
            if differs and not self._is_open(name):
                yield name


def _now(path: str, folder: int) -> int:
    """The fingerprint of a file as it lies; 0 for one that is not there."""
    try:
        return fingerprint(os.stat(path, dir_fd=folder))
    except OSError:
        return 0


def _may_be_session(name: str) -> bool:
    try:
        check_session_id(name)
    except InvalidId:
        return False
    return True

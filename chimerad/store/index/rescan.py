"""The periodic rescan: finds by ``stat`` what changed behind our back, for a bounded share of one core.

Nobody tells us of a summary edited by hand or of an event that a foreign writer added: only the session's own
files change. One ``stat`` costs about 3 us, so a tick cannot look at everything in a large store. It looks, in this
order, at the root (were folders added or removed?), at the sessions that changed in the last two minutes, and then,
as far as its share goes, at the summaries of all others and every eighth of their logs, going round.

Runs in a thread, one call at a time. Reads no file and writes nothing: it names suspects.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from itertools import islice

from chimera.errors import InvalidId
from chimera.identifiers import check_session_id
from chimerad.store.index.stamps import Stamp, fingerprint, log_path, summary_file

__all__ = ["Rescan"]

HOT_SECONDS = 120.0
HOT_SESSIONS = 500
SLICE = 64
STAT_SECONDS = 4e-6
"""An upper guess, to decide whether a store is small enough to look at every log in every round."""

LOG_EVERY = 8
RACY_NS = 50_000_000


class Rescan:
    """Compares the event-log root with the stamps of the rows in the index.

    Args:
        known: the stamp of every row; the owner changes it as rows change.
        is_open: sessions that the store has open for writing are passed over (store rule 9).
        seconds: CPU time that a tick may take.
    """

    def __init__(self, root: str, known: dict[str, Stamp], is_open: Callable[[str], bool], seconds: float) -> None:
        self._root = root
        self._known = known
        self._is_open = is_open
        self._seconds = seconds
        self._hot: dict[str, float] = {}
        self._round: Iterator[tuple[str, bool]] = iter(())
        self._rounds = 0
        self._root_stamp = 0
        self._next_listing = 0.0

    def note(self, session_id: str) -> None:
        """A session changed: look at it in every tick for a while."""
        self._hot.pop(session_id, None)
        self._hot[session_id] = time.monotonic() + HOT_SECONDS
        if len(self._hot) > HOT_SESSIONS:
            self._hot.pop(next(iter(self._hot)))

    def everything(self) -> Iterator[set[str]]:
        """All sessions that differ, in slices: the first scan after a start.

        Raises:
            OSError: the root cannot be listed.
        """
        found = self._list_root()
        yield self._known.keys() ^ found
        folder = os.open(self._root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            names = sorted(self._known.keys() & found, reverse=True)
            for start in range(0, len(names), SLICE):
                yield {name for name in names[start : start + SLICE] if self._differs(folder, name, True)}
        finally:
            os.close(folder)

    def tick(self) -> set[str]:
        """The sessions that seem to have changed, as far as this tick got.

        Raises:
            OSError: the root cannot be opened.
        """
        started = time.thread_time()
        suspects: set[str] = set()
        folder = os.open(self._root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            if self._root_changed(folder):
                found = self._list_root()
                suspects |= self._known.keys() ^ found
            suspects |= self._look_at_hot(folder)
            while batch := self._next_slice():
                suspects |= {name for name, check_log in batch if self._differs(folder, name, check_log)}
                if time.thread_time() - started > self._seconds:
                    break
        finally:
            os.close(folder)
        return suspects

    def _root_changed(self, folder: int) -> bool:
        """Whether folders came or went, asked no oftener than listing them all may cost."""
        if time.monotonic() < self._next_listing:
            return False
        status = os.stat(folder)
        changed = fingerprint(status) != self._root_stamp
        racy = time.time_ns() - status.st_mtime_ns < RACY_NS
        self._root_stamp = 0 if racy else fingerprint(status)
        return changed

    def _list_root(self) -> set[str]:
        """The names in the root that may be sessions."""
        started = time.thread_time()
        found = {name for name in os.listdir(self._root) if name in self._known or _may_be_session(name)}
        cost = time.thread_time() - started
        self._next_listing = time.monotonic() + 2 * cost / self._seconds
        return found

    def _look_at_hot(self, folder: int) -> set[str]:
        now = time.monotonic()
        for name, until in list(self._hot.items()):
            if until > now and name in self._known:
                break
            self._hot.pop(name, None)
        return {name for name in list(self._hot) if self._differs(folder, name, True)}

    def _next_slice(self) -> list[tuple[str, bool]]:
        """The next sessions of the round, each with whether its log is looked at; empty once, where a round ends."""
        batch = list(islice(self._round, SLICE))
        if not batch:
            self._rounds += 1
            names = list(self._known)
            every = 1 if 2 * STAT_SECONDS * len(names) <= self._seconds else LOG_EVERY
            self._round = ((name, (place + self._rounds) % every == 0) for place, name in enumerate(names))
        return batch

    def _differs(self, folder: int, name: str, check_log: bool) -> bool:
        stamp = self._known.get(name)
        if stamp is None or self._is_open(name):
            return False
        try:
            summary = fingerprint(os.stat(summary_file(name), dir_fd=folder))
        except OSError:
            summary = 0
        if summary != stamp.summary:
            return True
        if not check_log:
            return False
        try:
            return fingerprint(os.stat(log_path(name, stamp.log_is_file), dir_fd=folder)) != stamp.log
        except OSError:
            return True


def _may_be_session(name: str) -> bool:
    try:
        check_session_id(name)
    except InvalidId:
        return False
    return True

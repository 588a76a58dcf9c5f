"""What was written into a log's files and is not durable yet, for a writer that has no journal.

A sync that failed is not tried again on what the page cache shows, for that may have been given up (store rule 7): the
same bytes are written once more first. Knows no event.
"""

from __future__ import annotations

import contextlib

from chimera import durable

__all__ = ["Unsynced"]


class Unsynced:
    """The files of one log, each with where the bytes begin that may not be on the disk."""

    def __init__(self) -> None:
        self._waiting: dict[str, int] = {}
        self._failed: dict[str, int] = {}

    def note(self, path: str, offset: int) -> None:
        """Bytes from ``offset`` on are about to be written."""
        self._waiting[path] = min(offset, self._waiting.get(path, offset))

    def sync(self) -> None:
        """Make everything noted durable.

        Raises:
            OSError: it is not; :meth:`write_again` before the next sync.
        """
        waiting, self._waiting = self._waiting, {}
        try:
            unreachable = durable.make_durable(waiting)
            if unreachable:
                raise unreachable[0][1]
        except OSError:
            self._failed.update(waiting)
            raise

    def write_again(self) -> None:
        """Write what a failed sync was to make durable over itself. Whoever calls holds the log's lock."""
        for path, offset in tuple(self._failed.items()):
            with contextlib.suppress(FileNotFoundError), open(path, "r+b", buffering=0) as file:
                file.seek(offset)
                body = file.read()
                file.seek(offset)
                durable.write_all(file.fileno(), body)
                self.note(path, offset)
            del self._failed[path]

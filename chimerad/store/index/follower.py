"""Keeps the index in step with what the store itself changes: who changed is noted, and put in before it is asked for.

On the event loop; folders are looked at in threads. Knows the open sessions only as heads that it is told.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from concurrent.futures import Executor

from chimerad.store.index.rebuild import SeenSummary, row_from_folder, row_of_open
from chimerad.store.index.rows import SessionRow
from chimerad.store.index.service import IndexService

__all__ = ["Head", "IndexFollower"]

Head = tuple[int, SeenSummary]
"""Of a session that is open for writing: how many events it has, and its summary as it was last read."""


class IndexFollower:
    """The sessions that changed since the index last looked.

    Args:
        head_of: the head of a session that is open for writing; None for any other.
    """

    def __init__(
        self, root: str, index: IndexService, threads: Executor, head_of: Callable[[str], Head | None]
    ) -> None:
        self._root = root
        self._index = index
        self._threads = threads
        self._head_of = head_of
        self._changed: set[str] = set()
        self._catching_up = asyncio.Lock()

    @property
    def lags(self) -> bool:
        return bool(self._changed)

    def note(self, session_id: str) -> None:
        self._changed.add(session_id)

    def note_all(self, session_ids: Iterable[str]) -> None:
        self._changed.update(session_ids)

    async def catch_up(self) -> None:
        """Give the index every session that changed since it last looked. One at a time: no older row comes last."""
        async with self._catching_up:
            if not self._changed:
                return
            changed, self._changed = self._changed, set()
            put_in = False
            try:
                put_in = await self._put_in(changed)
            finally:
                if not put_in:  # whatever stopped it: they are tried again
                    self._changed |= changed

    async def _put_in(self, session_ids: set[str]) -> bool:
        heads = {session_id: self._head_of(session_id) for session_id in session_ids}
        rows, gone = await asyncio.get_running_loop().run_in_executor(self._threads, _rows_of, self._root, heads)
        return await self._index.upsert(rows) and await self._index.remove(gone)

    async def commit(self, lsn: int) -> None:
        """Put everything in and make it durable, naming the journal's LSN that it covers."""
        await self.catch_up()
        await self._index.commit(lsn)


def _rows_of(root: str, heads: dict[str, Head | None]) -> tuple[list[SessionRow], list[str]]:
    """The rows of these sessions, and those that are no more. In a thread."""
    rows: list[SessionRow] = []
    gone: list[str] = []
    for session_id, head in heads.items():
        row = row_from_folder(root, session_id) if head is None else row_of_open(root, session_id, *head)
        if row is None:
            gone.append(session_id)
        else:
            rows.append(row)
    return rows, gone

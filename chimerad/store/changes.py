"""Changes to a session's life: created, finished, renamed, tagged, pinned, deleted, restored, purged (store rule 8).

Each holds its session: what was submitted before is shown first, what comes meanwhile waits. The disk work is
lifecycle's and the trash's, in threads. Knows no connection.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Executor
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import msgspec

from chimera import paths
from chimera.errors import MalformedSummary, NoSummary, StorageError
from chimera.events.chain import CHAIN_START
from chimera.events.event import Event
from chimera.flavours import origin_of
from chimera.identifiers import check_session_id, new_session_id
from chimera.sessions.creation import create_session
from chimera.sessions.eventlog.locks import SessionLock
from chimera.sessions.eventlog.reader import read_log
from chimera.sessions.summary import read_summary
from chimerad.store import lifecycle, trash
from chimerad.store.committer import Committer, storage_failure
from chimerad.store.flusher import Flusher
from chimerad.store.open_sessions import OpenSession, session_not_found
from chimerad.store.registry import SessionRegistry
from chimerad.store.trash import TrashItem

__all__ = ["Changes", "Created", "Forked", "Purged", "Renamed", "Restored"]

Result = TypeVar("Result")


class Created(msgspec.Struct):
    session_id: str
    path: str
    generation: str


class Forked(msgspec.Struct):
    session_id: str
    path: str
    generation: str
    parent_session: str


class Renamed(msgspec.Struct):
    session_id: str
    title: str | None
    path: str


class Restored(msgspec.Struct):
    session_id: str
    path: str


class Purged(msgspec.Struct):
    purged: list[str]
    bytes: int


class Changes:
    """What the session methods of the contract do to a session beside appending to it."""

    def __init__(
        self,
        root: str,
        registry: SessionRegistry,
        flusher: Flusher,
        committer: Committer,
        threads: Executor,
        *,
        touched: Callable[[str], None],
        moved: Callable[[str], None],
    ) -> None:
        self._root = root
        self._registry = registry
        self._flusher = flusher
        self._committer = committer
        self._threads = threads
        self._touched = touched
        self._moved = moved
        self._trash_turn = asyncio.Lock()

    async def create(
        self,
        *,
        flavour: str,
        session_id: str | None,
        prompt: str,
        title: str | None,
        model: str,
        cwd: str,
        layout: str | None,
        tags: list[str],
    ) -> Created:
        """Make a session; a retried create of one without events returns it.

        Raises:
            InvalidId, InvalidParams, SessionExists, NoSpace, StorageError.
        """
        chosen = new_session_id(flavour) if session_id is None else check_session_id(session_id)

        def make() -> tuple[str, str]:
            return create_session(
                self._root,
                chosen,
                flavour=flavour,
                prompt=prompt,
                title=title,
                model=model,
                cwd=cwd,
                layout=layout,
                tags=tags,
            )

        async with self._registry.hold(chosen):
            path, generation = await self._on_disk(make)
        self._touched(chosen)
        return Created(chosen, path, generation)

    async def fork(self, parent_id: str, path: list[Event], title: str | None, flavour: str | None) -> Forked:
        """A new session that goes on from the end of a path through another one. Nothing is copied.

        Raises:
            InvalidParams, LogGapError, NoSpace, StorageError.
        """
        from chimera.sessions.lineage import link_blobs, point_at

        parent = self._folder(parent_id)
        chosen_flavour = flavour or origin_of(parent_id) or "mink"
        chosen = new_session_id(chosen_flavour)

        def make() -> tuple[str, str]:
            prompt, model, cwd = _facts_of(parent)
            return create_session(
                self._root,
                chosen,
                flavour=chosen_flavour,
                prompt=prompt,
                title=title,
                model=model,
                cwd=cwd,
                layout=None,
                tags=[],
                parent=point_at(parent, path[-1]),
                fill=lambda beside: link_blobs(parent, path, beside),
            )

        async with self._registry.hold(chosen):
            folder, generation = await self._on_disk(make)
        self._touched(chosen)
        return Forked(chosen, folder, generation, parent_id)

    async def finish(self, session_id: str, result: dict[str, Any]) -> dict[str, object]:
        """Write how a session ended; returns its summary.

        Raises:
            SessionNotFound, NoSummary, MalformedSummary, Locked, NoSpace, StorageError.
        """
        async with self._alone_with(session_id) as session:
            if session is not None:
                events, chain = session.shown_seq, session.shown_chain
            else:
                reading = await self._on_disk(read_log, self._folder(session_id))
                events, chain = reading.head_seq, reading.head_chain
            chain_text = (chain or CHAIN_START).decode()
            folder = self._folder(session_id)
            return await self._on_disk(lifecycle.finish_session, folder, result, events, chain_text)

    async def rename(self, session_id: str, title: str) -> Renamed:
        """Give a session a title; "" takes it away."""
        async with self._alone_with(session_id):
            new_title = await self._on_disk(lifecycle.rename_session, self._root, session_id, title)
        return Renamed(session_id, new_title, self._folder(session_id))

    async def tag(self, session_id: str, add: list[str], remove: list[str]) -> list[str]:
        """Add and remove tags; returns those it now has, each once, in the order they were given."""
        async with self._alone_with(session_id):
            _, view = read_summary(self._folder(session_id))
            tags = [tag for tag in dict.fromkeys([*view.tags, *add]) if tag not in remove]
            if tuple(tags) != view.tags:
                await self._on_disk(lifecycle.change_summary, self._root, session_id, "tag", {"tags": tags})
        return tags

    async def pin(self, session_id: str, pinned: bool) -> bool:
        async with self._alone_with(session_id):
            await self._on_disk(lifecycle.change_summary, self._root, session_id, "pin", {"pinned": pinned})
        return pinned

    async def delete(self, session_id: str) -> str:
        """Move a session to the trash; returns the trash id."""
        async with self._alone_with(session_id) as session:
            await self._flusher.flush()
            await self._committer.barrier(session_id)
            trash_id = await self._on_disk(trash.move_to_trash, self._root, session_id)
            if session is not None:
                self._registry.close(session)
        self._moved(session_id)
        return trash_id

    async def restore(self, trash_id: str) -> Restored:
        """Bring a session back from the trash.

        Raises:
            SessionNotFound, SessionExists, NoSpace, StorageError.
        """
        async with self._trash_turn:
            session_id = await self._on_disk(trash.session_of, self._root, trash_id)
            async with self._registry.hold(session_id):
                path = await self._on_disk(trash.restore, self._root, trash_id)
        self._touched(session_id)
        return Restored(session_id, path)

    async def trash_list(self) -> list[TrashItem]:
        async with self._trash_turn:
            return await self._on_disk(trash.list_trash, self._root)

    async def trash_purge(self, older_than_seconds: float | None, trash_id: str | None) -> Purged:
        """Remove from the trash for good; see trash.purge."""
        async with self._trash_turn:
            purged, size = await self._on_disk(trash.purge, self._root, older_than_seconds, trash_id)
        return Purged(purged, size)

    @asynccontextmanager
    async def _alone_with(self, session_id: str) -> AsyncIterator[OpenSession | None]:
        """Hold an existing session against our own clients, and its lock against other programs."""
        folder = self._folder(check_session_id(session_id))
        async with self._registry.hold(session_id) as session:
            if not os.path.isdir(folder):
                raise session_not_found(session_id)
            lock = SessionLock(folder) if session is None else None
            if lock is not None:
                await self._on_disk(lock.acquire)
            try:
                yield session
            finally:
                if lock is not None:
                    lock.release()
        self._touched(session_id)

    def _folder(self, session_id: str) -> str:
        return paths.session_folder(self._root, session_id)

    async def _on_disk(self, work: Callable[..., Result], *arguments: Any) -> Result:
        """Run blocking work in a thread; a failing disk becomes the contract's error."""
        if self._committer.suspended is not None:
            raise storage_failure(self._committer.suspended, "nothing was changed")
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, work, *arguments)
        except FileNotFoundError as error:
            raise StorageError(f"a file vanished while it was used ({error.filename}); try again") from error
        except OSError as error:
            raise storage_failure(error, "look at the session before you try again") from error


def _facts_of(folder: str) -> tuple[str, str, str]:
    """Prompt, model and working folder, as the session's summary has them."""
    try:
        _, view = read_summary(folder)
    except (NoSummary, MalformedSummary):
        return "", "", ""
    return view.prompt, view.model, view.cwd

"""Watches the event-log root for what nobody sent through the daemon: sessions removed, copied in, edited by hand.

Two eyes. ``watchdog`` on the root alone, not on the folders in it, tells within milliseconds that a session came or
went; it is a hint, which may be lost, and the daemon's own appends cause none. The periodic rescan is the truth.
Whoever is told decides what it means: this module knows names, and neither the index nor the files.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import threading
from collections.abc import Awaitable, Callable, Iterable
from typing import TYPE_CHECKING, Protocol

from chimera.config import WatchConfig

if TYPE_CHECKING:
    from watchdog.events import FileSystemEvent
    from watchdog.observers.api import BaseObserver

__all__ = ["Watched", "Watcher"]

log = logging.getLogger(__name__)

START_DELAY_SECONDS = 0.2
"""Loading watchdog takes 40 ms of a core, which the first client's answer may have instead."""

SETTLING_SECONDS = 0.05
"""Hints are handed on together after so long: a copied tree of sessions makes a few calls, not thousands."""


class Watched(Protocol):
    """Who is told; the store."""

    async def refresh(self, session_ids: Iterable[str]) -> None: ...

    async def rescan(self) -> None: ...


class Watcher:
    """Component. What it loads and starts nobody waits for, so it begins a moment after the socket is open."""

    def __init__(self, root: str, watched: Watched, config: WatchConfig) -> None:
        self._root = root
        self._watched = watched
        self._config = config
        self._hints = _Hints()
        self._failing: set[str] = set()
        self._task: asyncio.Task[None] | None = None
        self._observing: asyncio.Future[BaseObserver | None] | None = None

    async def start(self) -> None:
        self._hints.loop = asyncio.get_running_loop()
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        if self._observing is not None:
            observer = await self._observing
            if observer is not None:
                await asyncio.to_thread(_stop_observer, observer)

    async def _run(self) -> None:
        await asyncio.sleep(START_DELAY_SECONDS)
        if self._config.notify:
            self._observing = asyncio.ensure_future(asyncio.to_thread(_start_observer, self._root, self._hints.add))
            await asyncio.shield(self._observing)  # stop() waits for it: a thread cannot be cancelled
        loop = asyncio.get_running_loop()
        next_rescan = loop.time()
        while True:
            if await self._hints.come_within(next_rescan - loop.time()):
                await asyncio.sleep(SETTLING_SECONDS)
                names = self._hints.take()
                await self._guarded("looking at changed sessions", self._watched.refresh(names))
            if loop.time() >= next_rescan:
                await self._guarded("the rescan of the event log", self._watched.rescan())
                next_rescan = max(next_rescan + self._config.period_seconds, loop.time())

    async def _guarded(self, what: str, work: Awaitable[None]) -> None:
        """A failure is logged when it begins, and the next round tries again: it must not end the watching."""
        try:
            await work
        except Exception:  # the boundary of a component: log.exception below tells what it was
            if what not in self._failing:
                self._failing.add(what)
                log.exception("%s failed; it is tried again", what)
        else:
            self._failing.discard(what)


class _Hints:
    """Names that the observer's thread saw, as a set: a thousand events of one session are one name."""

    def __init__(self) -> None:
        self.loop: asyncio.AbstractEventLoop | None = None
        self._names: set[str] = set()
        self._lock = threading.Lock()
        self._any = asyncio.Event()

    def add(self, name: str) -> None:
        """Called from the observer's thread."""
        with self._lock:
            first = not self._names
            self._names.add(name)
        if first and self.loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop has been closed
                self.loop.call_soon_threadsafe(self._any.set)

    async def come_within(self, seconds: float) -> bool:
        """Whether there is a name before so many seconds have passed."""
        try:
            async with asyncio.timeout(max(seconds, 0)):
                await self._any.wait()
        except TimeoutError:
            return False
        return True

    def take(self) -> set[str]:
        with self._lock:
            names, self._names = self._names, set()
            self._any.clear()
        return names


def _start_observer(root: str, add: Callable[[str], None]) -> BaseObserver | None:
    """Watch the folders that come to and go from the root; None when the system grants no watch. In a thread.

    The filter keeps everything else out of the kernel's queue: with watchdog's own choice of events, opening a file is
    one, and a large tree keeps a core busy for ever.
    """
    from watchdog.events import DirCreatedEvent, DirDeletedEvent, DirMovedEvent, FileSystemEventHandler
    from watchdog.observers import Observer

    class Handler(FileSystemEventHandler):
        def on_any_event(self, event: FileSystemEvent) -> None:
            for path in (os.fsdecode(event.src_path), os.fsdecode(event.dest_path)):
                folder, name = os.path.split(path)
                if folder == root and not name.startswith("."):
                    add(name)

    observer: BaseObserver | None = None
    try:
        observer = Observer()
        observer.schedule(Handler(), root, event_filter=[DirCreatedEvent, DirDeletedEvent, DirMovedEvent])
        observer.start()
    except OSError as error:
        log.warning("no watch on %s (%s): changes are found by the rescan alone", root, error.strerror or error)
        if observer is not None:
            observer.stop()
        return None
    return observer


def _stop_observer(observer: BaseObserver) -> None:
    observer.stop()
    observer.join()

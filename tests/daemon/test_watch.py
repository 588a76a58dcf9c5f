"""The watcher over real folders and real notifications of the kernel."""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from chimera.config import WatchConfig
from chimerad.store.index import IndexService, ListQuery
from chimerad.watch import Watched, Watcher
from tests.support.folders import make_session, write_summary

NOTIFICATIONS_ALONE = WatchConfig(rescan_period_ms=3_600_000)
RESCAN_ALONE = WatchConfig(notify=False, rescan_period_ms=100)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "eventlog"
    folder.mkdir()
    return folder


class Told:
    """Passes on what it is told, and remembers it."""

    def __init__(self, index: Watched | None = None) -> None:
        self.index = index
        self.names: list[set[str]] = []
        self.rescans = 0
        self._changed = asyncio.Event()

    async def refresh(self, session_ids: Iterable[str]) -> None:
        self.names.append(set(session_ids))
        if self.index is not None:
            await self.index.refresh(self.names[-1])
        self._changed.set()

    async def rescan(self) -> None:
        self.rescans += 1
        if self.index is not None:
            await self.index.rescan()
        self._changed.set()

    @property
    def all_names(self) -> set[str]:
        return set().union(*self.names)

    async def until(self, condition: Callable[[], Coroutine[Any, Any, bool]] | Callable[[], bool]) -> None:
        """Return when the condition holds, looked at whenever something was told."""
        while True:
            self._changed.clear()
            holds = condition()
            if holds is True or (asyncio.iscoroutine(holds) and await holds):
                return
            await self._changed.wait()


@asynccontextmanager
async def watching(root: Path, config: WatchConfig, index: Watched | None = None) -> AsyncIterator[Told]:
    """A watcher that has begun: it has told of a first rescan, which it does after it began to watch."""
    told = Told(index)
    watcher = Watcher(str(root), told, config)
    await watcher.start()
    try:
        await told.until(lambda: told.rescans > 0)
        yield told
    finally:
        await watcher.stop()


@asynccontextmanager
async def indexed(root: Path) -> AsyncIterator[IndexService]:
    index = IndexService(str(root.parent / "index.db"), str(root))
    await index.start()
    await index.wait_ready()
    try:
        yield index
    finally:
        await index.stop()


async def titles(index: IndexService) -> dict[str, str | None]:
    page = await index.list(ListQuery(limit=0))
    return {record["session_id"]: record["title"] for record in map(msgspec.json.decode, page.sessions)}


def test_folders_that_come_and_go_are_told_of(root: Path, tmp_path: Path) -> None:
    make_session(root, "mink-removed")
    make_session(root, "mink-moved-out")
    make_session(root, "mink-renamed")

    async def scenario() -> None:
        async with watching(root, NOTIFICATIONS_ALONE) as told:
            shutil.rmtree(root / "mink-removed")
            (root / "mink-moved-out").rename(tmp_path / "away")
            (root / "mink-renamed").rename(root / "mink-other-name")
            make_session(root, "mink-made")
            make_session(tmp_path, "mink-moved-in").rename(root / "mink-moved-in")
            expected = {"removed", "moved-out", "renamed", "other-name", "made", "moved-in"}
            await told.until(lambda: told.all_names == {f"mink-{name}" for name in expected})

    asyncio.run(scenario())


def test_a_session_that_is_removed_or_copied_in_is_listed_so(root: Path, tmp_path: Path) -> None:
    make_session(root, "mink-1")
    make_session(tmp_path / "elsewhere", "otter-2", title="copied")

    async def scenario() -> None:
        async with indexed(root) as index, watching(root, WatchConfig(rescan_period_ms=100), index) as told:
            shutil.rmtree(root / "mink-1")
            shutil.copytree(tmp_path / "elsewhere" / "otter-2", root / "otter-2")

            async def is_so() -> bool:
                return await titles(index) == {"otter-2": "copied"}

            await told.until(is_so)

    asyncio.run(scenario())


def test_without_notifications_the_rescan_finds_the_same(root: Path) -> None:
    make_session(root, "mink-gone")
    edited = make_session(root, "mink-edited")

    async def scenario() -> None:
        async with indexed(root) as index, watching(root, RESCAN_ALONE, index) as told:
            shutil.rmtree(root / "mink-gone")
            write_summary(edited, title="by hand")
            make_session(root, "mink-new")

            async def is_so() -> bool:
                return await titles(index) == {"mink-edited": "by hand", "mink-new": None}

            await told.until(is_so)
            assert told.names == []

    asyncio.run(scenario())


def test_writing_in_the_sessions_and_in_the_stores_own_folders_tells_nothing(root: Path) -> None:
    folder = make_session(root, "mink-1")
    (root / ".journal").mkdir()

    async def scenario() -> None:
        async with watching(root, NOTIFICATIONS_ALONE) as told:
            for number in range(100):
                with (folder / "events.jsonl").open("a") as log:
                    log.write("{}\n")
                (folder / f"event-{number:06d}-x.json").write_text("{}")
                (root / ".journal" / f"{number}").write_text("")
            (root / ".new-session").mkdir()
            (root / ".ledger.jsonl").write_text("{}\n")
            (root / "mink-last").mkdir()
            await told.until(lambda: "mink-last" in told.all_names)
            assert told.all_names == {"mink-last"}

    asyncio.run(scenario())


def test_a_burst_is_told_of_whole_and_in_few_calls(root: Path) -> None:
    names = {f"mink-{number:05d}" for number in range(5000)}

    async def scenario() -> None:
        async with watching(root, NOTIFICATIONS_ALONE) as told:
            await asyncio.to_thread(lambda: [(root / name).mkdir() for name in sorted(names)])
            await told.until(lambda: told.all_names == names)
            assert len(told.names) < len(names) / 10

    asyncio.run(scenario())


def test_a_failure_of_the_rescan_is_logged_once_and_tried_again(
    root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Failing(Told):
        async def rescan(self) -> None:
            await super().rescan()
            if self.rescans < 4:
                raise OSError("no")

    async def scenario() -> None:
        failing = Failing()
        watcher = Watcher(str(root), failing, WatchConfig(notify=False, rescan_period_ms=100))
        await watcher.start()
        await failing.until(lambda: failing.rescans == 5)
        await watcher.stop()

    with caplog.at_level(logging.ERROR):
        asyncio.run(scenario())
    assert len(caplog.records) == 1


def test_stopping_leaves_no_thread_and_no_descriptor(root: Path) -> None:
    async def scenario() -> None:
        async with watching(root, NOTIFICATIONS_ALONE):
            pass

    asyncio.run(scenario())  # loads the modules
    threads, descriptors = threading.active_count(), len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        asyncio.run(scenario())

    assert threading.active_count() == threads
    assert len(os.listdir("/proc/self/fd")) == descriptors


def test_stopping_before_it_has_begun_is_allowed(root: Path) -> None:
    async def scenario() -> None:
        watcher = Watcher(str(root), Told(), NOTIFICATIONS_ALONE)
        await watcher.start()
        await watcher.stop()

    asyncio.run(scenario())


def test_without_a_watch_the_rescan_goes_on_alone_and_says_so_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        async with watching(tmp_path / "nowhere", WatchConfig(rescan_period_ms=100)) as told:
            await told.until(lambda: told.rescans > 3)

    with caplog.at_level(logging.WARNING):
        asyncio.run(scenario())
    assert ["changes are found by the rescan alone" in record.message for record in caplog.records] == [True]


OUT_OF_INSTANCES = """
import logging, os, resource, sys, threading
import watchdog.events, watchdog.observers
from chimerad.watch import _start_observer
logging.basicConfig(level=logging.WARNING)
used = len(os.listdir("/proc/self/fd"))
resource.setrlimit(resource.RLIMIT_NOFILE, (used - 1, used - 1))
print(_start_observer(sys.argv[1], print), threading.active_count())
"""


def test_no_inotify_instance_left_is_survived(root: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", OUT_OF_INSTANCES, str(root)], capture_output=True, text=True, check=True
    )

    assert done.stdout == "None 1\n"
    assert "instance limit" in done.stderr

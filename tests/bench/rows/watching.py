"""A large store that others change: whether every change reaches the index, and what watching it costs."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.bench import raw_inotify
from tests.bench.corpus import build_corpus, session_name, write_session
from tests.bench.report import Result, result
from tests.bench.rounds import interleave, median
from tests.bench.rows.start import idle, wait_first_answer
from tests.bench.workbench import Workbench, wait_indexed
from tests.support.daemon import Connection, RunningDaemon

SEEN_WITHIN = 60.0


def run(bench: Workbench) -> Iterator[Result]:
    count = bench.scale.watched_folders
    root = bench.subfolder("watching/eventlog")
    build_corpus(root, count)
    with bench.daemon("watching") as daemon:
        wait_indexed(daemon, count)
        _, percent = idle(daemon.process.pid, bench.scale.idle_seconds)
        changes = Changes(count, bench.scale.burst)
        began = time.perf_counter()
        changes.make(root)
        made_in = time.perf_counter() - began
        with daemon.connect() as connection:
            seconds = wait_seen(connection, changes)
            missed = changes.missed_in(listed(connection))
    yield result(
        "watching.seen",
        1 - len(missed) / changes.count,
        changes=changes.count,
        made_in_s=made_in,
        seen_after_s=seconds,
        missed=", ".join(missed[:3]) or "none",
    )
    yield result("watching.idle_cpu", percent, folders=count)
    yield start_cost(bench, root)


@dataclass
class Changes:
    """A burst by other hands: sessions that come, go, are renamed in their summary, or grow."""

    existing: int
    burst: int
    added: set[str] = field(default_factory=set)
    removed: set[str] = field(default_factory=set)
    edited: dict[str, str] = field(default_factory=dict)
    grown: set[str] = field(default_factory=set)

    @property
    def count(self) -> int:
        return len(self.added) + len(self.removed) + len(self.edited) + len(self.grown)

    def make(self, root: str) -> None:
        half = self.burst // 2
        quarter = half // 2
        for number in range(self.existing, self.existing + self.burst):
            self.added.add(write_session(root, number))
        for number in range(half):
            name = session_name(number)
            shutil.rmtree(os.path.join(root, name))
            self.removed.add(name)
        for number in range(half, 2 * half):
            name = session_name(number)
            self.edited[name] = edit_title(os.path.join(root, name, "summary.json"), number)
        for number in range(2 * half, 2 * half + quarter):
            name = session_name(number)
            with open(os.path.join(root, name, "events.jsonl"), "ab") as log:
                log.write(b'{"type":"user_message","metadata":{"content":"by another hand"}}\n')
            self.grown.add(name)

    def missed_in(self, records: dict[str, dict[str, object]]) -> list[str]:
        """The changes that the list does not show."""
        missed = [f"added {name}" for name in self.added if name not in records]
        missed += [f"removed {name}" for name in self.removed if name in records]
        missed += [f"edited {name}" for name, title in self.edited.items() if _of(records, name, "title") != title]
        missed += [f"grown {name}" for name in self.grown if _of(records, name, "events") != 3]
        return missed


def wait_seen(connection: Connection, changes: Changes) -> float:
    """Seconds from the end of the burst until the list shows all of it; gives up after ``SEEN_WITHIN``."""
    began = time.perf_counter()
    expected = changes.existing + len(changes.added) - len(changes.removed)
    while True:
        total = connection.call("sessions.list", limit=1)["total"]
        waited = time.perf_counter() - began
        if waited > SEEN_WITHIN or (total == expected and not changes.missed_in(listed(connection))):
            return time.perf_counter() - began
        time.sleep(0.1)


def listed(connection: Connection) -> dict[str, dict[str, object]]:
    """Every session that the daemon lists, by id."""
    records: dict[str, dict[str, object]] = {}
    cursor: dict[str, str] = {}
    while True:
        page = connection.call("sessions.list", limit=0, **cursor)
        records.update((record["session_id"], record) for record in page["sessions"])
        if not page["next_cursor"]:
            return records
        cursor = {"cursor": page["next_cursor"]}


def edit_title(path: str, number: int) -> str:
    """Give a session a title the way a person with an editor does: the whole file written in its place."""
    with open(path) as summary:
        values = json.load(summary)
    values["title"] = f"edited by hand {number}"
    with open(path, "w") as summary:
        json.dump(values, summary, indent=2)
    return str(values["title"])


def start_cost(bench: Workbench, root: str) -> Result:
    """What a full store adds to a start, until the index has checked it, against putting a watch on each folder."""
    folders = sum(1 for entry in os.scandir(root) if entry.is_dir() and not entry.name.startswith("."))
    numbers = itertools.count()

    def full() -> float:
        return seconds_to_ready(Path(bench.folder) / "watching", folders)

    def empty() -> float:
        return seconds_to_ready(Path(bench.subfolder(f"watching-empty-{next(numbers)}")), 0)

    def inotify() -> float:
        done = subprocess.run(
            [sys.executable, "-I", "-S", raw_inotify.__file__, root], stdout=subprocess.PIPE, check=True
        )
        return float(done.stdout)

    samples = interleave(min(bench.scale.rounds, 5), {"full": full, "empty": empty, "inotify": inotify})
    added = [ours - bare for ours, bare in zip(samples["full"], samples["empty"], strict=True)]
    ratio = median([ours / raw for ours, raw in zip(added, samples["inotify"], strict=True)])
    return result(
        "watching.start",
        ratio,
        full_ms=median(samples["full"]) * 1e3,
        empty_ms=median(samples["empty"]) * 1e3,
        inotify_ms=median(samples["inotify"]) * 1e3,
    )


def seconds_to_ready(home: Path, sessions: int) -> float:
    """From spawn until the daemon says that its index stands."""
    began = time.perf_counter()
    daemon = RunningDaemon(home)
    try:
        wait_first_answer(daemon, began + 60.0)
        wait_indexed(daemon, sessions)
        return time.perf_counter() - began
    finally:
        daemon.stop()


def _of(records: dict[str, dict[str, object]], name: str, key: str) -> object:
    return records.get(name, {}).get(key)

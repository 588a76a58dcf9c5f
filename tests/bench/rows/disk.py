"""The room that sessions take on the disk, index included, against the bytes of their events; plain and packed.

Sessions of the length of a working day's task, program text as content. The journal is left out: it holds what is
not flushed yet, a fixed number of segments whatever the sessions are.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator

from chimera.paths import index_path
from chimera.sessions.eventlog.packing import pack_session
from tests.bench.corpus import realistic_metadata
from tests.bench.report import Result, result
from tests.bench.workbench import Workbench, settle
from tests.support.daemon import Connection


def run(bench: Workbench) -> Iterator[Result]:
    with bench.daemon("disk") as daemon:
        root = str(daemon.root)
        metadata = realistic_metadata()
        with daemon.connect() as connection:
            sessions = [
                journalled(connection, bench.scale.disk_events, metadata) for _ in range(bench.scale.disk_sessions)
            ]
        settle(daemon)
    folders = [os.path.join(root, name) for name in sessions]
    events = sum(bytes_of_events(folder) for folder in folders)
    index = index_path(str(daemon.home))
    index_bytes = sum(blocks(index + suffix) for suffix in ("", "-wal", "-shm") if os.path.exists(index + suffix))
    plain = sum(room(folder) for folder in folders)
    shared = {"sessions": len(folders), "events_mib": events / 2**20, "index_kib": index_bytes / 1024}
    yield result("disk.jsonl", (plain + index_bytes) / events, folders_mib=plain / 2**20, **shared)
    for folder in folders:
        pack_session(folder)
    packed = sum(room(folder) for folder in folders)
    yield result("disk.packed", (packed + index_bytes) / events, folders_mib=packed / 2**20, **shared)


def journalled(connection: Connection, events: int, metadata: Iterator[bytes]) -> str:
    """One finished session with ``events`` events; its id."""
    name = str(connection.call("sessions.create", prompt="Read the standard library", layout="jsonl")["session_id"])
    for _ in range(events):
        event = {"type": "tool_result", "metadata": json.loads(next(metadata))}
        connection.call("sessions.append", session_id=name, events=[event], durability="buffered")
    connection.call("sessions.finish", session_id=name, summary={"success": True})
    return name


def bytes_of_events(folder: str) -> int:
    """The records of the log without their newlines."""
    with open(os.path.join(folder, "events.jsonl"), "rb") as log:
        return sum(len(line) - 1 for line in log)


def room(folder: str) -> int:
    """What ``du`` counts: the blocks of a folder and of everything in it."""
    total = blocks(folder)
    for path, folders, files in os.walk(folder):
        total += sum(blocks(os.path.join(path, name)) for name in folders + files)
    return total


def blocks(path: str) -> int:
    return os.stat(path).st_blocks * 512

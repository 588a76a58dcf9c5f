"""The order in which an append becomes durable, shown, answered and published (store rule 1), as the kernel saw it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support import crash_strace
from tests.support.daemon import Connection, RunningDaemon
from tests.support.store import append, create, event, replies_of

pytestmark = pytest.mark.skipif(not crash_strace.AVAILABLE, reason="strace is not installed")

SHOWN_BYTES = 4000


class Story:
    """The system calls of a traced daemon, in order; a call that strace interrupted counts where it ended."""

    def __init__(self, trace: Path) -> None:
        self.calls: list[str] = []
        begun: dict[str, str] = {}
        for line in trace.read_text(errors="replace").splitlines():
            thread = line.split(maxsplit=1)[0]
            if line.endswith("<unfinished ...>"):
                begun[thread] = line.removesuffix("<unfinished ...>")
            elif " resumed>" in line:
                self.calls.append(begun.pop(thread) + line.partition(" resumed>")[2])
            else:
                self.calls.append(line)

    def place(self, pattern: str, after: int = -1) -> int:
        for number in range(after + 1, len(self.calls)):
            if re.search(pattern, self.calls[number]):
                return number
        raise AssertionError(f"no {pattern} after {after} in:\n" + "\n".join(call[:200] for call in self.calls))


@pytest.fixture
def live(tmp_path: Path, start_daemon: Callable[..., RunningDaemon]) -> Callable[..., Story]:
    """Let a traced daemon live through something, end it, and tell what it did."""

    def run(life: Callable[[Connection, Connection], None]) -> Story:
        trace = tmp_path / "trace"
        calls = "trace=pwritev2,fdatasync,write,sendto"
        strace = ("strace", "-f", "-qq", "-y", "-s", str(SHOWN_BYTES), "-e", calls, "-o", str(trace))
        daemon = start_daemon(prefix=strace)
        with daemon.connect() as connection, daemon.connect() as watcher:
            life(connection, watcher)
            connection.call("daemon.shutdown")
        daemon.process.wait()
        daemon.log.close()
        return Story(trace)

    return run


@pytest.mark.parametrize(("flavour", "file"), [("mink", "events.jsonl"), ("stoat", "event-000001-user_message.json")])
def test_durable_then_shown_then_answered_then_published(live: Callable[..., Story], flavour: str, file: str) -> None:
    def life(connection: Connection, watcher: Connection) -> None:
        session_id = create(connection, flavour)
        watcher.call("sessions.subscribe", session_id=session_id)
        append(connection, session_id, event("the-marker"))
        assert watcher.next_notification()["params"]["event"]["metadata"]["content"] == "the-marker"

    story = live(life)
    journalled = story.place(r"pwritev2\(.*segment-.*the-marker")
    synced = story.place(r"fdatasync.*= 0", journalled)
    shown = story.place(rf"write\(.*{file}>.*the-marker", synced)
    answered = story.place(r"sendto.*first_seq", shown)
    assert story.place(r"sendto.*session\.event.*the-marker") > answered


def test_buffered_is_answered_before_the_sync_and_shown_after_it(live: Callable[..., Story]) -> None:
    """The answer alone leaves early; nobody asks for the sync, and yet the event comes to be shown."""

    def life(connection: Connection, watcher: Connection) -> None:
        session_id = create(connection)
        watcher.call("sessions.subscribe", session_id=session_id)
        append(connection, session_id, event("the-marker"), durability="buffered")
        assert watcher.next_notification()["params"]["event"]["metadata"]["content"] == "the-marker"

    story = live(life)
    journalled = story.place(r"pwritev2\(.*segment-.*the-marker")
    answered = story.place(r"sendto.*first_seq", journalled)
    synced = story.place(r"fdatasync.*= 0", journalled)
    shown = story.place(r"write\(.*events\.jsonl>.*the-marker", journalled)
    published = story.place(r"sendto.*session\.event.*the-marker", journalled)
    assert journalled < answered < synced < shown < published


def test_appends_that_wait_together_share_one_frame_and_one_sync(live: Callable[..., Story]) -> None:
    def life(connection: Connection, watcher: Connection) -> None:
        session_id = create(connection)
        append(connection, session_id)
        call = {"jsonrpc": "2.0", "method": "sessions.append", "params": {}}
        call["params"] = {"session_id": session_id, "events": [event("the-marker")]}
        connection.send_line(b"\n".join(json.dumps({**call, "id": number}).encode() for number in range(8)))
        assert [reply["result"]["last_seq"] for reply in replies_of(connection, list(range(8)))] == list(range(2, 10))

    story = live(life)
    frames = [call for call in story.calls if re.search(r"pwritev2\(.*segment-.*the-marker", call)]
    assert [frame.count("the-marker") for frame in frames] == [8]

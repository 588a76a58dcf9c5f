"""The session model: resuming a conversation, a tree of many branches over RPC, what a fork and a compaction weigh."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import partial
from typing import Any

import msgspec

from chimera.sessions.eventlog import EventLog, EventSourcedSession
from chimera.sessions.eventlog.writer import NewEvent
from tests.bench.baselines import parsed_by_orjson
from tests.bench.report import Result, result
from tests.bench.rounds import interleave, median, paired_ratio
from tests.bench.rows.resume import timed
from tests.bench.workbench import Workbench
from tests.support.daemon import Connection

SESSION_ID = "mink-20260101T000000-00000000"
EVENTS_A_TURN = 19
"""What :func:`turn` makes."""


def run(bench: Workbench) -> Iterator[Result]:
    count = bench.scale.resume_events
    for key, events in (("resume_short", count // 20), ("resume", count), ("resume_long", count * 10)):
        yield resumed(bench, f"sessions.{key}", events)
    yield from over_rpc(bench, count, count // 20)
    yield compacted(bench, count // 10)


def resumed(bench: Workbench, key: str, events: int) -> Result:
    folder = conversation(bench.subfolder(key), events)
    path = os.path.join(folder, "events.jsonl")
    samples = interleave(
        bench.scale.rounds,
        {"orjson": partial(timed, parsed_by_orjson, path), "session": partial(timed, messages_of, folder)},
    )
    return result(
        key,
        paired_ratio(samples, "session", "orjson"),
        events=events,
        session_ms=median(samples["session"]) * 1e3,
        orjson_ms=median(samples["orjson"]) * 1e3,
    )


def over_rpc(bench: Workbench, events: int, branches: int) -> Iterator[Result]:
    with bench.daemon("tree") as daemon, daemon.connect() as connection:
        session_id = branchy(connection, events, branches)
        path = str(daemon.root / session_id / "events.jsonl")

        def show(_: str) -> None:
            from_seq: int | None = 1
            while from_seq is not None:
                from_seq = connection.call("tree.show", session_id=session_id, from_seq=from_seq)["next_seq"]

        def switch(_: str) -> None:
            connection.call("tree.switch", session_id=session_id, to="main")

        def append(_: str) -> None:
            connection.call("sessions.append", session_id=session_id, events=[{"type": "label", "metadata": {}}])

        show("")
        samples = interleave(
            bench.scale.rounds,
            {
                "orjson": partial(timed, parsed_by_orjson, path),
                "show": partial(timed, show, ""),
                "switch": partial(timed, switch, ""),
                "append": partial(timed, append, ""),
            },
        )
        shared = {"events": events, "branches": branches}
        show_ms, switch_ms = median(samples["show"]) * 1e3, median(samples["switch"]) * 1e3
        yield result("sessions.tree_show", paired_ratio(samples, "show", "orjson"), ms=show_ms, **shared)
        yield result("sessions.tree_switch", paired_ratio(samples, "switch", "append"), ms=switch_ms, **shared)
        child = connection.call("sessions.fork", session_id=session_id)["path"]
        weight = sum(os.stat(os.path.join(child, name)).st_size for name in os.listdir(child))
        yield result("sessions.fork_bytes", weight / os.path.getsize(path), bytes=weight)


def compacted(bench: Workbench, events: int) -> Result:
    folder = conversation(bench.subfolder("compaction"), events)
    session = EventSourcedSession.resume(folder, SESSION_ID)
    replaced = sum(len(message.content.encode()) for message in session.messages)
    before = os.path.getsize(os.path.join(folder, "events.jsonl"))
    session.compact()
    weight = os.path.getsize(os.path.join(folder, "events.jsonl")) - before
    return result("sessions.compaction_bytes", weight / replaced, bytes=weight, messages_bytes=replaced)


def conversation(beside: str, events: int) -> str:
    """A journalled session of turns with tool calls; its folder."""
    folder = os.path.join(beside, SESSION_ID)
    log = EventLog(folder, fsync="never")
    turns = (turn(number) for number in range(events // EVENTS_A_TURN + 1))
    flat = [event for one in turns for event in one][:events]
    for at in range(0, events, 1000):
        log.append_new([new_event(kind, metadata) for kind, metadata in flat[at : at + 1000]])
    return folder


def turn(number: int) -> list[tuple[str, dict[str, Any]]]:
    turn_id = f"turn-{number}"
    events: list[tuple[str, dict[str, Any]]] = [
        ("turn_start", {"turn_id": turn_id}),
        ("user_message", {"content": f"Find out why test {number} fails and repair it, please. " * 3}),
    ]
    for step in range(1, 4):
        call = {"call_id": f"call-{number}-{step}", "tool": "Read"}
        events += [
            ("step_start", {"turn_id": turn_id, "step": step}),
            ("text_delta", {"turn_id": turn_id, "step": step, "offset": 0, "text": "Let me look at the fixture. " * 4}),
            ("tool_call", {**call, "args": {"path": f"tests/test_{number}.py"}}),
            ("step_end", {"turn_id": turn_id, "step": step, "usage": {"input_tokens": 1000}}),
            ("tool_result", {**call, "result": "def test_it():\n    assert fixture\n" * 25, "success": True}),
        ]
    return [*events, ("agent_result", {"output": "It passes.", "success": True}), ("turn_end", {"turn_id": turn_id})]


def new_event(kind: str, metadata: dict[str, Any]) -> NewEvent:
    return NewEvent(kind, msgspec.Raw(msgspec.json.encode(metadata)))


def branchy(connection: Connection, events: int, branches: int) -> str:
    """A session with many branches, each begun at the start of the one before."""
    session_id = str(connection.call("sessions.create", layout="jsonl")["session_id"])
    each = max(events // max(branches, 1) - 1, 1)
    for number in range(branches):
        batch = [{"type": kind, "metadata": metadata} for kind, metadata in turn(number)][:each]
        ids = connection.call("sessions.append", session_id=session_id, events=batch)["ids"]
        connection.call("tree.branch", session_id=session_id, name=f"branch {number}", at=ids[0])
    return session_id


def messages_of(folder: str) -> int:
    """Resume as an embedder does; how many messages there are."""
    return len(EventSourcedSession.resume(folder, SESSION_ID).messages)

"""The store through its real socket against a plain model: any sequence of calls, restarts and kills."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.support.daemon import Connection, RpcError, RunningDaemon

FLAVOURS = ["mink", "otter", "stoat"]
_tokens = itertools.count(1)

texts = st.text(max_size=20)
metadatas = st.dictionaries(
    st.text(max_size=5),
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | texts,
    max_size=3,
)
types = st.sampled_from(["user_message", "tool_call", "agent_result"])
pick = st.integers(0, 1 << 30)

BAD_EVENTS: list[tuple[list[Any], str]] = [
    ([], "invalid_params"),
    ([{"type": "Upper"}], "invalid_id"),
    ([{"type": ""}], "invalid_id"),
    ([{"type": "user_message", "id": "../evil"}], "invalid_id"),
    ([{"type": "user_message", "id": "x" * 65}], "invalid_id"),
    ([{"type": "user_message", "metadata": [1]}], "invalid_params"),
    ([{"type": "user_message", "parent_id": "evt-nobody"}], "invalid_params"),
    ([{"type": "user_message", "unknown": 1}], "invalid_params"),
    ([{"type": "user_message", "metadata": {"big": 2**64}}], "invalid_params"),
    ([{"type": "user_message"}, {"type": 5}], "invalid_params"),
    ([{"type": "user_message", "id": "evt-same"}, {"type": "user_message", "id": "evt-same"}], "id_conflict"),
]


@dataclass
class ModelSession:
    """What a session must be; ``trash_id`` while it lies in the trash."""

    events: list[dict[str, Any]] = field(default_factory=list)
    title: str | None = None
    tags: list[str] = field(default_factory=list)
    pinned: bool = False
    trash_id: str | None = None

    def index_of(self, event_id: str) -> int | None:
        return next((n for n, event in enumerate(self.events) if event["id"] == event_id), None)


class StoreModel(RuleBasedStateMachine):
    """One daemon a class run; each example has sessions of its own."""

    daemon: RunningDaemon
    connection: Connection

    def __init__(self) -> None:
        super().__init__()
        self.sessions: dict[str, ModelSession] = {}

    def call(self, method: str, **params: Any) -> Any:
        return self.connection.call(method, **params)

    def refused(self, method: str, **params: Any) -> str | None:
        try:
            self.call(method, **params)
        except RpcError as error:
            return error.kind
        return None

    def standing(self) -> list[str]:
        return sorted(session_id for session_id, session in self.sessions.items() if session.trash_id is None)

    def choose(self, number: int) -> tuple[str, ModelSession]:
        names = self.standing()
        name = names[number % len(names)]
        return name, self.sessions[name]

    @initialize()
    def begin(self) -> None:
        self.create("mink", None)

    @rule(flavour=st.sampled_from(FLAVOURS), title=st.none() | st.just("a title"))
    def create(self, flavour: str, title: str | None) -> None:
        if len(self.sessions) < 4:
            options = {"title": title} if title else {}
            answer = self.call("sessions.create", flavour=flavour, **options)
            self.sessions[answer["session_id"]] = ModelSession(title=title)

    @precondition(lambda self: self.standing())
    @rule(
        number=pick,
        given=st.lists(st.tuples(types, metadatas), min_size=1, max_size=4),
        with_ids=st.booleans(),
        buffered=st.booleans(),
        expects=st.sampled_from(["nothing", "head", "behind", "ahead"]),
        parent=st.none() | pick,
    )
    def append(
        self,
        number: int,
        given: list[tuple[str, dict[str, Any]]],
        with_ids: bool,
        buffered: bool,
        expects: str,
        parent: int | None,
    ) -> None:
        name, session = self.choose(number)
        events: list[dict[str, Any]] = [{"type": kind, "metadata": metadata} for kind, metadata in given]
        if with_ids:
            for event in events:
                event["id"] = f"evt-{next(_tokens)}"
        parent_id = (
            session.events[parent % len(session.events)]["id"] if parent is not None and session.events else None
        )
        if parent_id:
            events[0]["parent_id"] = parent_id
        head = len(session.events)
        options: dict[str, Any] = {"durability": "buffered"} if buffered else {}
        if expects != "nothing":
            options["expect_seq"] = {"head": head, "behind": head - 1, "ahead": head + 1}[expects]
        if expects == "behind" and head == 0:
            options["expect_seq"] = 7
        if options.get("expect_seq", head) != head:
            with pytest.raises(RpcError) as refusal:
                self.call("sessions.append", session_id=name, events=events, **options)
            assert (refusal.value.kind, refusal.value.data["head_seq"]) == ("seq_conflict", head)
            return
        answer = self.call("sessions.append", session_id=name, events=events, **options)
        assert (answer["first_seq"], answer["last_seq"]) == (head + 1, head + len(events))
        if buffered:
            self.call("sessions.verify", session_id=name)  # answered before it is shown; verify waits for that
        leaf = session.events[-1]["id"] if session.events else None
        for event, event_id in zip(events, answer["ids"], strict=True):
            assert event.get("id", event_id) == event_id
            wanted = event.get("parent_id", leaf)
            session.events.append(
                {"id": event_id, "type": event["type"], "metadata": event["metadata"], "parent_id": wanted}
            )
            leaf = event_id

    @precondition(lambda self: any(self.sessions[name].events for name in self.standing()))
    @rule(
        number=pick,
        first=pick,
        count=st.integers(1, 3),
        change=st.sampled_from(["nothing", "type", "metadata", "more"]),
    )
    def append_again(self, number: int, first: int, count: int, change: str) -> None:
        name, session = self.choose(number)
        if not session.events:
            return
        first %= len(session.events)
        known = session.events[first : first + count]
        events = [{key: event[key] for key in ("id", "type", "metadata")} for event in known]
        if change == "nothing":
            answer = self.call("sessions.append", session_id=name, events=events, expect_seq=10**6)
            assert (answer["first_seq"], answer["last_seq"]) == (first + 1, first + len(events))
            assert answer["ids"] == [event["id"] for event in events]
            return
        if change == "type":
            events[-1]["type"] = "other"
        elif change == "metadata":
            events[-1]["metadata"] = {**events[-1]["metadata"], "changed!": 1}
        else:
            events.append({"id": f"evt-{next(_tokens)}", "type": "user_message", "metadata": {}})
        assert self.refused("sessions.append", session_id=name, events=events) == "id_conflict"

    @precondition(lambda self: self.standing())
    @rule(number=pick, bad=st.sampled_from(BAD_EVENTS))
    def append_badly(self, number: int, bad: tuple[list[Any], str]) -> None:
        name, _ = self.choose(number)
        assert self.refused("sessions.append", session_id=name, events=bad[0]) == bad[1]

    @rule(bad=st.sampled_from(["", "..", "a/b", ".journal", "x" * 201, "nul\0"]))
    def name_badly(self, bad: str) -> None:
        assert self.refused("sessions.read", session_id=bad) == "invalid_id"
        assert self.refused("sessions.append", session_id=bad, events=[{"type": "user_message"}]) == "invalid_id"
        assert self.refused("sessions.delete", session_id=bad) == "invalid_id"

    @precondition(lambda self: self.standing())
    @rule(number=pick, from_seq=st.integers(1, 12), limit=st.integers(1, 5))
    def read(self, number: int, from_seq: int, limit: int) -> None:
        name, session = self.choose(number)
        page = self.call("sessions.read", session_id=name, from_seq=from_seq, limit=limit)
        wanted = session.events[from_seq - 1 : from_seq - 1 + limit]
        assert [event["id"] for event in page["events"]] == [event["id"] for event in wanted]
        more = from_seq - 1 + limit < len(session.events)
        assert page["next_seq"] == (from_seq + limit if more else None)

    @precondition(lambda self: self.standing())
    @rule(number=pick, title=st.sampled_from(["", "new title", "täglich"]))
    def rename(self, number: int, title: str) -> None:
        name, session = self.choose(number)
        session.title = title or None
        assert self.call("sessions.rename", session_id=name, title=title)["title"] == session.title

    @precondition(lambda self: self.standing())
    @rule(
        number=pick,
        add=st.lists(st.sampled_from("abc"), unique=True),
        remove=st.lists(st.sampled_from("abc"), unique=True),
    )
    def tag(self, number: int, add: list[str], remove: list[str]) -> None:
        name, session = self.choose(number)
        remove = [tag for tag in remove if tag not in add]
        answer = self.call("sessions.tag", session_id=name, add=add, remove=remove)
        session.tags = [tag for tag in session.tags if tag not in remove]
        session.tags += [tag for tag in add if tag not in session.tags]
        assert sorted(answer["tags"]) == sorted(session.tags)

    @precondition(lambda self: self.standing())
    @rule(number=pick, pinned=st.booleans())
    def pin(self, number: int, pinned: bool) -> None:
        name, session = self.choose(number)
        session.pinned = pinned
        assert self.call("sessions.pin", session_id=name, pinned=pinned)["pinned"] is pinned

    @precondition(lambda self: self.standing())
    @rule(number=pick, success=st.booleans())
    def finish(self, number: int, success: bool) -> None:
        name, _ = self.choose(number)
        summary = self.call("sessions.finish", session_id=name, summary={"success": success, "steps": 2})["summary"]
        assert (summary["success"], summary["steps"]) == (success, 2)

    @precondition(lambda self: self.standing())
    @rule(number=pick)
    def delete(self, number: int) -> None:
        name, session = self.choose(number)
        session.trash_id = self.call("sessions.delete", session_id=name)["trash_id"]
        assert self.refused("sessions.read", session_id=name) == "session_not_found"
        assert (
            self.refused("sessions.append", session_id=name, events=[{"type": "user_message"}]) == "session_not_found"
        )

    @precondition(lambda self: len(self.standing()) < len(self.sessions))
    @rule()
    def restore(self) -> None:
        name, session = next((name, session) for name, session in self.sessions.items() if session.trash_id)
        assert self.call("sessions.restore", trash_id=session.trash_id)["session_id"] == name
        assert self.refused("sessions.restore", trash_id=session.trash_id) == "session_not_found"
        session.trash_id = None

    @rule(killed=st.booleans())
    def restart(self, killed: bool) -> None:
        self.connection.socket.close()
        if killed:
            type(self).daemon.kill()
        else:
            assert type(self).daemon.stop() == 0
        self.start()

    @classmethod
    def start(cls) -> None:
        if hasattr(cls, "daemon"):
            cls.daemon.log.close()
        cls.daemon = RunningDaemon(cls.home).wait_ready()
        cls.connection = cls.daemon.connect()

    home: Path

    @invariant()
    def every_session_is_what_it_must_be(self) -> None:
        for name, session in self.sessions.items():
            if session.trash_id is None:
                detail = self.call("sessions.get", session_id=name, events=True)
                assert [_seen(event) for event in detail["events"]] == [_seen(event) for event in session.events]
                assert [event["seq"] for event in detail["events"]] == list(range(1, len(session.events) + 1))
                summary = detail["summary"]
                assert summary.get("title") == session.title
                assert sorted(summary.get("tags") or []) == sorted(session.tags)
                assert bool(summary.get("pinned")) is session.pinned

    def teardown(self) -> None:
        for name in self.standing():
            assert self.call("sessions.verify", session_id=name)["problems"] == []
        listed = self.call("sessions.list", limit=0)["sessions"]
        assert set(self.standing()) <= {record["session_id"] for record in listed}
        gone = self.sessions.keys() - set(self.standing())
        assert not gone & {record["session_id"] for record in listed}
        for record in listed:
            if record["session_id"] in self.sessions:
                assert record["events"] == len(self.sessions[record["session_id"]].events)


def _seen(event: dict[str, Any]) -> str:
    """An event without what the daemon chooses, in a form in which 1 and 1.0 and True differ."""
    return json.dumps([event[key] for key in ("id", "type", "parent_id", "metadata")], sort_keys=True)


@pytest.mark.timeout(300)
def test_the_store_behaves_like_its_model() -> None:
    folder = tempfile.mkdtemp(prefix="model-")
    StoreModel.home = Path(folder) / "home"
    os.environ["CHIMERA_HOME"] = str(StoreModel.home)
    StoreModel.start()
    try:
        StoreModel.TestCase.settings = settings(
            max_examples=int(os.environ.get("MODEL_EXAMPLES", "40")),
            stateful_step_count=30,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        )
        StoreModel.TestCase().runTest()
    finally:
        StoreModel.connection.socket.close()
        StoreModel.daemon.kill()
        shutil.rmtree(folder)

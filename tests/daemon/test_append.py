"""Appends over the socket: what is refused, in which order, what a repeated call gets, and how ids and parents work."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.support.daemon import Connection, RunningDaemon
from tests.support.store import (
    append,
    append_raw,
    contents_of,
    create,
    event,
    events_of,
    generation_of,
    problems_of,
    refusal,
    replies_of,
)

MIB = 1 << 20
LARGEST_METADATA = 8 * MIB - 512


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningDaemon]:
    """One for the whole file: every test has sessions of its own."""
    running = RunningDaemon(tmp_path_factory.mktemp("append") / "home").wait_ready()
    yield running
    running.kill()


@pytest.fixture(params=["mink", "otter", "stoat"], ids=["jsonl", "ids", "typed"])
def session(connection: Connection, request: pytest.FixtureRequest) -> str:
    """A new session in each layout that is written."""
    return create(connection, request.param)


@pytest.fixture
def log(connection: Connection) -> str:
    """A new session in one layout, for what has nothing to do with layouts."""
    return create(connection)


# -- what is kept


def test_metadata_come_back_byte_for_byte(connection: Connection, session: str) -> None:
    metadata = b'{ "b":1,"a" :[1.50, -0, 1E+2,"\\u00e9\\/\xc3\xa9"],  "a":null }'
    assert "result" in append_raw(connection, session, metadata)
    connection.send("sessions.read", session_id=session)
    assert b'"metadata":' + metadata + b"," in connection.read_line()


def test_a_carriage_return_between_tokens_survives_a_kill(start_daemon: Callable[..., RunningDaemon]) -> None:
    """JSON allows it, and a line of ours ends with a newline alone."""
    daemon = start_daemon()
    sessions = {}
    with daemon.connect() as connection:
        for flavour in ("mink", "otter"):
            sessions[flavour] = create(connection, flavour)
            assert "result" in append_raw(connection, sessions[flavour], b'{"content":\r\t1\r}')
            append(connection, sessions[flavour], event(2))
    daemon.kill()
    with start_daemon().connect() as connection:
        for session_id in sessions.values():
            assert contents_of(connection, session_id) == [1, 2]
            assert problems_of(connection, session_id) == []


def test_events_are_numbered_from_one_without_gaps(connection: Connection, session: str) -> None:
    first = append(connection, session, event(1), event(2))
    second = append(connection, session, event(3))
    assert (first["first_seq"], first["last_seq"], second["first_seq"]) == (1, 2, 3)
    shown = events_of(connection, session)
    assert [one["seq"] for one in shown] == [1, 2, 3]
    assert [one["id"] for one in shown] == first["ids"] + second["ids"]
    assert shown[-1]["chain"] == second["chain"]
    assert problems_of(connection, session) == []


# -- what is refused, and that nothing of a refused call is kept


@pytest.mark.parametrize(
    "metadata",
    [
        b'{"n":18446744073709551615,"m":-9223372036854775808}',
        b'{"text":"123456789012345678901234567890"}',
        b'{"f":123456789012345678901234567890.5}',
        b'{"a":' * 127 + b"1" + b"}" * 127,
        b'{"a":' + b"[" * 126 + b"]" * 126 + b"}",
        b'{"wide":[' + b"{}," * 500 + b"{}]}",
        b"{}",
    ],
)
def test_what_json_can_carry_is_taken(connection: Connection, log: str, metadata: bytes) -> None:
    assert "result" in append_raw(connection, log, metadata)


@pytest.mark.parametrize(
    ("metadata", "kind"),
    [
        (b'{"n":18446744073709551616}', "invalid_params"),
        (b'{"n":-9223372036854775809}', "invalid_params"),
        (b'{"deep":[{"n":100000000000000000000}]}', "invalid_params"),
        (b'{"n":1e999}', "invalid_params"),
        (b'{"a":' * 128 + b"1" + b"}" * 128, "invalid_params"),
        (b'{"a":' + b"[" * 127 + b"]" * 127 + b"}", "invalid_params"),
        (b"[]", "invalid_params"),
        (b"null", "invalid_params"),
        (b'"text"', "invalid_params"),
        (b'{"n":NaN}', "parse_error"),
        (b'{"n":Infinity}', "parse_error"),
        (b'{"n":01}', "parse_error"),
        (b'{"t":"\xff"}', "parse_error"),
        (b'{"t":"\xed\xa0\x80"}', "parse_error"),
        (b'{"t":"\\ud800"}', "parse_error"),
        (b'{"t":"a\tb"}', "parse_error"),
        (b'{"a":1,}', "parse_error"),
    ],
)
def test_what_is_no_strict_json_is_refused(connection: Connection, log: str, metadata: bytes, kind: str) -> None:
    reply = append_raw(connection, log, metadata)
    assert reply["error"]["data"]["kind"] == kind
    assert events_of(connection, log) == []


def test_an_event_of_eight_mebibytes_is_the_largest(connection: Connection, session: str) -> None:
    text = b'{"content":"%b"}'
    room = LARGEST_METADATA - len(text % b"")
    assert append_raw(connection, session, text % (b"x" * room))["result"]["last_seq"] == 1
    too_large = append_raw(connection, session, text % (b"x" * (room + 1)))["error"]
    assert (too_large["code"], too_large["data"]["kind"]) == (-32016, "event_too_large")
    assert len(contents_of(connection, session)[0]) == room


def test_a_call_of_fifteen_mebibytes_is_the_largest(connection: Connection, session: str) -> None:
    half = event("x" * (15 * MIB // 2 - 1000))
    assert append(connection, session, half, half)["last_seq"] == 2
    more = event("x" * (15 * MIB // 2))
    error = refusal(connection, "sessions.append", session_id=session, events=[more, more])
    assert (error.code, error.kind) == (-32015, "too_large")
    assert [one["seq"] for one in events_of(connection, session)] == [1, 2]


@pytest.mark.parametrize(
    ("bad", "kind"),
    [
        ({"type": ""}, "invalid_id"),
        ({"type": "Upper"}, "invalid_id"),
        ({"type": "1st"}, "invalid_id"),
        ({"type": "a" * 65}, "invalid_id"),
        ({"type": "a\n"}, "invalid_id"),
        ({"type": "ok", "id": ""}, "invalid_id"),
        ({"type": "ok", "id": "a b"}, "invalid_id"),
        ({"type": "ok", "id": "x" * 65}, "invalid_id"),
        ({"type": "ok", "id": "ä"}, "invalid_id"),
        ({"type": "ok", "id": "a\n"}, "invalid_id"),
        ({"type": "ok", "parent_id": "../x"}, "invalid_id"),
        ({"type": "ok", "parent_id": ""}, "invalid_id"),
        ({"type": "ok", "ts": "yesterday"}, "invalid_params"),
        ({"type": "ok", "ts": "2026-04-25T09:12:08"}, "invalid_params"),
        ({"type": "ok", "ts": "2026-02-30T09:12:08Z"}, "invalid_params"),
        ({"type": "ok", "ts": '2026-04-25T09:12:08Z","x":"'}, "invalid_params"),
        ({"type": 1}, "invalid_params"),
        ({"type": "ok", "seq": 1}, "invalid_params"),
        ({"metadata": {}}, "invalid_params"),
    ],
)
def test_a_bad_event_is_refused_with_the_whole_call(
    connection: Connection, log: str, bad: dict[str, Any], kind: str
) -> None:
    error = refusal(connection, "sessions.append", session_id=log, events=[event("good"), bad])
    assert error.kind == kind
    assert events_of(connection, log) == []
    assert append(connection, log)["first_seq"] == 1


def test_an_empty_call_and_one_for_no_session_are_refused(connection: Connection, log: str) -> None:
    assert refusal(connection, "sessions.append", session_id=log, events=[]).kind == "invalid_params"
    error = refusal(connection, "sessions.append", session_id="mink-nobody", events=[event()])
    assert (error.code, error.kind) == (-32004, "session_not_found")
    assert refusal(connection, "sessions.append", session_id="../x", events=[event()]).kind == "invalid_id"


def test_bytes_are_judged_before_ids_before_expect_seq_before_parents(connection: Connection, log: str) -> None:
    append(connection, log, event("first", id="known"))
    deep: Any = 1
    for _ in range(130):
        deep = [deep]

    def kind(*events: dict[str, Any], expect_seq: int = 99) -> str | None:
        return refusal(connection, "sessions.append", session_id=log, events=events, expect_seq=expect_seq).kind

    assert kind(event("x", id="bad id"), event(deep)) == "invalid_params"
    assert kind(event("x" * LARGEST_METADATA, id="bad id")) == "event_too_large"
    assert kind(event("x", id="bad id", parent_id="nobody")) == "invalid_id"
    assert kind(event("other", id="known", parent_id="nobody")) == "id_conflict"
    assert kind(event("x", parent_id="nobody")) == "seq_conflict"
    assert kind(event("x", parent_id="nobody"), expect_seq=1) == "invalid_params"
    assert len(events_of(connection, log)) == 1


def test_expect_seq_is_the_head_that_the_caller_saw(connection: Connection, session: str) -> None:
    assert append(connection, session, expect_seq=0)["last_seq"] == 1
    error = refusal(connection, "sessions.append", session_id=session, events=[event()], expect_seq=0)
    assert (error.code, error.kind, error.data["head_seq"]) == (-32009, "seq_conflict", 1)
    assert append(connection, session, expect_seq=1)["last_seq"] == 2


def test_of_many_calls_with_one_expect_seq_one_wins(connection: Connection, session: str) -> None:
    sent = [connection.send("sessions.append", session_id=session, events=[event(n)], expect_seq=0) for n in range(20)]
    replies = replies_of(connection, sent)
    assert "result" in replies[0]
    assert [reply["error"]["data"]["head_seq"] for reply in replies[1:]] == [1] * 19
    assert contents_of(connection, session) == [0]


# -- parents


def test_an_event_follows_the_leaf_unless_it_says_otherwise(connection: Connection, session: str) -> None:
    append(connection, session, event(1, id="a"), event(2, id="b"))
    append(connection, session, event(3, id="c", parent_id="a"), event(4, id="d"))
    append(connection, session, event(5, id="e", parent_id=None), event(6, id="f", parent_id="b"))
    append(connection, session, event(7, id="g"))
    parents = {one["id"]: one["parent_id"] for one in events_of(connection, session)}
    assert parents == {"a": None, "b": "a", "c": "a", "d": "c", "e": None, "f": "b", "g": "f"}


def test_a_parent_stands_earlier(connection: Connection, log: str) -> None:
    for events in (
        [event(1, parent_id="nobody")],
        [event(1, id="self", parent_id="self")],
        [event(1, id="one", parent_id="two"), event(2, id="two")],
    ):
        assert refusal(connection, "sessions.append", session_id=log, events=events).kind == "invalid_params"
    append(connection, log, event(1, id="one"), event(2, id="two", parent_id="one"))
    assert len(events_of(connection, log)) == 2


# -- ids that are known


def test_a_call_in_flight_is_joined(daemon: RunningDaemon, connection: Connection, session: str) -> None:
    """Twenty times the same call, over two connections, none of them waiting: one event, one answer for all."""
    call = {"session_id": session, "events": [event("same", id="one"), event("same", id="two")]}
    with daemon.connect() as other:
        sent = [
            [one.send("sessions.append", **call, durability=durability) for durability in ("buffered", "durable") * 5]
            for one in (connection, other)
        ]
        answers = [reply["result"] for reply in replies_of(connection, sent[0]) + replies_of(other, sent[1])]
    assert answers == [answers[0]] * 20
    assert (answers[0]["first_seq"], answers[0]["last_seq"], answers[0]["ids"]) == (1, 2, ["one", "two"])
    assert len(events_of(connection, session)) == 2


def test_a_repeated_call_is_answered_as_at_first(connection: Connection, session: str) -> None:
    first = append(connection, session, event("a", id="one"), event("b", id="two"))
    append(connection, session, event("later"))
    again = append(connection, session, event("a", id="one"), event("b", id="two"), expect_seq=77)
    assert again == first
    assert append(connection, session, event("b", id="two"))["first_seq"] == 2
    assert len(events_of(connection, session)) == 3


def test_a_repeated_call_may_be_formatted_differently(connection: Connection, session: str) -> None:
    one = append_raw(connection, session, b'{"a":{"x":"\xc3\xa9/","n":[1,2.50]},"b":true}', id="one")
    other = append_raw(connection, session, b'{ "b" : true, "a":{"n":[1, 2.5],\r "x":"\\u00e9\\/"} }', id="one")
    assert one["result"] == other["result"]


def test_a_repeated_call_is_known_after_a_restart_and_after_a_kill(start_daemon: Callable[..., RunningDaemon]) -> None:
    daemon = start_daemon()
    with daemon.connect() as connection:
        sessions = [create(connection, flavour) for flavour in ("mink", "otter", "stoat")]
        first = [append(connection, one, event("a", id="one"), event("b", id="two")) for one in sessions]
    daemon.kill()
    daemon = start_daemon()
    with daemon.connect() as connection:
        assert [append(connection, one, event("a", id="one"), event("b", id="two")) for one in sessions] == first
    assert daemon.stop() == 0
    with start_daemon().connect() as connection:
        assert [append(connection, one, event("a", id="one"), event("b", id="two")) for one in sessions] == first


@pytest.mark.parametrize(
    "events",
    [
        [event("a", "tool_call", id="one")],
        [event("other", id="one")],
        [event(True, id="three")],
        [event("a", id="one"), event("new")],
        [event("a", id="one"), event("new", id="new")],
        [event("new", id="new"), event("a", id="one")],
        [event("b", id="two"), event("a", id="one")],
        [event("x", id="twice"), event("x", id="twice")],
    ],
)
def test_a_known_id_in_another_call_is_a_conflict(
    connection: Connection, log: str, events: list[dict[str, Any]]
) -> None:
    append(connection, log, event("a", id="one"), event("b", id="two"), event(1, id="three"))
    error = refusal(connection, "sessions.append", session_id=log, events=events)
    assert (error.code, error.kind) == (-32017, "id_conflict")
    assert len(events_of(connection, log)) == 3


def test_members_of_a_batch_are_calls_of_their_own(connection: Connection, log: str) -> None:
    members = [
        {"jsonrpc": "2.0", "id": number, "method": "sessions.append", "params": {"session_id": log, "events": events}}
        for number, events in enumerate([[event("a")], [event("bad", id="bad id")], [event("c")]], 1)
    ]
    connection.send_line(json.dumps(members).encode())
    replies = {reply["id"]: reply for reply in connection.read_message()}
    assert [replies[1]["result"]["first_seq"], replies[3]["result"]["first_seq"]] == [1, 2]
    assert replies[2]["error"]["data"]["kind"] == "invalid_id"
    assert contents_of(connection, log) == ["a", "c"]


def test_a_foreign_log_is_gone_on_with(daemon: RunningDaemon, connection: Connection) -> None:
    """A folder that others made, counting from 0: its ids are known, its generation is its first chain."""
    name = "otter-20260102T030405-00c0ffee"
    folder = daemon.root / name
    folder.mkdir()
    body = {"idx": 0, "event_id": "feedbeef", "type": "user_message", "timestamp": 1.5, "metadata": {"content": "x"}}
    (folder / "event-000000-feedbeef.json").write_text(json.dumps(body, indent=2))
    before = generation_of(connection, name)
    assert append(connection, name, event("ours", id="ours"))["first_seq"] == 2
    assert refusal(connection, "sessions.append", session_id=name, events=[event("y", id="feedbeef")]).kind == (
        "id_conflict"
    )
    assert (folder / "event-000001-ours.json").exists()
    assert not (folder / "summary.json").exists()
    assert generation_of(connection, name) == before
    assert [one["parent_id"] for one in events_of(connection, name)] == [None, "feedbeef"]

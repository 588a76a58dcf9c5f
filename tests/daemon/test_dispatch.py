"""From a line to its reply: what JSON-RPC 2.0 asks, what is refused and in which words, and what never leaks."""

from __future__ import annotations

import asyncio
import json
import logging
import subprocess
import sys
from typing import Any

import pytest

from chimera.errors import LogGapError
from chimerad.rpc.context import CallContext, Daemon, ServiceInfo
from chimerad.rpc.dispatch import Dispatcher
from chimerad.rpc.replies import MAX_ERROR_BYTES, MAX_LINE_BYTES, error_object
from tests.support.memory_store import MemoryStore, append, request, until


class Sink:
    def write_line(self, line: bytes) -> None:
        raise AssertionError("nothing is subscribed here")

    def backlog(self) -> int:
        return 0

    async def drained(self) -> None:
        return


def reply_bytes(line: bytes, store: MemoryStore | None = None) -> bytes:
    async def answer() -> bytes:
        service = ServiceInfo("/home", "/home/s", "0.0.0", "2026-01-01T00:00:00Z")
        memory = store or MemoryStore()
        dispatcher = Dispatcher(Daemon(memory, service, lambda: None, lambda: 1))  # type: ignore[arg-type]
        return await dispatcher.through_library(line, CallContext(dispatcher.daemon, Sink()))

    return asyncio.run(answer())


def reply(line: bytes, store: MemoryStore | None = None) -> Any:
    answered = reply_bytes(line, store)
    return json.loads(answered) if answered else None


def error_of(line: bytes, store: MemoryStore | None = None) -> tuple[int, str, str]:
    answered = reply(line, store)
    error = answered["error"]
    return error["code"], error["data"]["kind"], error["message"]


HELLO = request("daemon.hello", 1)


# What JSON-RPC 2.0 says.


@pytest.mark.parametrize("request_id", [0, 1, -7, 10**40, "a", "", '\u2603 " \\', None])
def test_an_id_comes_back_as_it_was(request_id: object) -> None:
    answered = reply(request("daemon.hello", request_id))
    assert answered["id"] == request_id
    assert answered["result"]["name"] == "chimerad"


def test_params_may_be_left_out() -> None:
    assert reply(b'{"jsonrpc":"2.0","method":"daemon.hello","id":1}')["result"]["protocol"] == 1


@pytest.mark.parametrize(
    "line",
    [
        b"{",
        b"",
        b"   ",
        b"nonsense",
        b'{"jsonrpc":"2.0","method":"daemon.hello","id":1',
        b'{"jsonrpc":"1.0","method":"daemon.hello","id":1',
        b'{"jsonrpc":"2.0","method":"daemon.hello","id":1}}',
        b'{"jsonrpc":"2.0","method":"daemon.hello","id":1} {}',
        b'{"jsonrpc":"2.0","method":"daemon.hello","id":1,"params":{"a":NaN}}',
        b'{"jsonrpc":"2.0","method":"daemon.hello","id":1,"params":{"a":Infinity}}',
        b'{"jsonrpc":"2.0","method":"daemon.hello","id":1,"params":{"a":01}}',
        b'{"jsonrpc":"2.0","method":"daemon.hello","id":1,"params":{"a":"\x01"}}',
        b"{'jsonrpc':'2.0'}",
        b'[{"jsonrpc":"2.0","method":"daemon.hello","id":1},',
        b"\xef\xbb\xbf" + HELLO,
        b'{"jsonrpc":"2.0","method":"daemon.hello","id":"\xff"}',
        b'{"jsonrpc":"2.0","method":"\xed\xa0\x80","id":1}',
        b'{"jsonrpc":"2.0","method":"daemon.hello","id":1,"params":{"client":"\xc3("}}',
        b'[{"jsonrpc":"2.0","method":"daemon.hello","id":1,"params":{"client":"\xc3("}}]',
        HELLO.decode().encode("utf-16"),
        b'{"jsonrpc":"2.0","method":"daemon.hello","id":1,"params":{"client":"\\ud800"}}',
        b'{"jsonrpc":"2.0","method":"daemon.hello","id":1,"params":' + b"[" * 1000 + b"]" * 1000 + b"}",
        b"[" * 100_000,
        b"[" * 1000 + b"]" * 1000,
        b'{"a":' * 1000 + b"1" + b"}" * 1000,
    ],
)
def test_what_is_no_utf8_or_no_json_is_a_parse_error(line: bytes) -> None:
    answered = reply(line)
    assert answered["id"] is None
    assert answered["error"]["code"] == -32700
    assert answered["error"]["data"] == {"kind": "parse_error"}
    assert answered["error"]["message"].startswith("the line is ")


@pytest.mark.parametrize(
    "line",
    [
        b"{}",
        b"7",
        b"null",
        b'"daemon.hello"',
        b'{"jsonrpc":"1.0","method":"daemon.hello","id":1}',
        b'{"jsonrpc":2.0,"method":"daemon.hello","id":1}',
        b'{"method":"daemon.hello","id":1}',
        b'{"jsonrpc":"2.0","id":1}',
        b'{"jsonrpc":"2.0","method":1,"params":"bar"}',
        b'{"jsonrpc":"2.0","method":"daemon.hello","id":1.5}',
        b'{"jsonrpc":"2.0","method":"daemon.hello","id":1e3}',
        b'{"jsonrpc":"2.0","method":"daemon.hello","id":true}',
        b'{"jsonrpc":"2.0","method":"daemon.hello","id":{}}',
        b'{"jsonrpc":"2.0","method":"daemon.hello","id":[1]}',
        b'{"jsonrpc":"2.0","method":"daemon.hello","id":"' + b"x" * 2000 + b'"}',
        b'{"jsonrpc":"2.0","method":"daemon.hello","id":1,"params":7}',
        b'{"jsonrpc":"2.0","method":"daemon.hello","id":1,"params":null}',
        b'{"jsonrpc":"2.0","method":"sessions.append","id":1,"params":"x"}',
        b'{"jsonrpc":"2.0","method":"daemon.hello","id":1,"parms":{}}',
        b"[]",
        b"[" + b",".join([HELLO] * 1001) + b"]",
    ],
)
def test_json_that_is_no_request_is_an_invalid_request(line: bytes) -> None:
    answered = reply(line)
    assert answered["id"] is None
    assert answered["error"]["code"] == -32600
    assert answered["error"]["data"] == {"kind": "invalid_request"}


def test_a_batch_is_answered_member_by_member() -> None:
    line = b"[%b,7,%b,%b,{}]" % (
        HELLO,
        b'{"jsonrpc":"2.0","method":"daemon.hello"}',
        request("no.such", "b"),
    )
    answered = reply(line)
    assert [member["id"] for member in answered] == [1, None, "b", None]
    assert answered[0]["result"]["name"] == "chimerad"
    assert [member["error"]["code"] for member in answered[1:]] == [-32600, -32601, -32600]


def test_a_batch_of_nothing_but_wrong_members_is_answered_for_each() -> None:
    assert [member["error"]["code"] for member in reply(b"[1,2,3]")] == [-32600] * 3


def test_notifications_are_never_answered_and_their_errors_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    store = MemoryStore()
    notified = json.loads(append("a"))
    del notified["id"]
    assert reply_bytes(json.dumps(notified).encode(), store) == b""
    assert store.calls == ["append a"]
    assert reply_bytes(json.dumps([notified, notified]).encode(), store) == b""
    wrong = b'{"jsonrpc":"2.0","method":"sessions.read","params":{"session_id":"secret-session"}}'
    assert reply_bytes(wrong, store) == b""
    assert "session_not_found" in caplog.text
    assert reply_bytes(b'{"jsonrpc":"2.0","method":"no.such"}', store) == b""
    assert "secret-session" not in caplog.text


def test_the_last_of_duplicate_members_counts() -> None:
    assert reply(b'{"jsonrpc":"2.0","method":"no.such","method":"daemon.hello","id":1,"id":2}')["id"] == 2


def test_a_batch_runs_in_order_and_its_appends_overlap() -> None:
    async def scenario() -> None:
        store = MemoryStore()
        store.holding = True
        dispatcher = Dispatcher(Daemon(store, None, lambda: None, lambda: 1))  # type: ignore[arg-type]
        read = request("sessions.read", 3, session_id="a")
        line = b"[%b]" % b",".join([append("a", 1), append("b", 2), read, append("c", 4), append("d", 5), read])
        answering = asyncio.ensure_future(dispatcher.through_library(line, CallContext(dispatcher.daemon, Sink())))
        await until(lambda: len(store.held) == 2)
        for _ in range(20):
            await asyncio.sleep(0)
        assert store.calls == ["append a", "append b"]
        store.answer()
        await until(lambda: len(store.held) == 2)
        assert store.calls == ["append a", "append b", "read a", "append c", "append d"]
        store.answer()
        answered = json.loads(await answering)
        assert [member["id"] for member in answered] == [1, 2, 3, 4, 5, 3]
        assert store.calls[-1] == "read a"

    asyncio.run(scenario())


# What is wrong is named.


@pytest.mark.parametrize(
    ("method", "params", "named"),
    [
        ("sessions.read", {}, "needs the parameter `session_id`"),
        ("sessions.read", {"session_id": 7}, "`session_id` of sessions.read: expected `str`, got `int`"),
        ("sessions.read", {"session_id": "a", "from_seq": 0}, "`from_seq` of sessions.read: expected `int` >= 1"),
        ("sessions.read", {"session_id": "a", "limit": "7"}, "`limit`"),
        ("sessions.read", {"session_id": "a", "from_seq": 10**30}, "`from_seq`"),
        ("sessions.read", {"session_id": "a", "from_seq": 1.5}, "`from_seq`"),
        ("sessions.read", {"session_id": "a", "fromseq": 1}, "no parameter `fromseq`; known are session_id, from_seq"),
        ("daemon.status", {"x": 1}, "no parameter `x`; known are none"),
        (
            "sessions.create",
            {"flavour": "lion"},
            "`flavour` of sessions.create cannot be 'lion'; it is one of mink, ot",
        ),
        ("sessions.create", {"layout": "packed"}, "it is one of typed, ids, jsonl"),
        ("sessions.append", {"session_id": "a", "events": {}}, "`events`"),
        ("sessions.append", {"session_id": "a", "events": []}, "`events`"),
        ("sessions.append", {"session_id": "a", "events": [{}]}, "needs the parameter `events[0].type`"),
        (
            "sessions.append",
            {"session_id": "a", "events": [{"type": "a", "x": 1}]},
            "no parameter `events[0].x`; known",
        ),
        ("sessions.append", {"session_id": "a", "events": [{"type": 1}]}, "`events[0].type`"),
        ("sessions.append", {"session_id": "a", "events": [{"type": "a"}], "durability": "most"}, "durable, buffered"),
        ("sessions.append", {"session_id": "a", "events": [{"type": "a"}], "expect_seq": -1}, "`expect_seq`"),
        ("sessions.finish", {"session_id": "a", "summary": {}}, "needs the parameter `summary.success`"),
        (
            "sessions.finish",
            {"session_id": "a", "summary": {"success": True, "cost_source": "guessed"}},
            "`summary.cost_source` of sessions.finish cannot be 'guessed'; it is one of provider, computed, unpriced",
        ),
        ("sessions.finish", {"session_id": "a", "summary": {"success": True, "cost_usd": -1}}, "`summary.cost_usd`"),
        ("sessions.subscribe", {"session_id": "a", "since": {"seq": 1}}, "needs the parameter `since.generation`"),
        ("sessions.list", {"since": "yesterday"}, "`since` of sessions.list: 'yesterday'"),
        ("sessions.list", {"since": " "}, "`since` of sessions.list"),
        ("trash.purge", {"older_than": "soon"}, "`older_than` of trash.purge: 'soon'"),
    ],
)
def test_wrong_parameters_are_named(method: str, params: dict[str, Any], named: str) -> None:
    code, kind, message = error_of(request(method, 1, **params))
    assert (code, kind) == (-32602, "invalid_params")
    assert named in message


def test_parameters_by_position_are_refused_with_the_reason() -> None:
    code, kind, message = error_of(b'{"jsonrpc":"2.0","method":"sessions.read","params":["a"],"id":1}')
    assert (code, kind) == (-32602, "invalid_params")
    assert "by name" in message


def test_an_unknown_method_is_named_with_where_to_look() -> None:
    code, kind, message = error_of(request("sessions.explode", 1))
    assert (code, kind) == (-32601, "method_not_found")
    assert "'sessions.explode'" in message
    assert "rpc.discover" in message
    assert len(error_of(request("x" * 100_000, 1))[2]) < 300


def test_parameters_deeper_than_can_be_read_are_refused() -> None:
    deep = b'{"jsonrpc":"2.0","method":"sessions.finish","id":1,"params":{"session_id":"a","summary":{"success":true,'
    line = deep + b'"error":' + b"[" * 900 + b"]" * 900 + b"}}}"
    assert "error" in reply(line)
    assert "result" in reply(HELLO)


# What must not leak, and must not grow.


def test_an_unknown_exception_leaves_nothing_but_a_reference_to_the_log(caplog: pytest.LogCaptureFixture) -> None:
    store = MemoryStore()
    store.failure = RuntimeError("the key is hunter2")
    line = request("sessions.read", 1, session_id="a")
    for sent in (line, b"[" + line + b"]"):
        answered = reply_bytes(sent, store)
        assert b"hunter2" not in answered
        message = json.loads(answered)
        error = (message[0] if isinstance(message, list) else message)["error"]
        assert error["code"] == -32603
        assert error["data"]["kind"] == "internal_error"
        assert error["data"]["reference"] in caplog.text
    assert "hunter2" in caplog.text


def test_params_are_never_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    store = MemoryStore()
    reply(append("a", content="secret-content"), store)
    reply(b'{"jsonrpc":"2.0","method":"sessions.append","params":{"secret-content":1},"id":1}', store)
    reply(b'{"jsonrpc":"2.0","method":"sessions.append","params":{"secret-content":1}}', store)
    assert "secret-content" not in caplog.text


def test_an_answer_over_a_line_is_too_large() -> None:
    store = MemoryStore()
    reply(append("a", content="x" * (9 << 20)), store)
    reply(append("a", content="x" * (9 << 20)), store)
    assert error_of(request("sessions.read", 1, session_id="a"), store)[:2] == (-32015, "too_large")


def test_the_answers_of_a_batch_fit_in_one_line() -> None:
    store = MemoryStore()
    reply(append("a", content="x" * (7 << 20)), store)
    line = b"[%b]" % b",".join([request("sessions.read", 1, session_id="a")] * 5)
    answered = reply_bytes(line, store)
    assert len(answered) <= MAX_LINE_BYTES
    members = json.loads(answered)
    assert ["error" in member for member in members] == [False, False, True, True, True]
    assert members[2]["error"]["data"]["kind"] == "too_large"


def test_an_error_with_endless_details_is_sent_with_its_kind() -> None:
    shown = error_object(LogGapError("events are missing " + "x" * 10_000, missing=list(range(100_000))))
    assert shown["data"] == {"kind": "log_gap", "details_left_out": True}
    assert len(json.dumps(shown)) < MAX_ERROR_BYTES
    small = error_object(LogGapError("event 3 is missing", missing=[3]))
    assert small["data"] == {"kind": "log_gap", "missing": [3]}


def test_metadata_reaches_the_store_byte_by_byte() -> None:
    store = MemoryStore()
    odd = b'{ "b" : 1.0e0,\t"a":"\\u0041\xc3\xa9", "a":12345678901234567890123 }'
    line = (
        b'{"jsonrpc":"2.0","id":1,"method":"sessions.append",'
        b'"params":{"session_id":"s","events":[{"type":"t","metadata":%b}]}}' % odd
    )
    assert "result" in reply(line, store)
    assert bytes(store.sessions["s"][0].metadata) == odd


def test_the_library_is_not_loaded_before_it_is_needed() -> None:
    program = "import sys, chimerad.rpc; assert not {'jsonrpcserver', 'jsonschema'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True)

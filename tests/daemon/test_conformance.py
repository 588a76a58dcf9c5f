"""The way past jsonrpcserver and the way through it give the same bytes, call by call, from one real daemon.

A single call goes past the library, the same call in a batch of one goes through it: the batch's answer must be the
call's answer in brackets.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.support.daemon import Connection, RunningDaemon

SESSION = "otter-20260425T091201-71032a5e"
EVENT = {"type": "user_message", "id": "evt-1", "metadata": {"content": "hi \u2603"}}

CASES: list[tuple[str, Any]] = [
    ("daemon.hello", {}),
    ("daemon.hello", {"client": "test"}),
    ("daemon.hello", {"client": 7}),
    ("daemon.hello", {"who": "test"}),
    ("daemon.hello", ["test"]),
    ("daemon.hello", 7),
    ("daemon.hello", None),
    ("rpc.discover", {}),
    ("no.such", {}),
    ("sessions.create", {"session_id": SESSION, "flavour": "otter"}),
    ("sessions.create", {"session_id": "../up"}),
    ("sessions.create", {"flavour": "lion"}),
    ("sessions.append", {"session_id": SESSION, "events": [EVENT]}),
    ("sessions.append", {"session_id": SESSION, "events": [{**EVENT, "metadata": {}}]}),
    ("sessions.append", {"session_id": SESSION, "events": [EVENT], "expect_seq": 77}),
    ("sessions.append", {"session_id": SESSION, "events": [{"type": "a"}], "expect_seq": 77}),
    ("sessions.append", {"session_id": SESSION, "events": []}),
    ("sessions.append", {"session_id": SESSION}),
    ("sessions.append", {"session_id": SESSION, "events": [{"type": "No"}]}),
    ("sessions.append", {"session_id": SESSION, "events": [{"type": "a", "metadata": 7}]}),
    ("sessions.append", {"session_id": SESSION, "events": [{"type": "a", "metadata": {"n": 10**30}}]}),
    ("sessions.append", {"session_id": SESSION, "events": [{"type": "a", "parent_id": "evt-none"}]}),
    ("sessions.append", {"session_id": "mink-nowhere", "events": [EVENT]}),
    ("sessions.append", {"session_id": "a/b", "events": [EVENT]}),
    ("sessions.append", [SESSION, []]),
    ("sessions.append", "x"),
    ("sessions.read", {"session_id": SESSION}),
    ("sessions.read", {"session_id": SESSION, "from_seq": 0}),
    ("sessions.read", {"session_id": "mink-nowhere"}),
    ("sessions.get", {"session_id": SESSION, "events": True}),
    ("sessions.get", {"session_id": "mink-nowhere"}),
    ("sessions.list", {}),
    ("sessions.list", {"since": "7d", "flavour": "otter"}),
    ("sessions.list", {"since": "x"}),
    ("sessions.list", {"cursor": "x"}),
    ("sessions.rename", {"session_id": SESSION, "title": "\u00e9"}),
    ("sessions.tag", {"session_id": SESSION, "add": ["a"]}),
    ("sessions.pin", {"session_id": SESSION}),
    ("sessions.verify", {"session_id": SESSION}),
    ("sessions.unsubscribe", {"subscription": "none"}),
    ("sessions.subscribe", {"session_id": "*", "since": {"generation": "g", "seq": 1}}),
    ("sessions.restore", {"trash_id": "none"}),
    ("sessions.fork", {"session_id": SESSION, "at": "evt-none"}),
    ("tree.show", {"session_id": SESSION}),
    ("tree.branch", {"session_id": SESSION, "name": "b", "at": "evt-none"}),
    ("tree.merge", {"session_id": SESSION, "from": "none"}),
    ("tree.switch", {"session_id": SESSION, "to": "none"}),
    ("tree.label", {"session_id": SESSION, "event_id": "evt-none", "label": "l"}),
    ("context.messages", {"session_id": SESSION}),
    ("context.messages", {"session_id": SESSION, "cursor": "\u00b2"}),
    ("context.compact", {"session_id": SESSION, "dry_run": True}),
    ("context.undo", {"session_id": SESSION, "dry_run": True}),
    ("context.redo", {"session_id": SESSION}),
    ("checkpoints.save", {"session_id": SESSION, "name": ""}),
    ("checkpoints.list", {"session_id": SESSION}),
    ("checkpoints.restore", {"session_id": SESSION, "name": "none"}),
    ("trash.list", {}),
    ("trash.purge", {"trash_id": "none"}),
]

LINES = [
    b"{",
    b"{}",
    b"\xff",
    b'{"jsonrpc":"1.0","method":"daemon.hello","id":1}',
    b'{"jsonrpc":"2.0","method":"daemon.hello","id":1.5}',
    b'{"jsonrpc":"2.0","method":"daemon.hello","id":"\\u0041"}',
    b'{"id":null,"method":"daemon.hello","jsonrpc":"2.0"}',
    b' { "jsonrpc" : "2.0" , "method" : "daemon.hello" , "id" : 7 } \r',
    b'{"jsonrpc":"2.0","method":"daemon.hello","id":12345678901234567890123456789}',
]


@pytest.fixture
def connection(daemon: RunningDaemon) -> Any:
    with daemon.connect() as opened:
        yield opened


def exchange(connection: Connection, line: bytes) -> bytes:
    connection.send_line(line)
    return connection.read_line()


def test_both_ways_give_the_same_bytes_for_every_method(connection: Connection) -> None:
    for method, params in CASES:
        line = json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).encode()
        alone = exchange(connection, line)
        assert exchange(connection, b"[" + line + b"]") == b"[" + alone + b"]", (method, params)


def test_both_ways_give_the_same_bytes_for_odd_lines(connection: Connection) -> None:
    for line in LINES:
        alone, batched = exchange(connection, line), exchange(connection, b"[" + line + b"]")
        if json.loads(alone).get("error", {}).get("code") == -32700:
            assert json.loads(batched)["error"]["code"] == -32700
        else:
            assert batched == b"[" + alone + b"]", line


def test_every_method_is_compared(connection: Connection) -> None:
    compared = {method for method, _ in CASES}
    known = {method["name"] for method in connection.call("rpc.discover")["methods"]}
    differ_each_time = {"daemon.status", "daemon.shutdown", "sessions.finish", "sessions.delete", "index.rebuild"}
    assert known - compared == differ_each_time

"""Arbitrary bytes on the socket: whatever comes between them, calls that are whole are answered, each once."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.daemon import Connection, RunningDaemon

SESSION = "mink-20260425T091201-71032a5e"

CALLS: list[tuple[str, Any]] = [
    ("daemon.hello", {}),
    ("daemon.status", {}),
    ("sessions.append", {"session_id": SESSION, "events": [{"type": "a", "metadata": {"text": "\u00e9\n\\"}}]}),
    ("sessions.append", {"session_id": SESSION, "events": [{"type": "a"}], "durability": "buffered"}),
    ("sessions.read", {"session_id": SESSION, "limit": 2}),
    ("sessions.list", {"limit": 1}),
]
WRONG: list[tuple[str, Any, int]] = [
    ("no.such", {}, -32601),
    ("sessions.read", {"session_id": "mink-none"}, -32004),
    ("sessions.read", {"session": SESSION}, -32602),
    ("sessions.append", {"session_id": SESSION, "events": [{"type": "a"}], "expect_seq": 10**9}, -32009),
]


def line_of(method: str, params: Any, request_id: str) -> bytes:
    return json.dumps({"jsonrpc": "2.0", "id": request_id, "method": method, "params": params}).encode()


@st.composite
def mutated_calls(draw: st.DrawFn) -> bytes:
    """A call with a part cut out, doubled, or overwritten."""
    method, params = draw(st.sampled_from(CALLS))
    line = line_of(method, params, "mutated")
    start = draw(st.integers(0, len(line)))
    end = draw(st.integers(start, min(len(line), start + 20)))
    return line[:start] + draw(st.one_of(st.binary(max_size=20), st.just(line[start:end] * 2))) + line[end:]


nested = st.tuples(st.integers(1, 3000), st.sampled_from(CALLS)).flatmap(
    lambda drawn: st.sampled_from(
        [
            b"[" * drawn[0] + b"]" * drawn[0],
            line_of(drawn[1][0], [], "deep").replace(b"[]", b'{"a":' * drawn[0] + b"1" + b"}" * drawn[0]),
        ]
    )
)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=10,
).map(lambda value: json.dumps(value).encode())
garbage = st.one_of(st.binary(max_size=200), mutated_calls(), nested, json_values).filter(
    lambda line: b"shutdown" not in line
)
sound = st.sampled_from([*[(method, params, 0) for method, params in CALLS], *WRONG])


def test_whole_calls_are_answered_once_whatever_comes_between_them(daemon: RunningDaemon) -> None:
    with daemon.connect() as connection:
        connection.call("sessions.create", session_id=SESSION)

    @settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.lists(st.one_of(garbage, sound), max_size=30), st.lists(st.integers(1, 400), max_size=40), st.binary())
    def exchange(parts: list[Any], chunks: list[int], unfinished: bytes) -> None:
        stream, expected = b"", {}
        for number, part in enumerate([*parts, ("daemon.hello", {}, 0)]):
            if isinstance(part, bytes):
                stream += part + b"\n"
            else:
                method, params, code = part
                expected[f"sound-{number}"] = code
                stream += line_of(method, params, f"sound-{number}") + b"\n"
        with daemon.connect() as connection:
            _send_in_chunks(connection, stream + unfinished.replace(b"\n", b""), chunks)
            answered = _answers_until(connection, f"sound-{len(parts)}")
        assert {name: code for name, code in answered if name in expected} == expected
        assert len([name for name, _ in answered if name in expected]) == len(expected)

    exchange()
    with daemon.connect() as connection:
        assert connection.call("sessions.verify")["problems"] == []
        page = connection.call("sessions.read", session_id=SESSION, limit=100_000)
        assert [event["seq"] for event in page["events"]] == list(range(1, len(page["events"]) + 1))
    assert "failed, reference" not in daemon.read_log()
    assert "Traceback" not in daemon.read_log()


def _send_in_chunks(connection: Connection, stream: bytes, sizes: list[int]) -> None:
    at = 0
    for size in sizes:
        connection.socket.sendall(stream[at : at + size])
        at += size
    connection.socket.sendall(stream[at:])


def _answers_until(connection: Connection, last: str) -> list[tuple[Any, int]]:
    """(id, error code or 0) of every answer; the call ``last`` is answered after everything before it."""
    answered: list[tuple[Any, int]] = []
    while True:
        message = connection.read_message()
        members = message if isinstance(message, list) else [message]
        answered.extend((one["id"], one.get("error", {}).get("code", 0)) for one in members)
        if answered[-1][0] == last:
            return answered

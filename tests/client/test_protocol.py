"""The wire: lines cut and joined, what does not fit, what is no JSON."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from chimera.client import protocol
from chimera.errors import (
    ConnectionLost,
    DaemonWedged,
    InvalidParams,
    RemoteError,
    SeqConflict,
    SessionNotFound,
    TooLarge,
)
from tests.support.canned import CLOSE, CannedDaemon, reply


def test_lines_are_cut_wherever_the_chunks_end() -> None:
    stream = b'{"a":1}\n{"b":2}\n\n{"c":3}\n'
    for size in range(1, len(stream) + 1):
        buffer = protocol.LineBuffer()
        lines = [line for at in range(0, len(stream), size) for line in buffer.feed(stream[at : at + size])]
        assert lines == [b'{"a":1}', b'{"b":2}', b"", b'{"c":3}']


def test_a_line_over_the_limit_ends_the_stream() -> None:
    buffer = protocol.LineBuffer()
    chunk = bytes(protocol.MAX_LINE_BYTES // 4)
    for _ in range(3):
        assert buffer.feed(chunk) == []
    with pytest.raises(ConnectionLost, match="more than 16777216 bytes"):
        buffer.feed(chunk)


def test_a_request_over_the_limit_is_refused_before_it_is_sent() -> None:
    with pytest.raises(TooLarge, match="at most 16777216"):
        protocol.encode_request("sessions.append", {"text": "x" * protocol.MAX_LINE_BYTES}, 1)
    with pytest.raises(TooLarge):
        protocol.encode_request_raw("sessions.append", b"x" * protocol.MAX_LINE_BYTES, 1)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "\ud800", object(), {1, 2}])
def test_what_json_cannot_hold_is_a_wrong_parameter(value: object) -> None:
    with pytest.raises(InvalidParams, match="cannot be written as JSON"):
        protocol.encode_request("sessions.append", {"value": value}, 1)


def test_raw_parameters_travel_as_they_are() -> None:
    line = protocol.encode_request_raw("m", b'{"cost": 1.50e0, "n": 10000000000000000001}', 7)
    assert line == b'{"jsonrpc":"2.0","id":7,"method":"m","params":{"cost": 1.50e0, "n": 10000000000000000001}}\n'


def test_an_error_comes_back_as_the_class_of_its_kind() -> None:
    with pytest.raises(SeqConflict) as caught:
        protocol.result_of(
            {"error": {"code": -32009, "message": "head is 4", "data": {"kind": "seq_conflict", "head_seq": 4}}}
        )
    assert (caught.value.message, caught.value.details) == ("head is 4", {"head_seq": 4})
    with pytest.raises(SessionNotFound):
        protocol.result_of({"error": {"code": -32004, "message": "no kind given"}})
    with pytest.raises(RemoteError) as unknown:
        protocol.result_of({"error": {"code": -32050, "message": "later", "data": {"kind": "from_the_future"}}})
    assert (unknown.value.code, unknown.value.kind) == (-32050, "from_the_future")


def test_notifications_and_other_replies_before_ours_are_passed_over(tmp_path: Path) -> None:
    def script(request: dict, number: int) -> list[object]:
        return [
            {"jsonrpc": "2.0", "method": "session.event", "params": {}},
            reply({"id": 99}, 0),
            reply(request, "ours"),
        ]

    with CannedDaemon(tmp_path / "s", script) as canned:
        connection = protocol.LineConnection(canned.path, 5)
        assert connection.call("m", {}, 5) == "ours"
        assert connection.peer_pid() == os.getpid()
        connection.close()


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        ([CLOSE], ConnectionLost),
        ([b'{"jsonrpc":"2.0","id":0,"res', CLOSE], ConnectionLost),
        ([b"<html>\n"], ConnectionLost),
        ([], DaemonWedged),
    ],
    ids=["closed", "half a line", "no JSON", "no answer"],
)
def test_every_way_of_not_answering_has_its_error(tmp_path: Path, answer: list[object], error: type) -> None:
    with CannedDaemon(tmp_path / "s", lambda request, number: answer) as canned:
        connection = protocol.LineConnection(canned.path, 5)
        with pytest.raises(error) as caught:
            connection.call("m", {}, 0.05)
        assert type(caught.value) is error
        assert protocol.is_uncertain(caught.value)
        connection.close()


def test_a_call_that_could_not_be_sent_is_certain_to_have_had_no_effect(tmp_path: Path) -> None:
    with CannedDaemon(tmp_path / "s", lambda request, number: [reply(request, 1)]) as canned:
        connection = protocol.LineConnection(canned.path, 5)
        connection.call("m", {}, 5)
    with pytest.raises(ConnectionLost) as caught:
        connection.send(b"{}\n", 5)
    assert not protocol.is_uncertain(caught.value)
    connection.close()

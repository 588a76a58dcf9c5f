"""Events of other writers, in every shape the family has used, and what is made of odd ones."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from chimera.events.chain import CHAIN_START, link
from chimera.events.event import Event
from chimera.sessions.eventlog.older_shapes import decode_object
from chimera.sessions.eventlog.reader import read_log
from tests.support.logs import shape_a, shape_b, shape_c


def read_one(folder: Path, body: bytes, name: str = "event-000001-user.json") -> tuple[Event, bytes]:
    (folder / name).write_bytes(body)
    reading = read_log(str(folder))
    assert len(reading.records) == 1, reading.problems
    return reading.records[0].event(), reading.records[0].wire()


def test_shape_a_what_the_original_writes(tmp_path: Path) -> None:
    event, wire = read_one(tmp_path, shape_a(0, "0a1b2c3d", content="hi"), "event-000000-0a1b2c3d.json")
    assert event == Event(
        seq=1,
        id="0a1b2c3d",
        parent_id=None,
        type="user_message",
        ts="2026-04-25T09:12:08.500Z",
        metadata={"content": "hi", "event_id": "0a1b2c3d"},
    )
    assert json.loads(wire) == {
        "seq": 1,
        "id": "0a1b2c3d",
        "parent_id": None,
        "type": "user_message",
        "ts": "2026-04-25T09:12:08.500Z",
        "metadata": {"content": "hi", "event_id": "0a1b2c3d"},
    }
    assert b"\n" not in wire


def test_shape_b_what_the_documents_show(tmp_path: Path) -> None:
    event, _ = read_one(tmp_path, shape_b("evt-7c8a4f1e", tool="Read"), "event-000001-evt-7c8a4f1e.json")
    assert (event.id, event.type, event.ts) == ("evt-7c8a4f1e", "tool_call", "2026-04-25T09:12:08Z")
    assert event.metadata == {"tool": "Read"}


def test_shape_c_has_an_id_derived_from_its_chain(tmp_path: Path) -> None:
    body = shape_c(content="hi")
    event, _ = read_one(tmp_path, body)
    assert event.id == "evt-" + link(CHAIN_START, body).decode()
    assert (event.ts, event.chain, event.parent_id) == ("", None, None)


def test_shape_c_in_a_file_named_for_its_id_has_that_id(tmp_path: Path) -> None:
    event, _ = read_one(tmp_path, shape_c(), "event-000000-0a1b2c3d.json")
    assert event.id == "0a1b2c3d"


def test_each_foreign_event_follows_the_one_before_it(tmp_path: Path) -> None:
    lines = [shape_a(0, "aaaaaaaa"), shape_b("evt-b"), shape_c(), b'{"type": "x", "id": "d", "parent_id": "evt-b"}']
    (tmp_path / "events.jsonl").write_bytes(b"".join(json.dumps(json.loads(line)).encode() + b"\n" for line in lines))
    events = [record.event() for record in read_log(str(tmp_path)).records]
    assert [event.parent_id for event in events] == [None, "aaaaaaaa", "evt-b", "evt-b"]
    assert [event.seq for event in events] == [1, 2, 3, 4]


def test_no_two_events_have_one_id(tmp_path: Path) -> None:
    (tmp_path / "events.jsonl").write_bytes(shape_b("evt-1", a=1) + b"\n" + shape_b("evt-1", a=2) + b"\n")
    reading = read_log(str(tmp_path))
    first, second = (record.event_id for record in reading.records)
    assert first == "evt-1"
    assert second == "evt-" + reading.head_chain.decode()
    assert [problem.kind for problem in reading.problems] == ["duplicate"]


def test_events_without_ids_that_are_alike_are_all_kept(tmp_path: Path) -> None:
    (tmp_path / "events.jsonl").write_bytes((shape_c("text_delta", text="a") + b"\n") * 3)
    reading = read_log(str(tmp_path))
    assert (len({record.event_id for record in reading.records}), reading.problems) == (3, [])


@pytest.mark.parametrize(
    ("body", "event_type", "metadata"),
    [
        (b'{"metadata": {"a": 1}}', "unknown", {"a": 1}),
        (b'{"type": 7, "metadata": {}}', "unknown", {}),
        (b'{"type": "x", "metadata": [1, 2]}', "x", {"raw": [1, 2]}),
        (b'{"type": "x", "metadata": "text"}', "x", {"raw": "text"}),
        (b'{"type": "x", "metadata": null}', "x", {"raw": None}),
        (b'{"type": "x"}', "x", {}),
        (b'{"type": "user", "content": "hi", "ts": ""}', "user", {"content": "hi"}),
        (b"{}", "unknown", {}),
        (b'\xef\xbb\xbf{"type": "x", "metadata": {}}', "x", {}),
        (b'{"type": "x", "metadata": {"a": NaN, "b": -Infinity, "c": 1e999}}', "x", {"a": None, "b": None, "c": None}),
        (b'{"type": "x", "metadata": {"a": "\\ud800!"}}', "x", {"a": "\\ud800!"}),
        (
            b'{"type": "x", "metadata": {"n": 123456789012345678901234567890}}',
            "x",
            {"n": 123456789012345678901234567890},
        ),
        (b'\n {"type": "x", "metadata": {"a": "\xc3\xa4"}} \r\n', "x", {"a": "\u00e4"}),
    ],
)
def test_what_is_missing_or_odd_gets_its_documented_value(
    tmp_path: Path, body: bytes, event_type: str, metadata: dict[str, object]
) -> None:
    event, wire = read_one(tmp_path, body)
    assert (event.type, event.metadata) == (event_type, metadata)
    shown = json.loads(wire)
    assert (shown["type"], shown["metadata"]) == (event_type, metadata)
    assert wire.count(b"\n") == 0


@pytest.mark.parametrize(
    ("stated", "ts"),
    [
        ('"ts": "2026-05-07T10:01:00"', "2026-05-07T10:01:00.000Z"),
        ('"ts": "2026-05-07T12:01:00+02:00"', "2026-05-07T10:01:00.000Z"),
        ('"ts": "2026-05-07T10:01:00.123456Z"', "2026-05-07T10:01:00.123456Z"),
        ('"ts": "soon"', ""),
        ('"timestamp": 0', "1970-01-01T00:00:00.000Z"),
        ('"timestamp": "2026-05-07T10:01:00Z"', "2026-05-07T10:01:00.000Z"),
        ('"timestamp": 1e300', ""),
        ('"timestamp": -1', ""),
        ('"timestamp": true', ""),
        ('"timestamp": NaN', ""),
    ],
)
def test_times_become_utc_or_nothing(tmp_path: Path, stated: str, ts: str) -> None:
    event, _ = read_one(tmp_path, b'{"type": "x", %b}' % stated.encode())
    assert event.ts == ts


@pytest.mark.parametrize("event_id", ["../../etc/passwd", "a b", "", "x" * 65, "a\u00e4", 7, None])
def test_an_id_that_is_no_id_is_not_taken_over(tmp_path: Path, event_id: object) -> None:
    event, _ = read_one(tmp_path, json.dumps({"id": event_id, "type": "x"}).encode())
    assert event.id.startswith("evt-")
    assert len(event.id) == 20


def test_metadata_keep_their_bytes_on_the_wire(tmp_path: Path) -> None:
    metadata = b'{"b":1.50,"a":{"c":"\\u00e4 x  y"},"big":1e2}'
    _, wire = read_one(tmp_path, b'{"type":"x","metadata":%b}' % metadata)
    assert wire.endswith(b'"metadata":' + metadata + b"}")


def test_a_record_of_ours_that_was_laid_out_anew_is_still_read(tmp_path: Path) -> None:
    record = {
        "seq": 1,
        "id": "evt-1",
        "parent_id": None,
        "type": "x",
        "ts": "",
        "metadata": {"a": 1},
        "chain": "0" * 16,
    }
    (tmp_path / "event-000001-x.json").write_text(json.dumps(record, indent=2))
    reading = read_log(str(tmp_path))
    assert reading.records[0].event().metadata == {"a": 1}
    assert [problem.kind for problem in reading.problems] == ["chain"]
    assert json.loads(reading.records[0].wire()) == record
    assert b"\n" not in reading.records[0].wire()


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"1", b'"x"', b"{", b"\xff{}", b"{" * 5000, b'{"a":' * 5000 + b"1" + b"}" * 5000]
)
def test_what_is_no_object_is_none(body: bytes) -> None:
    assert decode_object(body) is None

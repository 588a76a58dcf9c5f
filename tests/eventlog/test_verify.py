"""Verification: every flipped bit, lost or reordered event is found, and nothing an adversary writes raises."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from chimera.events.chain import CHAIN_START, encode_record
from chimera.sessions.eventlog.reader import LogReading, read_log
from chimera.sessions.eventlog.verify import verify_session
from tests.support.logs import TS, our_records, shape_b, shape_c, write_ours

LAYOUTS = ("jsonl", "typed", "ids")
relaxed = settings(deadline=None, max_examples=80, suppress_health_check=[HealthCheck.too_slow])

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=12),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
events = st.lists(
    st.tuples(
        st.sampled_from(["user_message", "tool_call", "tool_result"]),
        st.dictionaries(st.text(max_size=4), json_values, max_size=3),
    ),
    min_size=1,
    max_size=8,
)


def chained(contents: list[tuple[str, dict[str, object]]]) -> list[bytes]:
    records, chain = [], CHAIN_START
    for seq, (event_type, metadata) in enumerate(contents, 1):
        body = json.dumps(metadata, ensure_ascii=False).encode("utf-8", "backslashreplace")
        record, chain = encode_record(seq, f"evt-{seq}", None, event_type, TS, body, chain)
        records.append(record)
    return records


def with_summary(folder: Path, reading: LogReading) -> None:
    summary = {"events": reading.head_seq, "chain": reading.head_chain.decode()}
    (folder / "summary.json").write_text(json.dumps(summary))


def kinds(folder: Path) -> set[str]:
    return {problem.kind for problem in verify_session(str(folder))[1]}


def consistent(reading: LogReading) -> None:
    """What holds of every reading, whatever was found."""
    given_seqs = [record.seq for record in reading.records]
    assert sorted(given_seqs) == given_seqs
    assert sorted(given_seqs + reading.missing) == list(range(1, reading.head_seq + 1))
    assert len({record.event_id for record in reading.records}) == len(given_seqs)
    for record in reading.records:
        event = record.event()
        shown = json.loads(record.wire())
        assert b"\n" not in record.wire()
        assert (event.seq, shown["seq"]) == (record.seq, record.seq)
        assert event.id == shown["id"] == record.event_id
        assert shown["metadata"] == event.metadata


@relaxed
@given(events, st.sampled_from(LAYOUTS))
def test_whatever_we_write_verifies_and_is_read_back(
    contents: list[tuple[str, dict[str, object]]], layout: str
) -> None:
    with TemporaryDirectory() as name:
        folder = write_ours(Path(name) / "s", layout, chained(contents))
        assert verify_session(str(folder)) == (len(contents), [])
        reading = read_log(str(folder))
        consistent(reading)
        assert [(record.event().type, record.event().metadata) for record in reading.records] == [
            (event_type, json.loads(json.dumps(metadata))) for event_type, metadata in contents
        ]


@relaxed
@given(events, st.sampled_from(LAYOUTS), st.data())
def test_every_flipped_bit_is_found(
    contents: list[tuple[str, dict[str, object]]], layout: str, data: st.DataObject
) -> None:
    with TemporaryDirectory() as name:
        folder = write_ours(Path(name) / "s", layout, chained(contents))
        path = data.draw(st.sampled_from(sorted(folder.iterdir())))
        body = bytearray(path.read_bytes())
        at = data.draw(st.integers(0, len(body) - 1))
        body[at] ^= 1 << data.draw(st.integers(0, 7))
        path.write_bytes(body)
        assert verify_session(str(folder))[1] != []
        reading = read_log(str(folder))
        consistent(reading)
        if layout != "jsonl":
            changed = int(path.name.split("-")[1]) - 1
            others = [record for position, record in enumerate(chained(contents)) if position != changed]
            assert {*others} <= {record.raw for record in reading.records}


def test_every_single_bit_of_a_record_is_covered(tmp_path: Path) -> None:
    folder = write_ours(tmp_path / "s", "jsonl", our_records(3))
    path = folder / "events.jsonl"
    whole = path.read_bytes()
    end_of_first = whole.index(b"\n") + 1
    for at in range(end_of_first, whole.index(b"\n", end_of_first) + 1):
        for bit in range(8):
            body = bytearray(whole)
            body[at] ^= 1 << bit
            path.write_bytes(body)
            assert verify_session(str(folder))[1], (at, bit)


@relaxed
@given(events.filter(lambda found: len(found) > 1), st.data())
def test_every_lost_event_is_found(contents: list[tuple[str, dict[str, object]]], data: st.DataObject) -> None:
    with TemporaryDirectory() as name:
        records = chained(contents)
        folder = write_ours(Path(name) / "s", "jsonl", records)
        with_summary(folder, read_log(str(folder)))
        lost = data.draw(st.integers(0, len(records) - 1))
        left = records[:lost] + records[lost + 1 :]
        write_ours(folder, "jsonl", left)
        reading = read_log(str(folder))
        consistent(reading)
        assert [record.raw for record in reading.records] == left
        if lost == len(records) - 1:
            assert kinds(folder) == {"cut_off"}
        else:
            assert (reading.missing, kinds(folder)) == ([lost + 1], {"gap"})


@relaxed
@given(st.permutations(range(6)), st.sampled_from([1, 3, 6]))
def test_every_reordering_is_found_and_healed_in_reading(order: list[int], blocks: int) -> None:
    records = our_records(6)
    with TemporaryDirectory() as name:
        folder = write_ours(Path(name) / "s", "jsonl", [records[index] for index in order])
        reading = read_log(str(folder))
        consistent(reading)
        assert [record.raw for record in reading.records] == records
        assert kinds(folder) == (set() if list(order) == sorted(order) else {"out_of_order"})


@relaxed
@given(st.lists(st.integers(0, 5), max_size=6))
def test_every_repetition_is_found(again: list[int]) -> None:
    records = our_records(6)
    with TemporaryDirectory() as name:
        folder = write_ours(Path(name) / "s", "jsonl", records + [records[index] for index in again])
        reading = read_log(str(folder))
        assert [record.raw for record in reading.records] == records
        assert kinds(folder) == ({"duplicate"} if again else set())


def operation(name: str) -> Callable[[bytearray, int, int], None]:
    def flip(body: bytearray, at: int, size: int) -> None:
        body[at] ^= 1 << (size % 8)

    def zero(body: bytearray, at: int, size: int) -> None:
        body[at : at + size] = bytes(len(body[at : at + size]))

    def cut(body: bytearray, at: int, size: int) -> None:
        del body[at : at + size]

    def repeat(body: bytearray, at: int, size: int) -> None:
        body[at:at] = body[at : at + size]

    def move(body: bytearray, at: int, size: int) -> None:
        block = body[at : at + size]
        del body[at : at + size]
        body += block

    def truncate(body: bytearray, at: int, size: int) -> None:
        del body[at:]

    return {"flip": flip, "zero": zero, "cut": cut, "repeat": repeat, "move": move, "truncate": truncate}[name]


damages = st.lists(
    st.tuples(
        st.sampled_from(["flip", "zero", "cut", "repeat", "move", "truncate"]),
        st.floats(0, 1, exclude_max=True),
        st.integers(1, 700),
    ),
    min_size=1,
    max_size=4,
)


@settings(relaxed, max_examples=200)
@given(st.lists(st.sampled_from(["ours", "b", "c", "blank"]), min_size=1, max_size=10), damages)
def test_no_damage_of_a_mixed_log_makes_reading_fail(lines: list[str], damage: list[tuple[str, float, int]]) -> None:
    with TemporaryDirectory() as name:
        folder = Path(name)
        path = folder / "events.jsonl"
        path.touch()
        for number, kind in enumerate(lines):
            reading = read_log(str(folder))
            line = {"b": shape_b(f"evt-b{number}"), "c": shape_c(n=number), "blank": b""}.get(kind)
            if line is None:
                line, _ = encode_record(
                    reading.head_seq + 1, f"evt-{number}", reading.leaf_id, "x", TS, b'{"a":1}', reading.head_chain
                )
            with path.open("ab") as file:
                file.write(line + b"\n")
        assert verify_session(name)[1] == []
        body = bytearray(path.read_bytes())
        for what, where, size in damage:
            if body:
                operation(what)(body, int(where * len(body)), size)
        path.write_bytes(body)
        reading = read_log(name)
        consistent(reading)
        _append_and_read_again(path, reading)


def _append_and_read_again(path: Path, reading: LogReading) -> None:
    """What a writer appends to any reading, its tail settled, is the last event of the next reading."""
    body = path.read_bytes()
    if reading.tail is not None:
        body = body + b"\n" if reading.tail.belongs else body[: reading.tail.offset]
        path.write_bytes(body)
        reading = read_log(str(path.parent))
        assert reading.tail is None
    record, chain = encode_record(reading.head_seq + 1, "evt-new", reading.leaf_id, "x", TS, b"{}", reading.head_chain)
    path.write_bytes(body + record + b"\n")
    after = read_log(str(path.parent))
    assert after.records[-1].raw == record
    assert (after.records[-1].seq, after.head_chain) == (reading.head_seq + 1, chain)
    assert [record.raw for record in after.records[:-1]] == [record.raw for record in reading.records]
    assert after.missing == reading.missing


file_damages = st.lists(
    st.tuples(st.sampled_from(["delete", "empty", "zero", "half", "copy", "swap", "flip"]), st.integers(0, 20)),
    min_size=1,
    max_size=4,
)


def damage_files(folder: Path, what: str, choice: int) -> None:
    files = sorted(folder.iterdir())
    if not files:
        return
    path, other = files[choice % len(files)], files[choice // 2 % len(files)]
    body = path.read_bytes()
    if what == "delete":
        path.unlink()
    elif what == "copy":
        path.with_name(f"event-{choice:06d}-{other.name.split('-', 2)[2]}").write_bytes(body)
    elif what == "swap":
        path.write_bytes(other.read_bytes())
        other.write_bytes(body)
    elif what == "flip" and body:
        path.write_bytes(body[:20] + bytes([body[20] ^ 1]) + body[21:] if len(body) > 20 else body)
    else:
        path.write_bytes({"empty": b"", "zero": bytes(len(body)), "half": body[: len(body) // 2]}.get(what, body))


@settings(relaxed, max_examples=200)
@given(st.lists(st.sampled_from(["ours", "b", "c"]), min_size=1, max_size=8), st.integers(0, 1), file_damages)
def test_no_damage_of_a_folder_of_files_makes_reading_fail(
    kinds_of_events: list[str], base: int, damage: list[tuple[str, int]]
) -> None:
    with TemporaryDirectory() as name:
        folder = Path(name)
        for number, kind in enumerate(kinds_of_events, base):
            reading = read_log(name)
            body = {"b": shape_b(f"evt-b{number}"), "c": shape_c(n=number)}.get(kind)
            if body is None:
                body, _ = encode_record(
                    reading.head_seq + 1, f"evt-{number}", reading.leaf_id, "x", TS, b'{"a":1}', reading.head_chain
                )
            (folder / f"event-{number:06d}-x{number}.json").write_bytes(body + b"\n")
        assert verify_session(name)[1] == []
        for what, choice in damage:
            damage_files(folder, what, choice)
        reading = read_log(name)
        consistent(reading)
        while reading.tail is not None:
            (folder / reading.tail.file).unlink()
            reading = read_log(name)
        record, chain = encode_record(
            reading.head_seq + 1, "evt-new", reading.leaf_id, "x", TS, b"{}", reading.head_chain
        )
        (folder / f"event-{reading.next_number:06d}-evt-new.json").write_bytes(record + b"\n")
        after = read_log(name)
        assert (after.records[-1].raw, after.records[-1].seq, after.head_chain) == (record, reading.head_seq + 1, chain)
        assert [record.raw for record in after.records[:-1]] == [record.raw for record in reading.records]
        assert after.missing == reading.missing


@relaxed
@given(
    st.binary(max_size=400),
    st.sampled_from(["events.jsonl", "event-000001-x.json", "events.jsonl.zst", "summary.json"]),
)
def test_arbitrary_bytes_never_make_verification_fail(body: bytes, file: str) -> None:
    with TemporaryDirectory() as name:
        (Path(name) / file).write_bytes(body)
        verify_session(name)


@relaxed
@given(
    st.lists(st.sampled_from([*our_records(4), shape_b("evt-1"), shape_c(), b"", b"\0" * 9, b"{", b"[]"]), max_size=7)
)
def test_any_row_of_files_is_read(bodies: list[bytes]) -> None:
    with TemporaryDirectory() as name:
        for number, body in enumerate(bodies):
            (Path(name) / f"event-{number:06d}-x.json").write_bytes(body)
        reading = read_log(name)
        consistent(reading)
        verify_session(name)


# the summary


def test_a_log_shorter_than_its_summary_says_was_cut_off(tmp_path: Path) -> None:
    records = our_records(5)
    folder = write_ours(tmp_path / "s", "jsonl", records)
    with_summary(folder, read_log(str(folder)))
    assert verify_session(str(folder)) == (5, [])
    write_ours(folder, "jsonl", records[:3])
    (problem,) = verify_session(str(folder))[1]
    assert (problem.kind, problem.seq, problem.file) == ("cut_off", 4, "summary.json")
    write_ours(folder, "jsonl", [])
    assert kinds(folder) == {"cut_off"}


def test_a_log_that_went_on_since_its_summary_is_whole(tmp_path: Path) -> None:
    records = our_records(5)
    folder = write_ours(tmp_path / "s", "jsonl", records[:3])
    with_summary(folder, read_log(str(folder)))
    write_ours(folder, "jsonl", records)
    assert verify_session(str(folder)) == (5, [])


def test_another_history_of_the_same_length_is_found(tmp_path: Path) -> None:
    folder = write_ours(tmp_path / "s", "jsonl", our_records(3))
    with_summary(folder, read_log(str(folder)))
    write_ours(folder, "jsonl", chained([("user_message", {"n": n}) for n in range(3)]))
    assert kinds(folder) == {"chain"}


def test_a_malformed_summary_is_a_problem_and_a_missing_one_is_none(tmp_path: Path) -> None:
    folder = write_ours(tmp_path / "otter-1", "ids", our_records(3))
    assert verify_session(str(folder)) == (3, [])
    (folder / "summary.json").write_bytes(b"[]")
    assert kinds(folder) == {"malformed_summary"}
    (folder / "summary.json").write_bytes(b'{"run_id": "otter-1", "cost_usd": "n/a"}')
    assert kinds(folder) == {"malformed_summary"}
    (folder / "summary.json").write_bytes(b'{"run_id": "otter-1"}')
    assert kinds(folder) == set()


def test_a_folder_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        verify_session(str(tmp_path / "none"))

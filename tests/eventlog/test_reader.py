"""The one reader: every layout and shape, the chain, gaps, tails, strays, and files that are none."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest

from chimera.errors import LogGapError
from chimera.events.chain import CHAIN_START, chain_of_record, encode_record, link
from chimera.sessions.eventlog.reader import LogReading, read_log, require_whole
from tests.support.logs import TS, our_records, shape_a, shape_b, shape_c, write_ours

LOOSE_LAYOUTS = ("jsonl", "typed", "ids")


def seqs(reading: LogReading) -> list[int]:
    return [record.seq for record in reading.records]


def kinds(reading: LogReading) -> list[str]:
    return sorted({problem.kind for problem in reading.problems})


def lines_of(folder: Path, *lines: bytes, end: bytes = b"\n") -> LogReading:
    folder.mkdir(exist_ok=True)
    (folder / "events.jsonl").write_bytes(b"\n".join(lines) + end)
    return read_log(str(folder))


def files_of(folder: Path, files: dict[str, bytes]) -> LogReading:
    folder.mkdir(exist_ok=True)
    for name, body in files.items():
        (folder / name).write_bytes(body)
    return read_log(str(folder))


def writer_goes_on(reading: LogReading) -> bytes:
    """The record that our writer would append to what was read."""
    record, _ = encode_record(
        reading.head_seq + 1, "evt-next", reading.leaf_id, "user_message", TS, b"{}", reading.head_chain
    )
    return record


@pytest.mark.parametrize("layout", LOOSE_LAYOUTS)
@pytest.mark.parametrize("base", [0, 1])
def test_a_whole_log_is_read_in_every_layout(tmp_path: Path, layout: str, base: int) -> None:
    records = our_records(12)
    reading = read_log(str(write_ours(tmp_path / "s", layout, records, base)))
    assert [record.raw for record in reading.records] == [record.wire() for record in reading.records] == records
    assert seqs(reading) == list(range(1, 13))
    assert reading.layout == layout
    assert reading.problems == reading.missing == reading.strays == []
    assert reading.tail is None
    assert reading.head_seq == 12
    assert reading.head_chain == chain_of_record(reading.records[-2].chain, records[-1])
    assert reading.leaf_id == reading.records[-1].event_id == "evt-000000000000000c"
    if layout != "jsonl":
        assert (reading.base, reading.next_number) == (base, base + 12)
    require_whole(reading)


def test_events_are_decoded_as_they_were_written(tmp_path: Path) -> None:
    reading = read_log(str(write_ours(tmp_path / "s", "jsonl", our_records(2))))
    event = reading.records[1].event()
    assert (event.seq, event.id, event.parent_id) == (2, "evt-0000000000000002", "evt-0000000000000001")
    assert (event.type, event.ts) == ("tool_result", TS)
    assert event.metadata == {"content": "message 2", "list": [1, {"a": None}]}
    assert event.chain == reading.head_chain.decode()


def test_offsets_name_where_a_record_lies(tmp_path: Path) -> None:
    folder = write_ours(tmp_path / "s", "jsonl", our_records(5))
    body = (folder / "events.jsonl").read_bytes()
    for record in read_log(str(folder)).records:
        assert body[record.offset : record.offset + len(record.raw)] == record.raw


def test_an_empty_folder_has_no_events_and_no_layout(tmp_path: Path) -> None:
    reading = read_log(str(tmp_path))
    assert (reading.layout, reading.head_seq, reading.head_chain, reading.leaf_id) == (None, 0, CHAIN_START, None)
    assert (reading.base, reading.next_number, reading.records) == (1, 1, [])


def test_a_folder_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_log(str(tmp_path / "none"))


def test_other_files_in_the_folder_are_no_events(tmp_path: Path) -> None:
    folder = write_ours(tmp_path / "s", "ids", our_records(2))
    for name in ("event-x-1.json", "event-000003.json", "event-000003-a.json.new-1", "notes.json", ".lock"):
        (folder / name).write_bytes(b"x")
    reading = read_log(str(folder))
    assert (seqs(reading), reading.problems) == ([1, 2], [])


@pytest.mark.parametrize("layout", LOOSE_LAYOUTS)
def test_a_gap_is_named_and_strict_readers_refuse(tmp_path: Path, layout: str) -> None:
    folder = write_ours(tmp_path / "s", layout, our_records(9))
    if layout == "jsonl":
        lines = (folder / "events.jsonl").read_bytes().split(b"\n")
        (folder / "events.jsonl").write_bytes(b"\n".join(lines[:2] + lines[4:6] + lines[7:]))
    else:
        for number in (3, 4, 7):
            next(folder.glob(f"event-00000{number}-*")).unlink()
    reading = read_log(str(folder))
    assert reading.missing == [3, 4, 7]
    assert seqs(reading) == [1, 2, 5, 6, 8, 9]
    assert kinds(reading) == ["gap"]
    assert reading.head_seq == 9
    with pytest.raises(LogGapError, match="3, 4, 7") as caught:
        require_whole(reading)
    assert caught.value.missing == [3, 4, 7]


@pytest.mark.parametrize("layout", LOOSE_LAYOUTS)
def test_leading_events_that_are_missing_are_noticed(tmp_path: Path, layout: str) -> None:
    folder = write_ours(tmp_path / "s", layout, our_records(5)[2:], base=3)
    assert read_log(str(folder)).missing == [1, 2]


def test_a_gap_among_foreign_files_is_noticed(tmp_path: Path) -> None:
    files = {f"event-{n:06d}-user.json": shape_c(content=str(n)) for n in (1, 2, 5)}
    reading = files_of(tmp_path / "s", files)
    assert (seqs(reading), reading.missing, reading.head_seq) == ([1, 2, 5], [3, 4], 5)


def test_the_first_files_of_a_foreign_log_are_missed_by_the_numbers_inside(tmp_path: Path) -> None:
    files = {f"event-{n:06d}-0000000{n}.json": shape_a(n, f"0000000{n}") for n in (2, 3)}
    reading = files_of(tmp_path / "s", files)
    assert (reading.base, reading.missing, seqs(reading)) == (0, [1, 2], [3, 4])
    folder = tmp_path / "t"
    reading = files_of(folder, {"event-000002-user.json": shape_c(), "event-000003-user.json": shape_c()})
    assert (reading.base, reading.missing, seqs(reading)) == (1, [1], [2, 3])


def test_numbers_of_any_length_are_read_in_their_order(tmp_path: Path) -> None:
    files = {f"event-{n}-user.json": shape_c(content=str(n)) for n in range(1, 13)}
    reading = files_of(tmp_path / "s", files)
    assert [record.event().metadata["content"] for record in reading.records] == [str(n) for n in range(1, 13)]
    assert reading.missing == []


def test_two_events_of_one_number_are_both_kept(tmp_path: Path) -> None:
    files = {
        "event-000000-aaaaaaaa.json": shape_a(0, "aaaaaaaa"),
        "event-000001-cccccccc.json": shape_b("cccccccc", ts="2026-01-01T00:00:00Z"),
        "event-000001-bbbbbbbb.json": shape_b("bbbbbbbb", ts="2026-01-02T00:00:00Z"),
        "event-000002-dddddddd.json": shape_a(2, "dddddddd"),
    }
    reading = files_of(tmp_path / "s", files)
    assert [record.event_id for record in reading.records] == ["aaaaaaaa", "cccccccc", "bbbbbbbb", "dddddddd"]
    assert seqs(reading) == [1, 2, 3, 4]
    assert kinds(reading) == ["duplicate_number"]
    assert (reading.missing, reading.next_number) == ([], 3)


@pytest.mark.parametrize(
    "body",
    [b'["a", "list"]', b'{"type": "x", "metadata": {"a": "\xff"}}', b"{", b'{"type": "x"', b"\0" * 40, b"", b"7"],
)
def test_one_bad_file_never_hides_the_others(tmp_path: Path, body: bytes) -> None:
    folder = write_ours(tmp_path / "s", "typed", our_records(4))
    next(folder.glob("event-000002-*")).write_bytes(body)
    reading = read_log(str(folder))
    assert (seqs(reading), reading.missing) == ([1, 3, 4], [2])
    assert kinds(reading) == ["gap", "not_json"]


def test_a_file_that_cannot_be_opened_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_ours(tmp_path / "s", "typed", our_records(4))
    real_open = os.open

    def refuse(path: str, *arguments: int, **options: int) -> int:
        if "event-000002" in str(path):
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return real_open(path, *arguments, **options)

    monkeypatch.setattr(os, "open", refuse)
    reading = read_log(str(folder))
    assert (seqs(reading), reading.missing, kinds(reading)) == ([1, 3, 4], [2], ["gap", "unreadable"])


def test_nothing_is_followed_out_of_the_folder(tmp_path: Path) -> None:
    secret = tmp_path / "secret.json"
    secret.write_bytes(shape_c("secret"))
    folder = write_ours(tmp_path / "s", "ids", our_records(2))
    (folder / "event-000003-link.json").symlink_to(secret)
    (folder / "event-000004-folder.json").mkdir()
    os.mkfifo(folder / "event-000005-pipe.json")
    (folder / "events.jsonl").symlink_to(secret)
    reading = read_log(str(folder))
    assert (seqs(reading), reading.missing) == ([1, 2], [])
    assert [problem.kind for problem in reading.problems] == ["unreadable"] * 4
    assert reading.next_number == 6


@pytest.mark.parametrize("layout", LOOSE_LAYOUTS)
def test_a_changed_record_is_reported_and_reading_goes_on(tmp_path: Path, layout: str) -> None:
    records = our_records(6)
    records[2] = records[2].replace(b"message 3", b"massage 3")
    reading = read_log(str(write_ours(tmp_path / "s", layout, records)))
    assert seqs(reading) == [1, 2, 3, 4, 5, 6]
    assert [(problem.kind, problem.seq) for problem in reading.problems] == [("chain", 3)]
    assert reading.missing == []


@pytest.mark.parametrize("layout", LOOSE_LAYOUTS)
def test_a_changed_chain_is_reported_once(tmp_path: Path, layout: str) -> None:
    records = our_records(6)
    records[2] = records[2][:-3] + (b"0" if records[2][-3:-2] != b"0" else b"1") + records[2][-2:]
    reading = read_log(str(write_ours(tmp_path / "s", layout, records)))
    assert [(problem.kind, problem.seq) for problem in reading.problems] == [("chain", 3)]
    assert seqs(reading) == [1, 2, 3, 4, 5, 6]


def test_a_record_whose_chain_member_is_gone_is_damaged_and_no_stranger(tmp_path: Path) -> None:
    records = our_records(4)
    records[1] = records[1].replace(b',"chain":', b',"chaim":')
    reading = read_log(str(write_ours(tmp_path / "s", "jsonl", records)))
    assert [(problem.kind, problem.seq) for problem in reading.problems] == [("chain", 2)]
    assert seqs(reading) == [1, 2, 3, 4]


def test_what_is_appended_behind_a_changed_last_record_verifies_later(tmp_path: Path) -> None:
    for number, change in enumerate((b"m3", b"0"), 1):
        records = our_records(3)
        records[2] = (
            records[2].replace(b"message 3", change) if number == 1 else records[2].replace(b',"chain"', b',"chxin"')
        )
        folder = write_ours(tmp_path / str(number), "jsonl", records)
        record = writer_goes_on(read_log(str(folder)))
        reading = lines_of(folder, *records, record)
        assert [(problem.kind, problem.seq) for problem in reading.problems] == [("chain", 3)]
        assert reading.records[-1].raw == record


def test_a_damaged_number_does_not_make_a_gap(tmp_path: Path) -> None:
    for number, change in enumerate((b'{"seq":9,', b'{"seq":1,', b'{"seq":999999999999,')):
        records = our_records(6)
        records[2] = records[2].replace(b'{"seq":3,', change)
        reading = read_log(str(write_ours(tmp_path / str(number), "jsonl", records)))
        assert (seqs(reading), reading.missing) == ([1, 2, 3, 4, 5, 6], [])
        assert [(problem.kind, problem.seq) for problem in reading.problems] == [("chain", 3)]
        assert json.loads(reading.records[2].wire())["seq"] == reading.records[2].event().seq == 3


def test_a_record_that_stands_there_twice_counts_once(tmp_path: Path) -> None:
    records = our_records(5)
    reading = lines_of(tmp_path / "s", *records[:3], records[1], records[2], *records[3:], records[4])
    assert ([record.raw for record in reading.records], kinds(reading)) == (records, ["duplicate"])
    assert len(reading.problems) == 3
    assert (reading.missing, reading.strays) == ([], [])


@pytest.mark.parametrize("order", [(0, 2, 1, 3, 4), (4, 3, 2, 1, 0), (3, 4, 0, 1, 2), (1, 2, 3, 4, 0)])
def test_reordered_records_are_put_in_order_and_reported(tmp_path: Path, order: tuple[int, ...]) -> None:
    records = our_records(5)
    reading = lines_of(tmp_path / "s", *(records[index] for index in order))
    assert [record.raw for record in reading.records] == [record.wire() for record in reading.records] == records
    assert (kinds(reading), reading.missing) == (["out_of_order"], [])


def test_a_late_record_between_lost_ones_is_still_given(tmp_path: Path) -> None:
    records = our_records(7)
    reading = lines_of(tmp_path / "s", records[0], records[5], records[3], records[6])
    assert (seqs(reading), reading.missing) == ([1, 4, 6, 7], [2, 3, 5])
    assert kinds(reading) == ["gap", "out_of_order"]


# foreign events and the chain


def test_our_records_go_on_from_a_foreign_log(tmp_path: Path) -> None:
    foreign = {f"event-{n:06d}-0000000{n}.json": shape_a(n, f"0000000{n}") for n in range(3)}
    folder = tmp_path / "s"
    before = files_of(folder, foreign)
    chain = CHAIN_START
    for body in foreign.values():
        chain = link(chain, body)
    assert (before.head_seq, before.head_chain, before.next_number, before.base) == (3, chain, 3, 0)
    assert before.layout == "ids"
    after = files_of(folder, {"event-000003-evt-next.json": writer_goes_on(before) + b"\n"})
    assert (seqs(after), after.problems) == ([1, 2, 3, 4], [])
    assert after.records[3].event().parent_id == "00000002"


def test_a_strangers_event_belongs_if_the_next_of_ours_covers_it(tmp_path: Path) -> None:
    ours = our_records(2)
    stranger = shape_b("evt-foreign")
    before = lines_of(tmp_path / "s", *ours, stranger)
    assert (seqs(before), before.problems) == ([1, 2, 3], [])  # none of ours follows: it belongs
    after = lines_of(tmp_path / "s", *ours, stranger, writer_goes_on(before))
    assert (seqs(after), after.problems, after.strays) == ([1, 2, 3, 4], [], [])


@pytest.mark.parametrize("layout", LOOSE_LAYOUTS)
def test_a_strangers_event_that_is_not_covered_is_a_stray(tmp_path: Path, layout: str) -> None:
    ours = our_records(4)
    folder = write_ours(tmp_path / "s", layout, ours)
    if layout == "jsonl":
        reading = lines_of(folder, *ours[:2], shape_b("evt-foreign"), *ours[2:])
    else:
        reading = files_of(folder, {"event-000002-zzz.json": shape_b("evt-foreign")})
    assert [record.raw for record in reading.records] == ours
    assert [record.event_id for record in reading.strays] == ["evt-foreign"]
    assert (kinds(reading), reading.missing) == (["stray"], [])


def test_of_two_strangers_only_the_covered_one_belongs(tmp_path: Path) -> None:
    ours = our_records(1)
    seen = lines_of(tmp_path / "s", *ours, shape_c(n=1))
    reading = lines_of(tmp_path / "s", *ours, shape_c(n=1), shape_c(n=2), writer_goes_on(seen))
    assert (seqs(reading), [record.event().metadata for record in reading.strays]) == ([1, 2, 3], [{"n": 2}])


def test_a_lost_stranger_that_was_covered_is_seen(tmp_path: Path) -> None:
    ours = our_records(1)
    seen = lines_of(tmp_path / "s", *ours, shape_c(n=1), shape_c(n=2))
    reading = lines_of(tmp_path / "s", *ours, shape_c(n=2), writer_goes_on(seen))
    assert (kinds(reading), reading.missing, reading.head_seq) == (["gap"], [3], 4)


def test_a_second_record_of_one_number_that_links_to_nothing_is_a_stray(tmp_path: Path) -> None:
    ours = our_records(4)
    other, _ = encode_record(3, "evt-other", None, "user_message", TS, b"{}", link(CHAIN_START, b"elsewhere"))
    reading = lines_of(tmp_path / "s", *ours[:3], other, ours[3])
    assert ([record.raw for record in reading.records], kinds(reading)) == (ours, ["stray"])


def test_a_chain_that_holds_decides_over_the_number(tmp_path: Path) -> None:
    first = our_records(1)
    odd, _ = encode_record(7, "evt-odd", None, "user_message", TS, b'{"a":1}', read_chain(first[0]))
    reading = lines_of(tmp_path / "s", *first, odd)
    assert (seqs(reading), kinds(reading), reading.missing) == ([1, 2], ["out_of_order"], [])
    assert json.loads(reading.records[1].wire())["seq"] == 2


def read_chain(record: bytes) -> bytes:
    return record[-18:-2]


# broken bytes in the middle and at the end


@pytest.mark.parametrize("broken", [b"\0" * 700, b'{"seq":3,"id":"evt-00', b"garbage", b"[1]", b"\xff\xfe"])
def test_a_broken_line_is_a_missing_event_and_reading_goes_on(tmp_path: Path, broken: bytes) -> None:
    ours = our_records(5)
    reading = lines_of(tmp_path / "s", *ours[:2], broken, *ours[3:])
    assert (seqs(reading), reading.missing, kinds(reading)) == ([1, 2, 4, 5], [3], ["gap", "not_json"])


@pytest.mark.parametrize("between", [b"", b"\0" * 512, b'{"seq":3,"id":"evt-00'])
def test_records_glued_into_one_line_are_saved(tmp_path: Path, between: bytes) -> None:
    ours = our_records(5)
    rest = ours[3:] if between else ours[2:]
    reading = lines_of(tmp_path / "s", ours[0], ours[1] + between + rest[0], *rest[1:])
    assert [record.raw for record in reading.records] == [*ours[:2], *rest]
    assert reading.missing == ([3] if between else [])
    body = (tmp_path / "s" / "events.jsonl").read_bytes()
    assert all(body[record.offset :].startswith(record.raw) for record in reading.records)


def test_a_broken_line_that_nobody_misses_is_only_reported(tmp_path: Path) -> None:
    ours = our_records(4)
    reading = lines_of(tmp_path / "s", *ours[:2], b"garbage", *ours[2:])
    assert ([record.raw for record in reading.records], reading.missing) == (ours, [])
    assert kinds(reading) == ["not_json"]


def test_a_broken_line_of_a_foreign_log_is_a_missing_event(tmp_path: Path) -> None:
    reading = lines_of(tmp_path / "s", shape_c(n=1), b"garbage", shape_c(n=3))
    assert (seqs(reading), reading.missing) == ([1, 3], [2])
    record = writer_goes_on(reading)
    again = lines_of(tmp_path / "s", shape_c(n=1), b"garbage", shape_c(n=3), record)
    assert (seqs(again), again.missing, kinds(again)) == ([1, 3, 4], [2], ["gap", "not_json"])


def test_an_object_in_the_payload_of_a_torn_record_is_no_event(tmp_path: Path) -> None:
    torn = b'{"type":"tool_result","metadata":{"events":[{"type":"user_message","metadata":{}}],"x'
    reading = lines_of(tmp_path / "s", shape_c(n=1), torn, shape_c(n=2))
    assert [record.event().metadata for record in reading.records] == [{"n": 1}, {"n": 2}]


def test_blank_lines_are_nothing(tmp_path: Path) -> None:
    ours = our_records(3)
    reading = lines_of(tmp_path / "s", ours[0], b"", ours[1], b"", b"", ours[2], b"")
    assert ([record.raw for record in reading.records], reading.problems, reading.tail) == (ours, [], None)


@pytest.mark.parametrize(
    ("rest", "kind"),
    [
        (b'{"seq":4,"id":"evt-0', "unterminated"),
        (b"\0" * 300, "nul"),
        (b'{"seq":4,"id"' + b"\0" * 300, "nul"),
        (b"\0" * 512 + b'al":"x"}}\n', "garbage"),
        (b"garbage\nmore\n", "garbage"),
    ],
)
def test_a_tail_is_ignored_named_and_left_alone(tmp_path: Path, rest: bytes, kind: str) -> None:
    ours = our_records(3)
    body = b"".join(record + b"\n" for record in ours)
    reading = lines_of(tmp_path / "s", body + rest, end=b"")
    assert ([record.raw for record in reading.records], reading.missing) == (ours, [])
    assert reading.tail is not None
    assert (reading.tail.file, reading.tail.offset, reading.tail.body) == ("events.jsonl", len(body), rest)
    assert (reading.tail.kind, reading.tail.belongs) == (kind, False)
    assert kinds(reading) == ["nul_tail" if kind == "nul" else "torn_tail"]
    assert (tmp_path / "s" / "events.jsonl").read_bytes() == body + rest


def test_a_whole_last_record_without_its_newline_belongs(tmp_path: Path) -> None:
    ours = our_records(4)
    reading = lines_of(tmp_path / "s", *ours, end=b"")
    assert seqs(reading) == [1, 2, 3]
    assert reading.tail is not None
    assert (reading.tail.body, reading.tail.belongs, reading.tail.kind) == (ours[3], True, "unterminated")
    alien = our_records(1, first=4, chain=link(CHAIN_START, b"elsewhere"))
    reading = lines_of(tmp_path / "s", *ours[:3], *alien, end=b"")
    assert reading.tail is not None
    assert not reading.tail.belongs
    reading = lines_of(tmp_path / "s", *ours[:3], shape_c(), end=b"")
    assert reading.tail is not None
    assert reading.tail.belongs


@pytest.mark.parametrize("layout", ["typed", "ids"])
@pytest.mark.parametrize(("body", "kind"), [(b"", "unterminated"), (b"\0" * 99, "nul"), (b'{"seq":5', "unterminated")])
def test_a_torn_last_file_is_a_tail_and_no_gap(tmp_path: Path, layout: str, body: bytes, kind: str) -> None:
    folder = write_ours(tmp_path / "s", layout, our_records(5))
    last = next(folder.glob("event-000005-*"))
    last.write_bytes(body)
    reading = read_log(str(folder))
    assert (seqs(reading), reading.missing, reading.next_number) == ([1, 2, 3, 4], [], 5)
    assert reading.tail is not None
    assert (reading.tail.file, reading.tail.offset, reading.tail.kind) == (last.name, 0, kind)
    assert last.read_bytes() == body


def test_torn_files_at_the_end_become_the_tail_one_after_the_other(tmp_path: Path) -> None:
    folder = write_ours(tmp_path / "s", "ids", our_records(5))
    for number in (4, 5):
        next(folder.glob(f"event-00000{number}-*")).write_bytes(b"")
    for _ in range(2):
        reading = read_log(str(folder))
        assert (reading.missing, reading.next_number) == ([], 4)
        assert reading.tail is not None
        (folder / reading.tail.file).unlink()
    assert read_log(str(folder)).tail is None


def test_a_file_that_goes_away_while_it_is_read_means_another_listing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_ours(tmp_path / "s", "ids", our_records(3))
    real_open = os.open
    gone = []

    def open_and_lose(path: str, *arguments: int, **options: int) -> int:
        if "event-000002" in str(path) and not gone:
            gone.append(path)
            os.unlink(path)
        return real_open(path, *arguments, **options)

    monkeypatch.setattr(os, "open", open_and_lose)
    reading = read_log(str(folder))
    assert (seqs(reading), reading.missing) == ([1, 3], [2])


def test_a_stranger_beside_events_jsonl_is_read_too(tmp_path: Path) -> None:
    folder = write_ours(tmp_path / "s", "jsonl", our_records(3))
    reading = files_of(folder, {"event-000000-0badcafe.json": shape_a(0, "0badcafe")})
    assert (seqs(reading), reading.layout, reading.problems) == ([1, 2, 3, 4], "jsonl", [])
    assert reading.records[3].event_id == "0badcafe"

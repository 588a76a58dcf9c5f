"""Packing and unpacking: the same names and bytes again, and a whole log at every moment between."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path

import pytest

from chimera import durable
from chimera.errors import LogGapError, NotPermitted
from chimera.sessions.eventlog.layouts.packed import PACKED_FILE, unpack
from chimera.sessions.eventlog.packing import pack_session, unpack_session
from chimera.sessions.eventlog.reader import read_log
from chimera.sessions.eventlog.verify import verify_session
from tests.support.logs import our_records, shape_a, shape_b, write_ours

LAYOUTS = ("jsonl", "typed", "ids")


def files_in(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("base", [0, 1])
def test_a_log_comes_back_with_the_same_names_and_bytes(tmp_path: Path, layout: str, base: int) -> None:
    records = our_records(40)
    folder = write_ours(tmp_path / "s", layout, records, base)
    before = files_in(folder)
    packed = pack_session(str(folder))
    assert list(files_in(folder)) == [PACKED_FILE]
    assert packed.events == 40
    assert packed.bytes_before == sum(map(len, before.values()))
    assert packed.bytes_after == (folder / PACKED_FILE).stat().st_size < packed.bytes_before
    reading = read_log(str(folder))
    assert [record.wire() for record in reading.records] == records
    assert (reading.packed_count, reading.layout, reading.problems) == (40, layout, [])
    assert verify_session(str(folder)) == (40, [])
    unpack_session(str(folder))
    assert files_in(folder) == before


@pytest.mark.parametrize("layout", LAYOUTS)
def test_loose_events_go_on_behind_packed_ones(tmp_path: Path, layout: str) -> None:
    records = our_records(30)
    folder = write_ours(tmp_path / "s", layout, records[:20])
    pack_session(str(folder))
    first = read_log(str(folder))
    assert first.next_number == 21
    write_ours(folder, layout, records[20:], base=first.next_number)
    for _ in range(2):
        reading = read_log(str(folder))
        assert [record.raw for record in reading.records] == records
        assert (reading.problems, reading.head_seq) == ([], 30)
        if layout != "jsonl":
            assert reading.next_number == 31
        pack_session(str(folder))
        assert list(files_in(folder)) == [PACKED_FILE]
    unpack_session(str(folder))
    assert files_in(folder) == files_in(write_ours(tmp_path / "t", layout, records))


def test_the_file_is_an_ordinary_zstd_file_of_lines(tmp_path: Path) -> None:
    folder = write_ours(tmp_path / "s", "jsonl", our_records(2000))
    body = (folder / "events.jsonl").read_bytes()
    pack_session(str(folder))
    found = unpack((folder / PACKED_FILE).read_bytes())
    assert b"".join(part or b"" for part in found.parts) == body
    assert len(found.parts) > 2
    assert all(part is not None and part.endswith(b"\n") and len(part) >= 1 << 16 for part in found.parts[:-1])


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("way", ["pack", "unpack"])
def test_the_log_is_whole_after_a_stop_at_any_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, layout: str, way: str
) -> None:
    records = our_records(6)
    for step in range(40):
        folder = write_ours(tmp_path / f"{way}-{step}", layout, records)
        if way == "unpack":
            pack_session(str(folder))
        left = [step]

        def stop(operation: str, left: list[int] = left) -> None:
            left[0] -= 1
            if left[0] < 0:
                raise InterruptedError(operation)

        stopped = False
        with monkeypatch.context() as patch:
            for module, names in ((os, ("rename", "unlink", "fsync", "fdatasync")), (durable, ("write_all",))):
                for name in names:
                    real = getattr(module, name)
                    patch.setattr(
                        module, name, lambda *a, real=real, stop=stop, name=name, **k: (stop(name), real(*a, **k))[1]
                    )
            try:
                (pack_session if way == "pack" else unpack_session)(str(folder))
            except InterruptedError:
                stopped = True
        reading = read_log(str(folder))
        assert [record.raw for record in reading.records] == records
        assert (reading.missing, {problem.kind for problem in reading.problems} - {"leftover"}) == ([], set())
        (pack_session if way == "pack" else unpack_session)(str(folder)) if stopped and _undone(folder, way) else None
        assert [record.raw for record in read_log(str(folder)).records] == records
        if not stopped:
            break
    else:
        pytest.fail("never came to an end")
    assert step > 3


def _undone(folder: Path, way: str) -> bool:
    return way == "pack" or (folder / PACKED_FILE).exists()


def test_a_stranger_who_begins_at_zero_again_comes_behind_the_packed_events(tmp_path: Path) -> None:
    folder = write_ours(tmp_path / "s", "ids", our_records(5), base=0)
    pack_session(str(folder))
    (folder / "event-000000-0badcafe.json").write_bytes(shape_a(0, "0badcafe"))
    reading = read_log(str(folder))
    assert [record.event_id for record in reading.records][5:] == ["0badcafe"]
    assert reading.missing == []


@pytest.mark.parametrize("damage", ["flip", "cut", "zero"])
def test_damage_of_a_packed_file_is_always_found_and_never_raises(tmp_path: Path, damage: str) -> None:
    folder = write_ours(tmp_path / "s", "jsonl", our_records(1500))
    pack_session(str(folder))
    path = folder / PACKED_FILE
    whole = path.read_bytes()
    chance = random.Random(damage)
    for _ in range(40):
        at = chance.randrange(len(whole))
        body = bytearray(whole)
        if damage == "flip":
            body[at] ^= 1 << chance.randrange(8)
        elif damage == "cut":
            del body[at:]
        else:
            body[at : at + 512] = bytes(len(body[at : at + 512]))
            if body == whole:
                continue
        path.write_bytes(body)
        reading = read_log(str(folder))
        assert reading.problems
        given = [record.seq for record in reading.records]
        assert sorted(given + reading.missing) == list(range(1, reading.head_seq + 1))
        if damage == "flip":
            assert len(given) >= 700  # a frame is lost, not the rest


def test_what_would_not_come_back_the_same_is_not_packed(tmp_path: Path) -> None:
    cases = {
        "indented": {f"event-{n:06d}-0000000{n}.json": shape_a(n, f"0000000{n}") for n in range(3)},
        "no newline": {"event-000001-evt-1.json": shape_b("evt-1")},
        "crumbs": {"events.jsonl": shape_b("evt-1") + b"\n\n" + shape_b("evt-2") + b"\n"},
        "number": {"event-1-evt-1.json": shape_b("evt-1") + b"\n"},
    }
    for name, files in cases.items():
        folder = tmp_path / name
        folder.mkdir()
        for file, body in files.items():
            (folder / file).write_bytes(body)
        with pytest.raises(NotPermitted, match="same file names and bytes"):
            pack_session(str(folder))
        assert files_in(folder) == files


def test_foreign_lines_are_packed_too(tmp_path: Path) -> None:
    body = shape_b("evt-1") + b"\n" + json.dumps(json.loads(shape_a(0, "0badcafe"))).encode() + b"\n"
    folder = tmp_path / "s"
    folder.mkdir()
    (folder / "events.jsonl").write_bytes(body)
    pack_session(str(folder))
    unpack_session(str(folder))
    assert files_in(folder) == {"events.jsonl": body}


def test_a_damaged_empty_or_loose_log_is_left_alone(tmp_path: Path) -> None:
    with pytest.raises(NotPermitted, match="no events"):
        pack_session(str(tmp_path))
    folder = write_ours(tmp_path / "gap", "ids", our_records(5))
    with pytest.raises(NotPermitted, match="not packed"):
        unpack_session(str(folder))
    next(folder.glob("event-000003-*")).unlink()
    with pytest.raises(LogGapError):
        pack_session(str(folder))
    torn = write_ours(tmp_path / "torn", "jsonl", our_records(3))
    with (torn / "events.jsonl").open("ab") as file:
        file.write(b"{")
    before = files_in(torn)
    with pytest.raises(NotPermitted):
        pack_session(str(torn))
    assert files_in(torn) == before

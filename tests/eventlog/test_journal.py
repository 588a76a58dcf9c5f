"""The journal's segments and frames: what is read back, where reading ends, and what is damage (store rule 4)."""

from __future__ import annotations

import asyncio
import struct
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from chimera.events.chain import CHAIN_START
from chimera.sessions.eventlog.journal import (
    FRAME_ROOM,
    SECTOR,
    SEGMENT_BYTES,
    Entry,
    SegmentWriter,
    list_segments,
    read_journal,
    write_resting_segment,
)
from chimerad.store.segments import SegmentFeed
from tests.support.journals import forged_frame, frame_places, overwrite, write_segment


def entry(number: int, body: bytes | None = None) -> Entry:
    return Entry("mink-a", "events.jsonl", number * 10, number, b"%016x" % number, body or b"event %d\n" % number)


def numbers(folder: Path) -> list[int]:
    """The seq of the first entry of each frame that is read."""
    return [frame.entries[0].seq for frame in read_journal(str(folder)).frames]


def test_frames_come_back_as_they_were_written(tmp_path: Path) -> None:
    frames = [
        [entry(1), Entry("otter-ä", "event-000001-x.json", 0, 1, CHAIN_START, b"")],
        [entry(2, b"x" * 2000)],
        [entry(3, b"y" * (SECTOR - 40))],
    ]
    write_segment(tmp_path, frames, first_lsn=7, flushed_lsn=6)
    reading = read_journal(str(tmp_path))
    assert [frame.entries for frame in reading.frames] == frames
    assert [(frame.lsn, frame.synced_lsn) for frame in reading.frames] == [(7, 6), (8, 7), (9, 8)]
    assert (reading.flushed_lsn, reading.next_lsn, reading.next_number, reading.damaged) == (6, 10, 2, [])


def test_a_segment_is_zero_filled_and_its_frames_begin_at_sectors(tmp_path: Path) -> None:
    path = write_segment(tmp_path, [[entry(1, b"x" * 700)], [entry(2)]])
    body = path.read_bytes()
    assert len(body) == SEGMENT_BYTES
    assert body[:4] == b"CHJS"
    assert frame_places(path) == [SECTOR, 3 * SECTOR]
    assert not any(body[4 * SECTOR :])


def test_the_largest_frame_fills_a_segment(tmp_path: Path) -> None:
    overhead = len("mink-a") + len("events.jsonl") + 44
    body = bytes(1) * (FRAME_ROOM - overhead)
    path = write_segment(tmp_path, [[entry(1, body)]])
    assert path.stat().st_size == SEGMENT_BYTES
    assert read_journal(str(tmp_path)).frames[0].entries[0].body == body


def test_a_folder_that_is_not_there_holds_nothing(tmp_path: Path) -> None:
    reading = read_journal(str(tmp_path / "nowhere"))
    assert (reading.frames, reading.segments, reading.next_lsn, reading.next_number) == ([], [], 1, 1)


def test_only_segments_are_read(tmp_path: Path) -> None:
    write_segment(tmp_path, [[entry(1)]])
    (tmp_path / "segment-1").write_bytes(b"x")
    (tmp_path / "segment-0000000009.new").write_bytes(b"x")
    assert [number for number, _ in list_segments(str(tmp_path))] == [1]
    assert numbers(tmp_path) == [1]


@pytest.mark.parametrize("sector", range(4))
def test_reading_ends_at_a_frame_that_is_torn(tmp_path: Path, sector: int) -> None:
    path = write_segment(tmp_path, [[entry(1)], [entry(2, bytes(range(1, 256)) * 8)]])
    last = frame_places(path)[1]
    overwrite(path, last + sector * SECTOR, bytes(SECTOR))
    reading = read_journal(str(tmp_path))
    assert [frame.lsn for frame in reading.frames] == [1]
    assert reading.damaged == []


def test_what_follows_an_unsynced_torn_frame_was_never_acknowledged(tmp_path: Path) -> None:
    """Frame 3 arrived whole and 2 did not; nobody had been told of either. Their numbers are not used again."""
    tmp_path.mkdir(exist_ok=True)
    segment = SegmentWriter(str(tmp_path), 1).prepare()
    segment.begin(1, 0)
    for lsn, synced in ((1, 0), (2, 1), (3, 1)):
        segment.write([entry(lsn)], lsn, synced, 0)
    segment.close()
    path = Path(segment.path)
    overwrite(path, frame_places(path)[1] + 50, b"\0" * 8)
    reading = read_journal(str(tmp_path))
    assert [frame.lsn for frame in reading.frames] == [1]
    assert (reading.damaged, reading.next_lsn) == ([], 4)


def test_a_bad_frame_below_a_synced_lsn_is_damage_and_reading_goes_on(tmp_path: Path) -> None:
    path = write_segment(tmp_path, [[entry(number)] for number in range(1, 6)])
    for place in frame_places(path)[1:3]:
        overwrite(path, place + 60, b"?")
    reading = read_journal(str(tmp_path))
    assert [frame.lsn for frame in reading.frames] == [1, 4, 5]
    [sentence] = reading.damaged
    assert "2 to 3" in sentence


def test_damage_at_the_end_of_what_was_synced_is_reported(tmp_path: Path) -> None:
    """Frame 3 says that 2 was synced; 3 itself may be torn, 2 may not."""
    path = write_segment(tmp_path, [[entry(1)], [entry(2)]])
    write_segment(tmp_path, [[entry(3)]], number=2, first_lsn=3)
    overwrite(path, frame_places(path)[1] + 60, b"?")
    reading = read_journal(str(tmp_path))
    assert [frame.lsn for frame in reading.frames] == [1, 3]
    assert len(reading.damaged) == 1


def test_a_payload_that_looks_like_a_frame_is_none(tmp_path: Path) -> None:
    """It even lies on a sector, behind a frame that is torn, where the search goes on sector by sector."""
    lead = SECTOR - 40 - len("mink-a") - len("events.jsonl") - 44
    path = write_segment(tmp_path, [[entry(1)], [entry(2, b"x" * lead + forged_frame(2) + forged_frame(3))]])
    places = frame_places(path)
    assert len(places) == 4
    overwrite(path, places[1] + 60, b"?")
    reading = read_journal(str(tmp_path))
    assert [frame.lsn for frame in reading.frames] == [1]
    assert reading.damaged == []


def test_frames_go_on_over_several_segments(tmp_path: Path) -> None:
    write_segment(tmp_path, [[entry(1)], [entry(2)]])
    write_segment(tmp_path, [[entry(3)]], number=2, first_lsn=3)
    write_segment(tmp_path, [[entry(4)]], number=12, first_lsn=4)
    assert numbers(tmp_path) == [1, 2, 3, 4]
    assert read_journal(str(tmp_path)).next_number == 13


def test_reading_begins_above_the_highest_flushed_lsn(tmp_path: Path) -> None:
    write_segment(tmp_path, [[entry(1)], [entry(2)], [entry(3)]])
    write_segment(tmp_path, [[entry(4)]], number=2, first_lsn=4, flushed_lsn=2)
    assert numbers(tmp_path) == [3, 4]
    write_resting_segment(str(tmp_path), 3, 5)
    reading = read_journal(str(tmp_path))
    assert (reading.frames, reading.flushed_lsn, reading.next_lsn, reading.next_number) == ([], 4, 5, 4)


def test_segments_that_have_gone_were_flushed(tmp_path: Path) -> None:
    """The oldest go first, before a frame has said how far the flush came: that is no damage."""
    write_resting_segment(str(tmp_path), 1, 1)
    write_segment(tmp_path, [[entry(7)], [entry(8)]], number=4, first_lsn=7, flushed_lsn=2)
    reading = read_journal(str(tmp_path))
    assert ([frame.lsn for frame in reading.frames], reading.damaged, reading.flushed_lsn) == ([7, 8], [], 6)
    write_segment(tmp_path, [[entry(3)]], number=3, first_lsn=3)
    reading = read_journal(str(tmp_path))
    assert [frame.lsn for frame in reading.frames] == [3, 7, 8]
    assert len(reading.damaged) == 1


def test_a_first_segment_whose_header_is_gone_has_not_been_flushed(tmp_path: Path) -> None:
    path = write_segment(tmp_path, [[entry(1)], [entry(2)]])
    write_segment(tmp_path, [[entry(3)]], number=2, first_lsn=3)
    overwrite(path, 0, bytes(SECTOR))
    reading = read_journal(str(tmp_path))
    assert [frame.lsn for frame in reading.frames] == [3]
    [sentence] = reading.damaged
    assert "1 to 2" in sentence


def test_a_segment_that_was_never_begun_is_no_damage(tmp_path: Path) -> None:
    write_segment(tmp_path, [[entry(1)]])
    SegmentWriter(str(tmp_path), 2).prepare().close()
    reading = read_journal(str(tmp_path))
    assert (numbers(tmp_path), reading.damaged, reading.next_number) == ([1], [], 3)


@pytest.mark.parametrize(("offset", "body"), [(20, b"\xff"), (8, struct.pack("<I", 2)), (0, b"CHJX")])
def test_a_segment_whose_header_cannot_be_read_is_reported(tmp_path: Path, offset: int, body: bytes) -> None:
    """Damaged, or of a format to come: what is in it was acknowledged, so it is not passed over in silence."""
    path = write_segment(tmp_path, [[entry(1)]])
    overwrite(path, offset, body)
    reading = read_journal(str(tmp_path))
    assert reading.frames == []
    [sentence] = reading.damaged
    assert path.name in sentence


def test_a_segment_number_is_never_used_twice(tmp_path: Path) -> None:
    segment = SegmentWriter(str(tmp_path), 5).prepare()
    segment.close()
    with pytest.raises(FileExistsError):
        SegmentWriter(str(tmp_path), 5).prepare()


def test_one_segment_is_synced_before_the_next_is_used(tmp_path: Path) -> None:
    async def run() -> None:
        ready = asyncio.Event()
        with ThreadPoolExecutor(1) as threads:
            feed = SegmentFeed(str(tmp_path / "journal"), 1, 1, threads, ready.set)

            async def until_room(size: int) -> None:
                while not feed.has_room(size):
                    ready.clear()
                    await ready.wait()

            await until_room(100)
            feed.write([entry(1)])
            feed.synced_lsn = feed.sync()
            feed.write([entry(2)])
            while feed._spare is None:  # what stands between us and the next is the sync alone
                ready.clear()
                await ready.wait()
            assert not feed.has_room(FRAME_ROOM)
            feed.synced_lsn = feed.sync()
            await until_room(FRAME_ROOM)
            feed.write([entry(3)])
            feed.synced_lsn = feed.sync()
            assert [frame.lsn for frame in read_journal(feed.folder).frames] == [1, 2, 3]
            await feed.flushed(2)
            names = [number for number, _ in list_segments(feed.folder)]
            assert 1 not in names
            assert 2 in names
            await feed.rest()
        [(number, path)] = list_segments(feed.folder)
        assert number > max(names)
        assert Path(path).stat().st_size == SECTOR
        reading = read_journal(feed.folder)
        assert (reading.frames, reading.next_lsn) == ([], 4)

    asyncio.run(run())

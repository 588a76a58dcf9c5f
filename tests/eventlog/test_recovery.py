"""Recovery: what the journal holds comes into the session files, and nothing of anybody's is lost (store rule 5)."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import stat
from pathlib import Path
from typing import Any

import pytest

from chimera.errors import Locked
from chimera.events.chain import encode_record, stated_chain
from chimera.sessions.eventlog.journal import Entry, barrier, read_journal
from chimera.sessions.eventlog.log import EventLog
from chimera.sessions.eventlog.packing import pack_session
from chimera.sessions.eventlog.recovery import Recovered, recover_root
from chimera.sessions.eventlog.verify import verify_session
from tests.support.journals import entries_of, frame_places, overwrite, write_segment
from tests.support.logs import TS, our_records, shape_c, write_ours
from tests.support.store import lost_events

NAMES = {
    "jsonl": "mink-20260102T030405-00c0ffee",
    "ids": "otter-20260102T030405-00c0ffee",
    "typed": "stoat-20260102T030405-00c0ffee",
}
GENERATION = "0123456789abcdef"


class Session:
    """Six records, of which the files hold the first ``kept`` and the journal the last four."""

    def __init__(self, root: Path, layout: str, kept: int = 2) -> None:
        self.root, self.layout, self.name = root, layout, NAMES[layout]
        self.records = our_records(6)
        self.folder = write_ours(root / self.name, layout, self.records[:kept])
        (self.folder / "summary.json").write_text(json.dumps({"model": "m", "generation": GENERATION}))
        self.entries = entries_of(self.name, layout, self.records, 2)
        write_segment(root / ".journal", [self.entries[:1], self.entries[1:3], self.entries[3:]])

    def place_of(self, index: int) -> tuple[Path, int]:
        """The file of a record, and where in it the record begins."""
        entry = self.entries[index - 2]
        return self.folder / entry.file, entry.offset

    @property
    def generation(self) -> str:
        return str(json.loads((self.folder / "summary.json").read_text())["generation"])

    def contents(self) -> list[str]:
        return [str(event.metadata.get("content")) for event in EventLog(self.folder).get_since(0)]

    def assert_whole(self) -> None:
        """As if the daemon had never died."""
        assert self.contents() == [f"message {seq}" for seq in range(1, 7)]
        assert verify_session(str(self.folder)) == (6, [])
        assert self.generation == GENERATION


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "eventlog"


@pytest.fixture(params=["jsonl", "ids", "typed"])
def layout(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def files_of(root: Path) -> dict[str, bytes]:
    """Everything but locks and the journal."""
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file() and ".journal" not in path.parts and path.name != ".lock"
    }


def recover_twice(root: Path) -> Recovered:
    """Recover, then again with the same journal, as after a power cut before it was emptied: nothing may change."""
    kept = root.parent / "kept-journal"
    shutil.copytree(root / ".journal", kept)
    recovered = recover_root(str(root))
    after = files_of(root)
    resting = read_journal(str(root / ".journal"))
    assert (resting.frames, resting.next_lsn) == ([], recovered.next_lsn)
    assert [os.path.getsize(path) for path in resting.segments] == [512]
    shutil.rmtree(root / ".journal")
    kept.rename(root / ".journal")
    again = recover_root(str(root))
    assert files_of(root) == after
    assert again.renumbered == []
    return recovered


def test_what_never_reached_the_files_comes_there(root: Path, layout: str) -> None:
    session = Session(root, layout)
    recovered = recover_twice(root)
    session.assert_whole()
    assert (recovered.sessions, recovered.renumbered, recovered.lost) == ([session.name], [], {})
    assert recovered.next_lsn == 4


def test_a_session_of_which_nothing_was_flushed_comes_back(root: Path, layout: str) -> None:
    session = Session(root, layout, kept=0)
    shutil.rmtree(root / ".journal")
    write_segment(root / ".journal", [entries_of(session.name, layout, session.records)])
    recover_twice(root)
    session.assert_whole()


@pytest.mark.parametrize("arrived", [1, 37, 100, 512])
@pytest.mark.parametrize("filler", [b"", b"\0" * 3000])
@pytest.mark.parametrize("whole", [0, 1, 3])
def test_torn_and_zero_filled_files_are_made_whole(
    root: Path, layout: str, whole: int, arrived: int, filler: bytes
) -> None:
    session = Session(root, layout, kept=2 + whole)
    file, offset = session.place_of(2 + whole)
    record = session.records[2 + whole] + b"\n"
    with file.open("r+b" if file.exists() else "w+b") as torn:
        torn.seek(offset)
        torn.write((record[:arrived] + filler)[: sum(len(entry.body) for entry in session.entries[whole:])])
    recover_twice(root)
    session.assert_whole()
    assert not (session.folder / "quarantine").exists()


def test_a_whole_file_is_written_again_and_synced(root: Path, layout: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the file shows may be the page cache's word alone."""
    session = Session(root, layout, kept=6)
    written: dict[str, bytes] = {}
    synced: list[str] = []
    real_pwrite, real_fdatasync = os.pwrite, os.fdatasync

    def pwrite(descriptor: int, body: bytes, offset: int) -> int:
        path = os.readlink(f"/proc/self/fd/{descriptor}")
        written[path] = written.get(path, b"") + bytes(body)
        return real_pwrite(descriptor, body, offset)

    def fdatasync(descriptor: int) -> None:
        synced.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        real_fdatasync(descriptor)

    monkeypatch.setattr(os, "pwrite", pwrite)
    monkeypatch.setattr(os, "fdatasync", fdatasync)
    recover_root(str(root))
    files = {str(session.folder / entry.file) for entry in session.entries}
    assert b"".join(written[path] for path in sorted(files)) == b"".join(entry.body for entry in session.entries)
    assert files <= set(synced)
    session.assert_whole()


def test_other_events_in_our_place_stay_and_ours_follow(root: Path, layout: str) -> None:
    """Somebody appended while the daemon was dead: under one name more than ours, or just behind what was flushed."""
    session = Session(root, layout)
    foreign = shape_c(content="foreign")
    if layout == "jsonl":
        with (session.folder / "events.jsonl").open("ab") as file:
            file.write(foreign + b"\n")
    else:
        (session.folder / "event-000003-stranger.json").write_bytes(foreign)
    recovered = recover_twice(root)
    assert recovered.renumbered == [session.name]
    assert session.contents() == ["message 1", "message 2", "foreign", *(f"message {n}" for n in range(3, 7))]
    assert verify_session(str(session.folder)) == (7, [])
    assert session.generation != GENERATION
    events = EventLog(session.folder).get_since(3)
    assert [event.id for event in events] == [f"evt-{seq:016x}" for seq in range(3, 7)]
    assert [event.parent_id for event in events] == [f"evt-{seq:016x}" for seq in range(2, 6)]


def test_a_stranger_who_comes_in_the_middle_parts_ours(root: Path, layout: str) -> None:
    """Two of ours are there, then somebody else's: the first two keep their numbers."""
    session = Session(root, layout, kept=4)
    foreign = shape_c(content="foreign")
    if layout == "jsonl":
        with (session.folder / "events.jsonl").open("ab") as file:
            file.write(foreign + b"\n")
    else:
        (session.folder / "event-000005-stranger.json").write_bytes(foreign)
    recover_twice(root)
    assert session.contents() == [*(f"message {n}" for n in range(1, 5)), "foreign", "message 5", "message 6"]
    assert verify_session(str(session.folder)) == (7, [])


def test_an_event_that_is_elsewhere_in_the_log_is_done(root: Path, layout: str) -> None:
    """Its client has sent it again, through another writer: the same id and content under another time."""
    session = Session(root, layout)
    chain = stated_chain(session.records[1])
    assert chain is not None
    others = []
    for seq, record in enumerate(session.records[2:], 3):
        event = json.loads(record)
        metadata = json.dumps(event["metadata"], indent=1).replace("\n", " ").encode()
        other, chain = encode_record(seq, event["id"], None, event["type"], "2026-05-01T00:00:00Z", metadata, chain)
        others.append(other)
    write_ours(session.folder, layout, [*session.records[:2], *others])
    before = files_of(root)
    recovered = recover_twice(root)
    assert (recovered.renumbered, recovered.lost) == ([], {})
    assert files_of(root) == before
    session.contents()


@pytest.mark.parametrize("theirs", [{"content": "other"}, {"content": 1}])
def test_an_id_that_others_took_for_something_else_goes_to_lost(
    root: Path, layout: str, theirs: dict[str, Any]
) -> None:
    """True is not 1, though Python has it so."""
    session = Session(root, layout)
    shutil.rmtree(root / ".journal")
    chain = stated_chain(session.records[1])
    assert chain is not None
    ours, _ = encode_record(3, "evt-x", None, "user_message", TS, b'{"content":true}', chain)
    write_segment(root / ".journal", [entries_of(session.name, layout, [*session.records[:2], ours], 2)])
    other, _ = encode_record(3, "evt-x", None, "user_message", TS, json.dumps(theirs).encode(), chain)
    write_ours(session.folder, layout, [*session.records[:2], other])
    recovered = recover_twice(root)
    assert list(recovered.lost) == [session.name]
    assert [event["metadata"] for event in lost_events(root, session.name)] == [{"content": True}]
    assert session.contents()[2:] == [str(theirs["content"])]


def test_a_removed_session_goes_to_lost_and_its_folder_is_not_made(root: Path, layout: str) -> None:
    session = Session(root, layout)
    shutil.rmtree(session.folder)
    recovered = recover_twice(root)
    assert list(recovered.lost) == [session.name]
    assert [event["seq"] for event in lost_events(root, session.name)] == [3, 4, 5, 6]
    assert not session.folder.exists()


def test_without_the_event_before_them_they_go_to_lost(root: Path, layout: str) -> None:
    session = Session(root, layout)
    if layout == "jsonl":
        (session.folder / "events.jsonl").write_bytes(session.records[0] + b"\n")
    else:
        next(session.folder.glob("event-000002-*")).unlink()
    before = files_of(session.folder)
    recovered = recover_twice(root)
    assert list(recovered.lost) == [session.name]
    assert [event["seq"] for event in lost_events(root, session.name)] == [3, 4, 5, 6]
    assert files_of(session.folder) == before


def test_a_chain_that_is_another_goes_to_lost(root: Path, layout: str) -> None:
    """Another session stands under this name, long enough to have our places."""
    session = Session(root, layout)
    others = our_records(2, chain=b"f" * 16)
    write_ours(session.folder, layout, [record.replace(b"message", b"MESSAGE") for record in others])
    before = files_of(session.folder)
    recovered = recover_twice(root)
    assert list(recovered.lost) == [session.name]
    assert len(lost_events(root, session.name)) == 4
    assert files_of(session.folder) == before


def test_what_lost_keeps_is_kept_once_and_behind_a_torn_line(root: Path) -> None:
    session = Session(root, "jsonl")
    shutil.rmtree(session.folder)
    lost = root / ".lost" / f"{session.name}.jsonl"
    lost.parent.mkdir()
    lost.write_bytes(session.records[2] + b"\n" + session.records[3][:50])
    recover_root(str(root))
    whole = [line for line in lost.read_bytes().split(b"\n") if line.endswith(b"}")]
    assert whole == session.records[2:]


def test_strange_bytes_in_our_place_are_set_aside(root: Path, layout: str) -> None:
    """Neither ours nor zeros nor an event: what it was meant to be, a person has to say."""
    session = Session(root, layout)
    file, offset = session.place_of(2)
    with file.open("r+b" if file.exists() else "w+b") as strange:
        strange.seek(offset)
        strange.write(b"no event, but somebody's")
    recover_twice(root)
    session.assert_whole()
    [aside] = (session.folder / "quarantine").iterdir()
    assert aside.read_bytes() == b"no event, but somebody's"


def test_what_is_no_file_in_our_place_is_left(root: Path, layout: str) -> None:
    session = Session(root, layout)
    shutil.rmtree(root / ".journal")
    other = Session(root, "typed" if layout != "typed" else "ids")
    shutil.rmtree(root / ".journal")
    write_segment(root / ".journal", [session.entries, other.entries])
    if layout == "jsonl":
        (session.folder / "events.jsonl").unlink()
        (session.folder / "events.jsonl").mkdir()
        recovered = recover_root(str(root))
        assert [event["seq"] for event in lost_events(root, session.name)] == [3, 4, 5, 6]
        assert list(recovered.lost) == [session.name]
    else:
        session.place_of(2)[0].mkdir()
        session.place_of(3)[0].symlink_to("/dev/null")
        recover_root(str(root))
        assert session.contents() == [f"message {n}" for n in range(1, 7)]
        assert stat.S_ISLNK(os.lstat(session.place_of(3)[0]).st_mode)
    other.assert_whole()


def test_behind_packed_events_the_loose_ones_come_into_their_place(root: Path) -> None:
    """The file of the loose events begins at byte 0 with a number above 1."""
    session = Session(root, "jsonl")
    shutil.rmtree(root / ".journal")
    pack_session(str(session.folder))
    assert not (session.folder / "events.jsonl").exists()
    start = -sum(len(record) + 1 for record in session.records[:2])
    write_segment(root / ".journal", [entries_of(session.name, "jsonl", session.records, 2, start=start)])
    recovered = recover_twice(root)
    session.assert_whole()
    assert recovered.renumbered == []


def test_a_barrier_forgets_what_came_before_it(root: Path, layout: str) -> None:
    """All before it was flushed; then the session was deleted, and another of its name has begun."""
    session = Session(root, layout, kept=0)
    shutil.rmtree(root / ".journal")
    new = our_records(1, chain=b"0" * 16)
    frames: list[list[Entry]] = [session.entries, [barrier(session.name)]]
    write_segment(root / ".journal", [*frames, entries_of(session.name, layout, new)])
    recovered = recover_twice(root)
    assert recovered.lost == {}
    assert session.contents() == ["message 1"]


def test_a_damaged_journal_is_kept_and_the_rest_recovered(root: Path, layout: str) -> None:
    session = Session(root, layout, kept=5)
    segment = root / ".journal" / "segment-0000000001"
    overwrite(segment, frame_places(segment)[0] + 60, b"?")
    kept = segment.read_bytes()
    recovered = recover_root(str(root))
    assert len(recovered.damaged) == 1
    session.assert_whole()
    [aside] = (root / ".lost").glob("journal-*")
    assert (aside / segment.name).read_bytes() == kept


def test_many_entries_of_one_session_are_recovered_together(root: Path) -> None:
    """Each byte is looked at once: with every entry looking at all behind it this would not end."""
    name = NAMES["jsonl"]
    records = our_records(20_000)
    folder = write_ours(root / name, "jsonl", records[:1])
    entries = entries_of(name, "jsonl", records, 1)
    write_segment(root / ".journal", [entries[start : start + 100] for start in range(0, len(entries), 100)])
    recover_root(str(root))
    assert verify_session(str(folder)) == (20_000, [])


def test_while_somebody_else_writes_the_session_nothing_is_given_up(
    root: Path, layout: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("chimera.sessions.eventlog.recovery.LOCK_SECONDS", 0.0)
    session = Session(root, layout)
    with (session.folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(Locked, match=str(os.getpid())):
            recover_root(str(root))
    recover_twice(root)
    session.assert_whole()

"""``EventLog`` for embedders: numbers, ids, gaps, tails, two processes, and a journal that a dead daemon left."""

from __future__ import annotations

import fcntl
import json
import multiprocessing
import os
import subprocess
import sys
from pathlib import Path

import pytest

from chimera.errors import IdConflict, InvalidId, InvalidParams, Locked, LogGapError
from chimera.events import Event
from chimera.sessions.eventlog.journal import Entry, SegmentWriter
from chimera.sessions.eventlog.log import EventLog
from chimera.sessions.eventlog.verify import verify_session

MINK = "mink-20260102T030405-00c0ffee"
OTTER = "otter-20260102T030405-00c0ffee"
STOAT = "stoat-20260102T030405-00c0ffee"


@pytest.fixture(params=[MINK, OTTER, STOAT], ids=["jsonl", "ids", "typed"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A session's folder that is not there yet, in each layout that is written."""
    return tmp_path / "eventlog" / str(request.param)


def test_append_gives_indices_from_zero_and_reads_back(folder: Path) -> None:
    with EventLog(folder) as log:
        assert log.length == 0
        assert log.last_index == -1
        assert [log.append("user_message", {"content": str(number)}) for number in range(3)] == [0, 1, 2]
        assert log.last_index == 2
        assert log.get_by_index(1).metadata == {"content": "1"}
        assert [event.seq for event in log.get_range(1, 3)] == [2, 3]
        assert [event.seq for event in log.get_since(1)] == [2, 3]
        assert log.get_by_id(log.get_by_index(2).id) == log.get_by_index(2)
        assert log.get_by_id("nobody") is None
    again = EventLog(folder)
    assert [event.metadata["content"] for event in again.replay()] == ["0", "1", "2"]
    assert verify_session(str(folder)) == (3, [])


def test_parents_make_a_line_unless_said_otherwise(folder: Path) -> None:
    log = EventLog(folder)
    log.append("user_message", event_id="a")
    log.append("agent_result", event_id="b")
    log.append("user_message", event_id="c", parent_id="a")
    log.append("user_message", event_id="d", parent_id=None)
    assert [(event.id, event.parent_id) for event in log.replay()] == [("a", None), ("b", "a"), ("c", "a"), ("d", None)]
    with pytest.raises(InvalidParams, match="names no earlier event"):
        log.append("user_message", parent_id="nobody")
    assert log.length == 4


def test_the_same_id_with_the_same_content_is_acknowledged_again(folder: Path) -> None:
    log = EventLog(folder)
    assert log.append("tool_call", {"event_id": "one", "tool": "Read"}) == 0
    assert log.append("tool_call", {"event_id": "one", "tool": "Read"}) == 0
    with pytest.raises(IdConflict):
        log.append("tool_call", {"event_id": "one", "tool": "Write"})
    assert EventLog(folder).length == 1


def test_several_events_are_appended_all_or_none(folder: Path) -> None:
    log = EventLog(folder)
    good = Event(seq=0, id="x", parent_id=None, type="tool_call", ts="", metadata={})
    assert log.extend([good, Event(seq=0, id="y", parent_id="x", type="tool_result", ts="", metadata={})]) == [0, 1]
    with pytest.raises(InvalidId):
        log.extend([Event(seq=0, id="z", parent_id=None, type="tool_call", ts="", metadata={}), _with_type("Bad Type")])
    assert EventLog(folder).length == 2


def _with_type(event_type: str) -> Event:
    return Event(seq=0, id="w", parent_id=None, type=event_type, ts="", metadata={})


def test_text_that_utf8_cannot_carry_becomes_escapes(folder: Path) -> None:
    log = EventLog(folder)
    log.append("tool_result", {"result": "caf\udce9", "n": 1})
    assert EventLog(folder).get_by_index(0).metadata == {"result": "caf\\udce9", "n": 1}


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1 << 64, object()])
def test_what_json_cannot_carry_is_refused_and_nothing_is_written(folder: Path, value: object) -> None:
    log = EventLog(folder)
    with pytest.raises(InvalidParams):
        log.append("tool_result", {"result": value})
    assert not folder.exists()


@pytest.mark.parametrize("name", ["..", ".hidden", "a\nb"])
def test_a_folder_whose_name_is_no_id_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(InvalidId):
        EventLog(str(tmp_path) + "/x/" + name if name != ".." else "/")


def test_a_gap_raises_on_replay_and_names_what_is_missing(tmp_path: Path) -> None:
    folder = tmp_path / "eventlog" / OTTER
    log = EventLog(folder)
    for number in range(4):
        log.append("user_message", {"content": str(number)})
    names = sorted(path.name for path in folder.glob("event-*"))
    (folder / names[1]).unlink()
    (folder / names[2]).unlink()
    gapped = EventLog(folder)
    with pytest.raises(LogGapError) as caught:
        gapped.replay()
    assert caught.value.missing == [2, 3]
    assert gapped.length == 2
    assert gapped.get_by_index(3).seq == 4
    with pytest.raises(IndexError):
        gapped.get_by_index(1)


def test_a_torn_last_line_is_set_aside_and_the_log_goes_on(tmp_path: Path) -> None:
    folder = tmp_path / "eventlog" / MINK
    log = EventLog(folder)
    log.append("user_message", {"content": "kept"})
    with (folder / "events.jsonl").open("ab") as file:
        file.write(b'{"seq":2,"id":"evt-torn","par')
    torn = EventLog(folder)
    assert [problem.kind for problem in torn.problems] == ["torn_tail"]
    assert torn.append("user_message", {"content": "after"}) == 1
    assert [event.metadata["content"] for event in EventLog(folder).replay()] == ["kept", "after"]
    [aside] = (folder / "quarantine").iterdir()
    assert aside.read_bytes() == b'{"seq":2,"id":"evt-torn","par'


def test_a_last_line_that_only_lacks_its_newline_is_kept(tmp_path: Path) -> None:
    folder = tmp_path / "eventlog" / MINK
    log = EventLog(folder)
    log.append("user_message", {"content": "one"})
    log.append("user_message", {"content": "two"})
    body = (folder / "events.jsonl").read_bytes()
    (folder / "events.jsonl").write_bytes(body[:-1])
    assert EventLog(folder).append("user_message", {"content": "three"}) == 2
    assert [event.metadata["content"] for event in EventLog(folder).replay()] == ["one", "two", "three"]


def test_a_foreign_log_keeps_its_base_and_layout(tmp_path: Path) -> None:
    folder = tmp_path / "eventlog" / OTTER
    folder.mkdir(parents=True)
    for index in range(2):
        event = {"idx": index, "event_id": f"0000000{index}", "type": "user_message", "timestamp": 1.5, "metadata": {}}
        (folder / f"event-{index:06d}-0000000{index}.json").write_text(json.dumps(event, indent=2))
    log = EventLog(folder)
    assert log.append("user_message", event_id="ours") == 2
    assert (folder / "event-000002-ours.json").exists()
    assert [event.seq for event in EventLog(folder).replay()] == [1, 2, 3]
    assert verify_session(str(folder)) == (3, [])


def _append_many(folder: str, count: int, name: str) -> None:
    log = EventLog(folder, fsync="never")
    for number in range(count):
        log.append("user_message", {"content": f"{name}-{number}"})


def test_two_processes_never_write_the_same_number(folder: Path) -> None:
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=_append_many, args=(str(folder), 40, name)) for name in "abc"]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert [writer.exitcode for writer in writers] == [0, 0, 0]
    events = list(EventLog(folder).replay())
    assert [event.seq for event in events] == list(range(1, 121))
    for name in "abc":
        mine = [event.metadata["content"] for event in events if event.metadata["content"].startswith(name)]
        assert mine == [f"{name}-{number}" for number in range(40)]
    assert verify_session(str(folder)) == (120, [])


def test_a_foreign_flock_keeps_us_out(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("chimera.sessions.eventlog.log.WAIT_SECONDS", 0.0)
    monkeypatch.setattr("chimera.sessions.eventlog.log.ASK_OWNER_SECONDS", 0.05)
    log = EventLog(folder)
    log.append("user_message")
    with (folder / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(Locked, match=str(os.getpid())):
            log.append("user_message")
        assert EventLog(folder).length == 1
    assert log.append("user_message") == 1


def test_events_of_a_dead_daemon_come_before_ours(tmp_path: Path) -> None:
    folder = tmp_path / "eventlog" / MINK
    log = EventLog(folder)
    log.append("user_message", {"content": "first"})
    body = (folder / "events.jsonl").read_bytes()
    # a second record as a daemon would have journalled it, its session file not written
    scratch = tmp_path / "scratch" / MINK
    scratch.mkdir(parents=True)
    (scratch / "events.jsonl").write_bytes(body)
    EventLog(scratch).append("user_message", {"content": "acknowledged"})
    record = (scratch / "events.jsonl").read_bytes()[len(body) :]
    journal = tmp_path / "eventlog" / ".journal"
    journal.mkdir()
    segment = SegmentWriter(str(journal), 1).prepare()
    segment.begin(1, 0)
    segment.write([Entry(MINK, "events.jsonl", len(body), 2, body[-19:-3], record)], 1, 0, 0)
    segment.sync()
    segment.close()

    assert log.append("user_message", {"content": "ours"}) == 2
    contents = [event.metadata["content"] for event in EventLog(folder).replay()]
    assert contents == ["first", "acknowledged", "ours"]
    assert [path.stat().st_size for path in journal.iterdir()] == [512]


def test_importing_chimera_loads_nothing_heavy() -> None:
    code = "import sys, chimera; print([name for name in ('msgspec', 'filelock', 'sqlite3') if name in sys.modules])"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"

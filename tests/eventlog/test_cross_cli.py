"""The walker over all flavours: what it finds, in which order, and what it never lets hide the rest."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path

import pytest

from chimera.errors import InvalidId, InvalidParams, MalformedSummary, NoSummary, SessionNotFound, StorageError
from chimera.events.event import Problem
from chimera.sessions.eventlog.cross_cli import get_session, iter_sessions, parse_since
from tests.support.files import write_session

NOW = datetime(2026, 5, 1, 12, 0, tzinfo=UTC)


def ids(root: Path, **options: object) -> list[str]:
    return [record.session_id for record in iter_sessions(eventlog_root=root, **options)]  # type: ignore[arg-type]


def test_all_flavours_come_newest_first_by_start_time(tmp_path: Path) -> None:
    write_session(tmp_path, "weasel-1", started_at="2026-04-01T00:00:00Z")
    write_session(tmp_path, "badger-1", started_at="2026-04-03T00:00:00Z")
    write_session(tmp_path, "otter-1", started_at="2026-04-02T23:30:00-01:00")
    write_session(tmp_path, "stoat-1", started_at="2026-04-02T00:00:00")
    assert ids(tmp_path) == ["otter-1", "badger-1", "stoat-1", "weasel-1"]
    assert ids(tmp_path, limit=2) == ["otter-1", "badger-1"]
    assert ids(tmp_path, limit=0) == ids(tmp_path, limit=-1) == ids(tmp_path)


def test_a_flavour_sees_its_own_unless_asked_for_all(tmp_path: Path) -> None:
    for session_id in ("mink-1", "otter-1", "backup-1", "6f1c0b5e-0000-4000-8000-000000000000"):
        write_session(tmp_path, session_id)
    assert ids(tmp_path, flavour="mink") == ["mink-1"]
    assert ids(tmp_path, flavour="mink", all_clis=True) == ids(tmp_path) == ["otter-1", "mink-1"]
    with pytest.raises(InvalidParams, match="unknown flavour 'cat'"):
        iter_sessions(flavour="cat", eventlog_root=tmp_path)


def test_a_start_time_that_cannot_be_read_is_kept_and_last(tmp_path: Path) -> None:
    write_session(tmp_path, "otter-9", started_at="yesterday")
    write_session(tmp_path, "otter-8", {"run_id": "otter-8", "prompt": "no times at all"})
    write_session(tmp_path, "otter-1", started_at="2020-01-01T00:00:00Z")
    assert ids(tmp_path) == ["otter-1", "otter-9", "otter-8"]
    assert ids(tmp_path, since="2026-01-01") == ["otter-9", "otter-8"]


def test_since_keeps_what_started_at_the_cutoff(tmp_path: Path) -> None:
    write_session(tmp_path, "otter-1", started_at="2026-04-01T12:00:00Z")
    write_session(tmp_path, "otter-2", started_at="2026-04-01T11:59:59Z")
    assert ids(tmp_path, since="2026-04-01T12:00:00Z") == ["otter-1"]
    assert ids(tmp_path, since=datetime(2026, 4, 1, 12)) == ["otter-1"]


def test_the_model_is_matched_exactly(tmp_path: Path) -> None:
    write_session(tmp_path, "otter-1", model="gpt-4o")
    write_session(tmp_path, "otter-2", model="gpt-4o-mini", success=False)
    assert ids(tmp_path, model="gpt-4o") == ["otter-1"]
    assert ids(tmp_path, success=False) == ["otter-2"]


def test_one_bad_session_never_hides_the_others(tmp_path: Path) -> None:
    write_session(tmp_path, "otter-1")
    write_session(tmp_path, "otter-2", cost_usd="n/a")
    write_session(tmp_path, "otter-3", '{"cost_usd": NaN, "started_at": "2026-05-01T00:00:00Z"}')
    write_session(tmp_path, "otter-4", "{torn")
    write_session(tmp_path, "otter-5", "[]")
    (tmp_path / "otter-6").mkdir()
    (tmp_path / "otter-7").write_text("a file")
    (tmp_path / "otter-8").symlink_to("otter-8")
    os.mkdir(os.fsencode(tmp_path) + b"/otter-\xff")
    (tmp_path / "otter-\x1b[31m").mkdir()
    problems: list[Problem] = []
    found = list(iter_sessions(eventlog_root=tmp_path, report=problems.append))
    assert [record.session_id for record in found] == ["otter-3", "otter-2", "otter-1"]
    assert [record.cost_usd for record in found] == [0.0, 0.0, 0.01]
    told = {problem.session_id for problem in problems}
    assert {"otter-2", "otter-3", "otter-4", "otter-5"} <= told
    assert all(name.isprintable() for name in told)


def test_a_missing_event_log_is_empty_and_an_unreadable_one_is_an_error(tmp_path: Path) -> None:
    assert ids(tmp_path / "missing") == []
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot be read"):
        ids(tmp_path / "file")


def test_the_default_root_is_the_homes(home: Path) -> None:
    write_session(home / "eventlog", "otter-1")
    assert [record.session_id for record in iter_sessions()] == ["otter-1"]
    assert get_session("otter-1").path == str(home / "eventlog" / "otter-1")


def test_a_record_has_the_documented_keys_in_order(tmp_path: Path) -> None:
    folder = write_session(tmp_path, "stoat-1", title="t", events=("user_message", "agent_result"))
    (record,) = iter_sessions(eventlog_root=tmp_path)
    assert record.to_dict() == {
        "session_id": "stoat-1",
        "started_at": "2026-04-30T10:14:55Z",
        "ended_at": "2026-04-30T10:15:30Z",
        "model": "m1",
        "prompt": "hi",
        "title": "t",
        "success": True,
        "cost_usd": 0.01,
        "steps": 1,
        "tool_calls": 0,
        "path": str(folder),
        "error": None,
        "cli_origin": "stoat",
        "cwd": "",
        "tags": [],
        "events": 2,
        "cost_source": "",
        "state": "finished",
    }
    assert list(record.to_dict())[:3] == ["session_id", "started_at", "ended_at"]
    assert list(record.to_dict())[11:13] == ["error", "cli_origin"]


def test_lines_of_a_log_are_counted(tmp_path: Path) -> None:
    folder = write_session(tmp_path, "mink-1")
    (folder / "events.jsonl").write_bytes(b'{"type":"a"}\n' * 3 + b'{"torn')
    (record,) = iter_sessions(eventlog_root=tmp_path)
    assert record.events == 3


def test_a_session_is_found_by_its_folder_whatever_its_flavour(tmp_path: Path) -> None:
    folder = write_session(tmp_path, "ferret-1", events=("user_message", "agent_result"))
    detail = get_session("ferret-1", eventlog_root=tmp_path)
    assert (detail.session_id, detail.path) == ("ferret-1", str(folder))
    assert detail.summary["model"] == "m1"
    assert [(event["seq"], event["type"]) for event in detail.events] == [(1, "user_message"), (2, "agent_result")]
    assert detail.events[0]["metadata"] == {"content": "user_message 1"}
    assert detail.missing == []
    assert list(detail.to_dict()) == ["session_id", "path", "summary", "events"]


def test_what_is_missing_from_a_log_is_named(tmp_path: Path) -> None:
    folder = write_session(tmp_path, "stoat-1", events=("user_message", "tool_call", "agent_result"))
    (folder / "event-000002-tool_call.json").unlink()
    detail = get_session("stoat-1", eventlog_root=tmp_path)
    assert [event["seq"] for event in detail.events] == [1, 3]
    assert detail.missing == [2]


@pytest.mark.parametrize(
    "session_id", ["../otter-1", "/etc", "otter-1/..", "..", ".", "", "a\0b", ".trash", "x" * 201, "a\nb"]
)
def test_an_id_never_leaves_the_root(tmp_path: Path, session_id: str) -> None:
    write_session(tmp_path, "otter-1")
    (tmp_path / "root").mkdir()
    with pytest.raises(InvalidId):
        get_session(session_id, eventlog_root=tmp_path / "root")


def test_a_session_that_cannot_be_shown_says_why(tmp_path: Path) -> None:
    (tmp_path / "otter-aborted").mkdir()
    write_session(tmp_path, "otter-torn", "{")
    with pytest.raises(SessionNotFound, match="session not found: otter-x"):
        get_session("otter-x", eventlog_root=tmp_path)
    with pytest.raises(NoSummary):
        get_session("otter-aborted", eventlog_root=tmp_path)
    with pytest.raises(MalformedSummary):
        get_session("otter-torn", eventlog_root=tmp_path)


@pytest.mark.parametrize(
    ("value", "moment"),
    [
        ("30s", datetime(2026, 5, 1, 11, 59, 30, tzinfo=UTC)),
        ("30m", datetime(2026, 5, 1, 11, 30, tzinfo=UTC)),
        ("24H", datetime(2026, 4, 30, 12, tzinfo=UTC)),
        (" 7 d ", datetime(2026, 4, 24, 12, tzinfo=UTC)),
        ("2W", datetime(2026, 4, 17, 12, tzinfo=UTC)),
        ("0d", NOW),
        ("999999999999999999w", datetime(1, 1, 1, tzinfo=UTC)),
        ("2026-04-01", datetime(2026, 4, 1, tzinfo=UTC)),
        ("2026-04-01T12:00:00Z", datetime(2026, 4, 1, 12, tzinfo=UTC)),
        ("2026-04-01T12:00:00", datetime(2026, 4, 1, 12, tzinfo=UTC)),
        ("2026-04-01T12:00:00.5+02:00", datetime(2026, 4, 1, 10, 0, 0, 500000, tzinfo=UTC)),
        ("20260401T120000Z", datetime(2026, 4, 1, 12, tzinfo=UTC)),
    ],
)
def test_since_reads_one_grammar(value: str, moment: datetime) -> None:
    assert parse_since(value, NOW) == moment


@pytest.mark.parametrize(
    "value", ["yesterday", "7", "d", "7y", "-7d", "1.5h", "2026-13-01", "\u0667d", "9" * 5000 + "d"]
)
def test_since_says_what_it_expects(value: str) -> None:
    with pytest.raises(ValueError) as caught:
        parse_since(value, NOW)
    assert str(caught.value) == f"invalid --since '{value}': expected '<N>{{s,m,h,d,w}}' or ISO-8601 timestamp"


@pytest.mark.parametrize("value", ["", "   "])
def test_a_blank_since_is_refused(value: str) -> None:
    with pytest.raises(ValueError, match="empty --since value"):
        parse_since(value)

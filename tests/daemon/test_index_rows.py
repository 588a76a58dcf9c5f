"""A session's row as its folder says: every older shape, counted without reading each event, hidden by nothing."""

from __future__ import annotations

import json
import os
from pathlib import Path

import msgspec
import pytest

from chimera.sessions.eventlog.layouts.packed import PACKED_FILE, Packing, pack
from chimerad.store.index.rebuild import count_events, read_rows, row_from_folder
from chimerad.store.index.rows import MAX_RECORD_BYTES, UNKNOWN_START
from chimerad.store.index.stamps import stamp_of
from tests.support.folders import make_session, write_summary


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "eventlog"


def age(folder: Path) -> None:
    """Make everything in a folder older than the moment in which a second change could go unseen."""
    for path in (*folder.iterdir(), folder):
        os.utime(path, (1_700_000_000, 1_700_000_000))


def test_a_row_holds_the_record_of_the_contract_ready_made(root: Path) -> None:
    folder = make_session(
        root, "mink-x", events=4, title="A title", tags=["b", "a", "b"], cwd="/w", error={"why": "no"}
    )

    row = row_from_folder(str(root), "mink-x")

    assert row is not None
    assert (row.listed, row.flavour, row.events, row.tags) == (True, "mink", 4, ("a", "b"))
    record = msgspec.json.decode(row.record)
    assert list(record) == [
        *("session_id", "started_at", "ended_at", "model", "prompt", "title", "success", "cost_usd", "steps"),
        *("tool_calls", "path", "error", "cli_origin", "cwd", "tags", "events", "cost_source", "state"),
    ]
    assert record["path"] == str(folder)
    assert record["error"] == {"why": "no"}
    assert record["events"] == 4
    assert row.cost_microdollars == 24100


@pytest.mark.parametrize(
    ("changes", "unpriced"),
    [
        ({"cost_usd": 0.0}, True),
        ({"cost_usd": 0.5}, False),
        ({"cost_usd": 0.0, "cost_source": "provider"}, False),
        ({"cost_usd": 0.0, "cost_source": "unpriced"}, True),
    ],
)
def test_unpriced_is_told_from_free(root: Path, changes: dict[str, object], unpriced: bool) -> None:
    make_session(root, "mink-x", **changes)

    row = row_from_folder(str(root), "mink-x")

    assert row is not None
    assert row.unpriced is unpriced


def test_a_start_that_cannot_be_read_is_kept_and_sorts_last(root: Path) -> None:
    make_session(root, "mink-x", started_at="yesterday")

    row = row_from_folder(str(root), "mink-x")

    assert row is not None
    assert row.listed
    assert row.started_us == UNKNOWN_START


def test_sessions_that_lists_leave_out_still_have_a_row(root: Path) -> None:
    make_session(root, "backup-2026")
    make_session(root, "0f7e6b0a-uuid")
    (make_session(root, "mink-none") / "summary.json").unlink()
    (make_session(root, "mink-bad") / "summary.json").write_text('{"model": ')
    (make_session(root, "mink-list") / "summary.json").write_text("[]")
    (root / "mink-file").write_text("not a folder")

    rows, gone = read_rows(str(root), os.listdir(root), {}, lambda _: False)

    assert {row.session_id: (row.listed, row.events) for row in rows} == dict.fromkeys(
        ["backup-2026", "0f7e6b0a-uuid", "mink-none", "mink-bad", "mink-list"], (False, 2)
    )
    assert gone == ["mink-file"]


def test_text_with_nul_and_lone_surrogates_is_listed(root: Path) -> None:
    folder = make_session(root, "mink-x")
    (folder / "summary.json").write_text('{"model": "m\\u0000\\ud800", "prompt": "\\udfff", "title": "t"}')

    row = row_from_folder(str(root), "mink-x")

    assert row is not None
    assert row.model.startswith("m\x00")
    assert json.loads(row.record)["title"] == "t"
    row.model.encode()  # SQLite takes it


def test_a_prompt_of_many_megabytes_is_cut_in_the_list_alone(root: Path) -> None:
    make_session(root, "mink-x", prompt="p" * (MAX_RECORD_BYTES + 1))

    row = row_from_folder(str(root), "mink-x")

    assert row is not None
    assert len(row.record) < MAX_RECORD_BYTES
    record = msgspec.json.decode(row.record)
    assert record["prompt"].endswith("…")
    assert record["session_id"] == "mink-x"


def test_a_prompt_of_one_megabyte_is_whole(root: Path) -> None:
    make_session(root, "mink-x", prompt="p" * (1 << 20))

    row = row_from_folder(str(root), "mink-x")

    assert row is not None
    assert len(msgspec.json.decode(row.record)["prompt"]) == 1 << 20


def test_numbers_no_total_could_hold_are_bounded(root: Path) -> None:
    make_session(root, "mink-x", input_tokens=2**63 - 1, cost_usd=9e12)

    row = row_from_folder(str(root), "mink-x")

    assert row is not None
    assert row.input_tokens == 1 << 43
    assert row.cost_microdollars == 1 << 43


def test_events_are_counted_in_every_layout(root: Path) -> None:
    lines = make_session(root, "mink-lines", events=3)
    (lines / "events.jsonl").write_bytes(b"{}\n{}\n{}\n{half")
    files = make_session(root, "stoat-files", events=5, lines=False)
    (files / "event-notes.txt").write_text("no event")
    packed = make_session(root, "mink-packed", events=0)
    (packed / "events.jsonl").unlink()
    (packed / PACKED_FILE).write_bytes(pack([b"{}"] * 7, Packing("typed", 1, 7, "0" * 16)))
    (packed / "event-000007-leftover.json").write_text("{}")
    (packed / "event-000008-after.json").write_text("{}")

    assert count_events(str(lines)) == 3
    assert count_events(str(files)) == 5
    assert count_events(str(packed)) == 8
    assert count_events(str(root / "nowhere")) == 0


@pytest.mark.parametrize("file", ["summary.json", "events.jsonl", PACKED_FILE])
def test_a_pipe_or_a_folder_in_the_place_of_a_file_holds_up_nobody(root: Path, file: str) -> None:
    for name, make in (("mink-pipe", os.mkfifo), ("mink-folder", os.mkdir)):
        folder = make_session(root, name, events=1)
        (folder / file).unlink(missing_ok=True)
        make(folder / file)

        row = row_from_folder(str(root), name)

        assert row is not None
        assert row.listed is (file != "summary.json")
        assert row.events == (0 if file == "events.jsonl" else 1)


@pytest.mark.parametrize("change", ["edit", "rename", "append", "new file", "replace"])
def test_a_stamp_differs_after_any_change(root: Path, change: str) -> None:
    folder = make_session(root, "mink-x", lines=change != "new file")
    age(folder)
    before = stamp_of(str(root), "mink-x")
    assert before == stamp_of(str(root), "mink-x")

    if change == "edit":
        write_summary(folder, title="t")
    elif change == "rename":
        (folder / "new").write_bytes((folder / "summary.json").read_bytes())
        os.utime(folder / "new", (1_700_000_000, 1_700_000_000))
        (folder / "new").rename(folder / "summary.json")
    elif change == "append":
        with (folder / "events.jsonl").open("a") as log:
            log.write("{}\n")
    elif change == "new file":
        (folder / "event-000009-x.json").write_text("{}")
    else:
        folder.rename(root.parent / "away")
        age(make_session(root, "mink-x"))

    assert stamp_of(str(root), "mink-x") != before


def test_only_sessions_that_differ_are_read_again(root: Path) -> None:
    for name in ("mink-same", "mink-other", "mink-open"):
        age(make_session(root, name))
    same = stamp_of(str(root), "mink-same")
    assert same is not None
    known = {"mink-same": same, "mink-other": same, "mink-open": same, "mink-gone": same}

    rows, gone = read_rows(str(root), sorted(known), known, lambda name: name == "mink-open")

    assert [row.session_id for row in rows] == ["mink-other"]
    assert gone == ["mink-gone"]

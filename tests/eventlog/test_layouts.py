"""How the layouts name their files, and how a layout is told from a file."""

from __future__ import annotations

import re
from hashlib import blake2b
from pathlib import Path

import pytest

from chimera.sessions.eventlog.layouts import LAYOUTS, event_file_number, layout_of_file
from chimera.sessions.eventlog.packing import pack_session
from tests.support.logs import our_records, write_ours


def test_the_documented_file_names() -> None:
    assert LAYOUTS["typed"].file_name(1, "tool_call", "evt-1") == "event-000001-tool_call.json"
    assert LAYOUTS["ids"].file_name(12, "tool_call", "evt-7c8a4f1e90b2d3aa") == "event-000012-evt-7c8a4f1e90b2d3aa.json"
    assert LAYOUTS["jsonl"].file_name(1, "tool_call", "evt-1") == "events.jsonl"
    assert LAYOUTS["packed"].file_name(1, "tool_call", "evt-1") == "events.jsonl.zst"
    assert [name for name, layout in LAYOUTS.items() if layout.one_file_an_event] == ["typed", "ids"]


@pytest.mark.parametrize("tail", ["../../x", "a/b", "a\0b", "", "x" * 500, "\u00e4"])
@pytest.mark.parametrize("layout", ["typed", "ids"])
def test_no_tail_leaves_the_folder(layout: str, tail: str) -> None:
    name = LAYOUTS[layout].file_name(1, tail, tail)
    assert "/" not in name
    assert "\0" not in name
    assert len(name) <= 100
    assert event_file_number(name) == 1


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("event-000000-0a1b2c3d.json", 0),
        ("event-1-user.json", 1),
        ("event-1000000-evt-1.json", 1_000_000),
        ("event-000001-tool_call.json", 1),
        ("event-000001-.json", None),
        ("event-000001.json", None),
        ("event--1-x.json", None),
        ("event-000001-x.json.new-3-ab", None),
        ("xevent-000001-x.json", None),
        ("event-\u0661-x.json", None),
        ("event-" + "9" * 30 + "-x.json", None),
    ],
)
def test_the_number_in_a_name(name: str, number: int | None) -> None:
    assert event_file_number(name) == number


def test_a_layout_is_told_from_the_first_file() -> None:
    assert layout_of_file("event-000001-tool_call.json", "tool_call") == "typed"
    assert layout_of_file("event-1-tool_call.json", "tool_call") == "typed"
    assert layout_of_file("event-000001-evt-1.json", "tool_call") == "ids"
    assert layout_of_file("event-000001-user.json", "user_message") == "ids"
    assert layout_of_file("events.jsonl", "tool_call") == "jsonl"
    assert layout_of_file("events.jsonl.zst", "tool_call") == "packed"


def test_the_documented_way_to_follow_a_chain_by_hand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (Path(__file__).parents[2] / "docs" / "on-disk.md").read_text(encoding="utf-8")
    (snippet,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    monkeypatch.chdir(write_ours(tmp_path / "s", "jsonl", our_records(3)))
    names: dict[str, object] = {}
    exec(snippet, names)
    assert names["chain"] == our_records(3)[-1][-18:-2]


def test_the_documented_last_frame_of_a_packed_log(tmp_path: Path) -> None:
    folder = write_ours(tmp_path / "s", "jsonl", our_records(3))
    pack_session(str(folder))
    frame = (folder / "events.jsonl.zst").read_bytes().partition(bytes.fromhex("502a4d18"))[2]
    text, check = frame[4:].split(b"\n")
    chain = our_records(3)[-1][-18:-2].decode()
    assert text.decode() == f'{{"layout":"jsonl","base":1,"count":3,"chain":"{chain}"}}'
    assert check == blake2b(b"0" * 16 + text, digest_size=8).hexdigest().encode()
    assert int.from_bytes(frame[:4], "little") == len(frame) - 4

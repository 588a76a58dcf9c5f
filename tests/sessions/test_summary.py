"""``summary.json``: every shape the family has written, and the one that we write."""

from __future__ import annotations

import decimal
import json
from pathlib import Path
from typing import Any

import pytest

from chimera.errors import MalformedSummary, NoSummary
from chimera.sessions.summary import (
    Summary,
    encode_summary,
    microdollars,
    new_summary,
    read_summary,
    session_record,
    with_title,
)

STARTED, ENDED = "2026-04-25T09:12:01Z", "2026-04-25T09:12:14Z"
MINK_WRITER = {
    "run_id": "mink-20260425T091201-71032a5e", "started_at": STARTED, "ended_at": ENDED, "model": "m1",
    "prompt": "hi", "cwd": "/w", "permission_mode": "ask", "steps": 3, "tool_calls_total": 4, "success": True,
    "cost_usd": 0.0241, "total_tokens": 0, "error": None,
}  # fmt: skip
OTTER_DOCUMENTS = {
    "run_id": "otter-20260425T091201-71032a5e", "session_id": "otter-20260425T091201-71032a5e", "agent": "otter",
    "model": "claude-sonnet-4-6", "prompt": "list files then read README", "title": "Investigate flaky test #4711",
    "cwd": "/Users/yad/repos/chimera", "started_at": STARTED, "ended_at": ENDED, "steps": 3, "tool_calls_total": 4,
    "success": True, "cost_usd": 0.0241, "total_tokens": 0, "error": None,
}  # fmt: skip
STOAT_FIXTURE = {
    "session_id": "stoat-20260430T101455-1f3c2a8b", "started_at": STARTED, "ended_at": ENDED, "model": "kimi-k2.6",
    "prompt": "hi", "success": True, "cost_usd": 0.5, "steps": 2, "tool_calls_total": 1,
}  # fmt: skip


def view_of(tmp_path: Path, summary: object, name: str = "otter-20260425T091201-71032a5e") -> Summary:
    folder = tmp_path / name
    folder.mkdir(exist_ok=True)
    text = summary if isinstance(summary, str) else json.dumps(summary)
    (folder / "summary.json").write_text(text)
    return read_summary(str(folder))[1]


def without(summary: dict[str, Any], *keys: str) -> dict[str, Any]:
    return {key: value for key, value in summary.items() if key not in keys}


@pytest.mark.parametrize(
    ("name", "summary", "expected"),
    [
        ("mink-20260425T091201-71032a5e", MINK_WRITER,
         {"session_id": "mink-20260425T091201-71032a5e", "cli_origin": "mink", "cwd": "/w", "steps": 3, "tool_calls": 4,
          "cost_microdollars": 24100, "cost_source": "", "title": None, "state": "finished"}),
        ("otter-20260425T091201-71032a5e",
         {**without(MINK_WRITER, "permission_mode"), "run_id": "otter-20260425T091201-71032a5e", "agent": "otter",
          "title": "last"},
         {"session_id": "otter-20260425T091201-71032a5e", "agent": "otter", "title": "last"}),
        ("otter-20260425T091201-71032a5e", OTTER_DOCUMENTS,
         {"title": "Investigate flaky test #4711", "model": "claude-sonnet-4-6", "cost_usd": 0.0241}),
        ("otter-20260425T091201-71032a5e",
         {**without(MINK_WRITER, "run_id"), "session_id": "otter-20260425T091201-71032a5e"},
         {"session_id": "otter-20260425T091201-71032a5e", "run_id": "otter-20260425T091201-71032a5e"}),
        ("badger-x", {**STOAT_FIXTURE, "session_id": "badger-x"},
         {"session_id": "badger-x", "cli_origin": "badger", "cwd": "", "total_tokens": 0, "error": None}),
        ("stoat-old", {**STOAT_FIXTURE, "started_at": "2026-05-07T10:01:00", "cwd": "/w", "cli_origin": "stoat"},
         {"started_at": "2026-05-07T10:01:00", "cwd": "/w", "cli_origin": "stoat"}),
        ("ferret-1", {**MINK_WRITER, "sandbox": "none", "approval": "never"},
         {"cli_origin": "ferret", "success": True}),
        ("otter-resume", {"run_id": "otter-resume", "session_id": "otter-resume", "model": "m", "prompt": "p",
                          "agent": "otter", "success": False},
         {"started_at": "", "ended_at": "", "state": "finished", "success": False}),
        ("mink-tokens", {"prompt_tokens": 7, "tokens_output": "8", "cached_tokens": 9, "tokens_total": 24},
         {"input_tokens": 7, "output_tokens": 8, "cache_tokens": 9, "total_tokens": 24}),
        ("backup-x", {}, {"session_id": "backup-x", "run_id": "backup-x", "cli_origin": "", "cost_usd": 0.0}),
    ],
    ids=["mink", "otter", "documents", "otter-fixture", "badger", "later-stoat", "ferret", "resume", "tokens", "empty"],
)  # fmt: skip
def test_every_variant_is_read(
    tmp_path: Path, name: str, summary: dict[str, object], expected: dict[str, object]
) -> None:
    view = view_of(tmp_path, summary, name)
    assert {key: getattr(view, key) for key in expected} == expected
    assert view.problems == ()


def test_the_object_comes_back_with_every_key_it_had(tmp_path: Path) -> None:
    view_of(tmp_path, {**MINK_WRITER, "ours_not": {"deep": [1, None]}})
    raw, _ = read_summary(str(tmp_path / "otter-20260425T091201-71032a5e"))
    assert raw == {**MINK_WRITER, "ours_not": {"deep": [1, None]}}
    assert list(raw)[:2] == ["run_id", "started_at"]


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [
        ({"total_tokens": 0, "tokens_total": 5}, 5),
        ({"total_tokens": "n/a", "tokens_total": "6"}, 6),
        ({"total_tokens": 7.9}, 7),
        ({"total_tokens": None}, 0),
        ({"total_tokens": [1]}, 0),
    ],
)
def test_the_first_token_count_that_is_one_counts(tmp_path: Path, tokens: dict[str, object], expected: int) -> None:
    assert view_of(tmp_path, tokens).total_tokens == expected


@pytest.mark.parametrize(
    "cost", ['"n/a"', "NaN", "Infinity", "-Infinity", "1e999", "1e300", "[]", "true", '"1e999999999"']
)
def test_a_cost_that_is_none_becomes_zero_and_is_named(tmp_path: Path, cost: str) -> None:
    view = view_of(tmp_path, f'{{"cost_usd": {cost}, "prompt": "still here"}}')
    assert (view.cost_usd, view.cost_microdollars, view.prompt) == (0.0, 0, "still here")
    assert len(view.problems) == 1


@pytest.mark.parametrize(
    "bad",
    [
        {"steps": "many"},
        {"steps": 10**30},
        {"tool_calls_total": {}},
        {"prompt": ["x"]},
        {"tags": "x"},
        {"state": "lost"},
    ],
)
def test_a_bad_value_becomes_its_default_and_is_named(tmp_path: Path, bad: dict[str, object]) -> None:
    view = view_of(tmp_path, bad)
    assert (view.steps, view.tool_calls, view.prompt, view.tags, view.state) == (0, 0, "", (), "finished")
    assert len(view.problems) == 1
    assert next(iter(bad)) in view.problems[0]


@pytest.mark.parametrize(
    ("dollars", "whole"),
    [
        (0.0241, 24100),
        (0.1 + 0.2, 300000),
        ("0.000001", 1),
        (3, 3000000),
        (1e-7, 0),
        (-0.5, -500000),
        (" 2.5 ", 2500000),
    ],
)
def test_money_is_exact(dollars: float | str, whole: int) -> None:
    assert microdollars(dollars) == whole


def test_money_does_not_depend_on_the_embedders_precision() -> None:
    with decimal.localcontext() as context:
        context.prec = 2
        assert microdollars(123456.789012) == 123456789012


def test_ten_thousand_cents_make_a_hundred_dollars() -> None:
    assert sum(microdollars(0.01) for _ in range(10_000)) == 100_000_000


@pytest.mark.parametrize("body", [b"", b"{", b"[1]", b"null", b'{"a": "\xff"}', b'"text"', b"[" * 200_000])
def test_a_file_that_holds_no_object_is_malformed(tmp_path: Path, body: bytes) -> None:
    (tmp_path / "summary.json").write_bytes(body)
    with pytest.raises(MalformedSummary, match=r"summary\.json"):
        read_summary(str(tmp_path))


def test_the_parse_error_is_named(tmp_path: Path) -> None:
    (tmp_path / "summary.json").write_text('{"a": ')
    with pytest.raises(MalformedSummary, match=r"malformed: Expecting value: line 1 column 7"):
        read_summary(str(tmp_path))


def test_no_file_is_no_summary(tmp_path: Path) -> None:
    (tmp_path / "a-file").write_text("")
    for folder in (tmp_path, tmp_path / "missing", tmp_path / "a-file"):
        with pytest.raises(NoSummary):
            read_summary(str(folder))


def test_lone_surrogates_do_not_survive(tmp_path: Path) -> None:
    view = view_of(tmp_path, '{"prompt": "a\\ud800b", "title": "\\ud83d\\ude00"}')
    assert view.prompt == "a?b"
    assert view.title == "\U0001f600"


@pytest.mark.parametrize("title", ["", "  ", None, 7, "\n"])
def test_a_blank_title_is_none(tmp_path: Path, title: object) -> None:
    assert view_of(tmp_path, {"title": title}).title is None


@pytest.mark.parametrize(
    ("summary", "state"),
    [
        ({"ended_at": ENDED}, "finished"),
        ({"ended_at": "", "success": False}, "open"),
        ({"ended_at": "", "success": True}, "finished"),
        ({"ended_at": "", "recovered": True}, "recovered"),
        ({"ended_at": ENDED, "state": "running"}, "running"),
        ({}, "finished"),
    ],
)
def test_the_state_is_stated_or_judged(tmp_path: Path, summary: dict[str, object], state: str) -> None:
    assert view_of(tmp_path, summary).state == state


def our_summary(title: str | None = None) -> dict[str, object]:
    return new_summary(
        session_id="otter-20260425T091201-71032a5e", flavour="otter", prompt="grüße", title=title, model="m", cwd="/w",
        started_at=STARTED, layout="ids", tags=["a"], generation="00c0ffee00c0ffee",
    )  # fmt: skip


def test_a_new_summary_has_the_documented_keys_first_and_is_open(tmp_path: Path) -> None:
    summary = our_summary("a title")
    assert list(summary)[:15] == [
        "session_id", "run_id", "agent", "model", "prompt", "title", "cwd", "started_at", "ended_at", "steps",
        "tool_calls_total", "success", "cost_usd", "total_tokens", "error",
    ]  # fmt: skip
    view = view_of(tmp_path, summary)
    assert (view.state, view.success, view.ended_at, view.cost_source) == ("open", False, "", "unpriced")
    assert (view.tags, view.layout, view.generation, view.title) == (("a",), "ids", "00c0ffee00c0ffee", "a title")


def test_a_title_is_there_only_when_it_says_something() -> None:
    assert "title" not in our_summary()
    assert "title" not in with_title(our_summary("a"), "")
    assert list(with_title(our_summary(), "b"))[4:6] == ["prompt", "title"]
    assert with_title({"x": 1}, "b") == {"x": 1, "title": "b"}


def test_the_file_is_indented_by_two_and_ascii() -> None:
    body = encode_summary(our_summary())
    assert body.startswith(b'{\n  "session_id": "otter-20260425T091201-71032a5e",\n  "run_id"')
    assert b"gr\\u00fc\\u00dfe" in body
    assert body.endswith(b"}")


def test_a_record_has_the_documented_keys_in_order_and_the_folders_name(tmp_path: Path) -> None:
    copied = view_of(tmp_path, OTTER_DOCUMENTS, "otter-copied")
    record = session_record(copied, str(tmp_path / "otter-copied"), 7)
    assert list(record) == [
        "session_id", "started_at", "ended_at", "model", "prompt", "title", "success", "cost_usd", "steps",
        "tool_calls", "path", "error", "cli_origin", "cwd", "tags", "events", "cost_source", "state",
    ]  # fmt: skip
    assert (record["session_id"], record["events"], record["cli_origin"]) == ("otter-copied", 7, "otter")

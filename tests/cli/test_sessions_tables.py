"""The tables of all families, written out."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from chimera_cli.tables import cost, date, session_table
from chimera_cli.text import cut, display_width, one_line, printable


def record(session_id: str, **changes: Any) -> dict[str, Any]:
    return {
        "session_id": session_id,
        "started_at": "2026-04-25T09:12:01Z",
        "ended_at": "2026-04-25T09:12:14Z",
        "model": "claude-sonnet-4-6",
        "prompt": "list files then read README",
        "title": None,
        "success": True,
        "cost_usd": 0.0241,
        "steps": 3,
        "tool_calls": 4,
        "path": "/x",
        "error": None,
        "cli_origin": session_id.split("-")[0],
        "cost_source": "",
        **changes,
    }


OTTER = record("otter-20260425T091201-71032a5e", title="Investigate flaky test #4711")
OTTER_OLDER = record(
    "otter-20260424T184005-2d11c7e0", started_at="2026-04-24T18:40:05Z", model="gpt-4o", steps=2, cost_usd=0.003,
    success=False, prompt="generate tests for foo.py",
)  # fmt: skip
FREE = record(
    "otter-20260423T150010-9f0ab412", started_at="2026-04-23T15:00:10Z", model="qwen3:32b", steps=5, cost_usd=0.0,
    prompt="refactor module",
)  # fmt: skip
UNPRICED = {**FREE, "session_id": "ferret-20260423T150010-9f0ab412", "cli_origin": "ferret", "cost_source": "unpriced"}


def test_otter_as_documented_with_its_title_column() -> None:
    assert session_table([OTTER, OTTER_OLDER, FREE]) == (
        "SESSION_ID                              DATE              MODEL               STEPS  COST      OK   "
        "TITLE                                     PROMPT\n"
        "otter-20260425T091201-71032a5e          2026-04-25 09:12  claude-sonnet-4-6       3   $0.0241  yes  "
        "Investigate flaky test #4711              list files then read README\n"
        "otter-20260424T184005-2d11c7e0          2026-04-24 18:40  gpt-4o                  2   $0.0030  no   "
        "generate tests for foo.py                 generate tests for foo.py\n"
        "otter-20260423T150010-9f0ab412          2026-04-23 15:00  qwen3:32b               5   $0.0000  yes  "
        "refactor module                           refactor module\n"
    )


def test_origin_tells_who_wrote_a_row_and_unpriced_is_never_free() -> None:
    assert session_table([OTTER, UNPRICED, record("otter-x", cli_origin="")], family="ferret", origin=True) == (
        "SESSION_ID                              ORIGIN   DATE              MODEL               STEPS  COST      OK   "
        "TITLE                                     PROMPT\n"
        "otter-20260425T091201-71032a5e          otter    2026-04-25 09:12  claude-sonnet-4-6       3   $0.0241  yes  "
        "Investigate flaky test #4711              list files then read README\n"
        "ferret-20260423T150010-9f0ab412         ferret   2026-04-23 15:00  qwen3:32b               5  unpriced  yes  "
        "refactor module                           refactor module\n"
        "otter-x                                 ?        2026-04-25 09:12  claude-sonnet-4-6       3   $0.0241  yes  "
        "list files then read README               list files then read README\n"
    )


def test_mink_has_runs() -> None:
    run = record(
        "mink-20260425T091201-71032a5e",
        prompt="a prompt\nof two lines that goes on and on until it is cut off somewhere",
    )
    assert session_table([run], family="mink") == (
        "RUN_ID                                DATE              MODEL               STEPS  COST      OK   PROMPT\n"
        "mink-20260425T091201-71032a5e         2026-04-25 09:12  claude-sonnet-4-6       3   $0.0241  yes  "
        "a prompt of two lines that goes on and on until it is cut o…\n"
    )


def test_stoat_has_a_rule_and_a_count() -> None:
    newer = record(
        "stoat-20260430T101455-1f3c2a8b", started_at="2026-04-30T10:14:55Z", steps=4, prompt="list the top-level files"
    )
    older = record(
        "stoat-20260430T093312-aa90c2e0", started_at="2026-04-30T09:33:12Z", steps=2, prompt="ship it", success=False
    )
    assert session_table([newer, older], family="stoat", flavour="stoat") == (
        "STARTED           ID                                    OK   STEPS  PROMPT\n"
        "--------------------------------------------------------------------------------\n"
        "2026-04-30 10:14  stoat-20260430T101455-1f3c2a8b        yes      4  list the top-level files\n"
        "2026-04-30 09:33  stoat-20260430T093312-aa90c2e0        no       2  ship it\n"
        "\n"
        "2 session(s)\n"
    )
    assert session_table([newer], family="stoat", flavour="shrew", origin=True) == (
        "STARTED           ID                                    ORIGIN   OK   STEPS  PROMPT\n"
        "--------------------------------------------------------------------------------\n"
        "2026-04-30 10:14  stoat-20260430T101455-1f3c2a8b        stoat    yes      4  list the top-level files\n"
        "\n"
        "1 session(s)\n"
    )


@pytest.mark.parametrize(
    ("family", "flavour", "said"),
    [
        ("mink", "mink", "(no persisted runs found)"),
        ("otter", "otter", "(no persisted sessions found)"),
        ("ferret", "ferret", "(no persisted sessions found)"),
        ("badger", "badger", "(no persisted badger sessions found)"),
    ],
)
def test_an_empty_list_is_its_heading_and_a_sentence(family: str, flavour: str, said: str) -> None:
    heading, sentence = session_table([], family=family, flavour=flavour).splitlines()
    assert heading == session_table([OTTER], family=family).splitlines()[0]
    assert sentence == said


def test_an_empty_list_of_the_stoat_family_is_a_sentence_alone() -> None:
    assert session_table([], family="stoat", flavour="weasel", origin=True) == "(no weasel sessions found)\n"


def test_a_title_falls_back_to_the_prompt_and_both_are_cut() -> None:
    line = session_table([record("otter-x", prompt="p" * 100)]).splitlines()[1]
    assert line.endswith(f"  {'p' * 39}…  {'p' * 59}…")


def test_nothing_that_drives_a_terminal_gets_through() -> None:
    hostile = record("otter-x", title="\x1b]0;owned\x07\x1b[2J\u202egnp.exe", prompt="a\r\nb\tc\x9b31m\x00\u2028d")
    line = session_table([hostile]).splitlines()[1]
    assert line.isprintable()
    assert "�]0;owned��[2J�gnp.exe" in line
    assert line.endswith("  a  b c�31m� d")


def test_wide_characters_keep_the_columns() -> None:
    rows = [record("otter-x", title="漢字" * 30), record("otter-y", title="cafe\u0301 " * 2)]
    lines = session_table(rows).splitlines()[1:]
    assert [display_width(line[: line.rindex("list files")]) for line in lines] == [142, 142]
    assert "字漢…   list" in lines[0]


@pytest.mark.parametrize("family", ["mink", "otter", "stoat"])
@pytest.mark.parametrize("width", [20, 40, 60, 80, 100, 132, 200])
def test_no_line_is_wider_than_the_terminal(family: str, width: int) -> None:
    rows = [record(f"{family}-20260425T091201-71032a5e", prompt="long " * 40, title="漢字" * 30), record("x" * 36)]
    for line in session_table(rows, family=family, origin=True, width=width).splitlines():
        assert display_width(line) <= width


def test_at_eighty_columns_the_text_shrinks_and_the_id_stays_whole() -> None:
    assert session_table([OTTER], width=80) == (
        "SESSION_ID                      DATE              COST      OK   TITLE\n"
        "otter-20260425T091201-71032a5e  2026-04-25 09:12   $0.0241  yes  Investigate fl…\n"
    )
    assert session_table([record("stoat-20260430T101455-1f3c2a8b")], family="stoat", width=80).splitlines()[2] == (
        "2026-04-25 09:12  stoat-20260430T101455-1f3c2a8b    yes      3  list files then…"
    )


def test_a_wide_terminal_gets_what_a_pipe_gets() -> None:
    for family in ("mink", "otter", "stoat"):
        assert session_table([OTTER], family=family, width=500) == session_table([OTTER], family=family)


def test_the_room_of_a_column_that_went_goes_to_the_text() -> None:
    line = session_table([{**OTTER, "title": "t" * 50}], origin=True, width=80).splitlines()[1]
    assert line == "otter-20260425T091201-71032a5e  2026-04-25 09:12   $0.0241  yes  " + "t" * 14 + "…"


def test_colour_adds_nothing_but_colour() -> None:
    coloured = session_table([OTTER, OTTER_OLDER], width=120, colour=True)
    assert "\x1b[32myes\x1b[0m" in coloured
    assert "\x1b[31mno \x1b[0m" in coloured
    for code in ("\x1b[1m", "\x1b[31m", "\x1b[32m", "\x1b[0m"):
        coloured = coloured.replace(code, "")
    assert coloured == session_table([OTTER, OTTER_OLDER], width=120)


@pytest.mark.parametrize(
    ("timestamp", "shown"),
    [
        ("2026-04-25T09:12:01Z", "2026-04-25 09:12"),
        ("2026-05-07T10:01:00", "2026-05-07 10:01"),
        ("2026-05-07 10:01:00.123", "2026-05-07 10:01"),
        ("2026-05-07T01:30:00+02:00", "2026-05-06 23:30"),
        ("2026-05-07T23:30:00.5-0100", "2026-05-08 00:30"),
        ("", ""),
        ("yesterday", "yesterday"),
        ("yesterdayTthe 1st of+May", "yesterdayTthe 1st of+May"),
    ],
)
def test_dates_are_utc(timestamp: str, shown: str) -> None:
    assert date(timestamp) == shown


def test_costs() -> None:
    assert cost({"cost_usd": 0.00005}) == "$0.0001"
    assert cost({"cost_usd": 0.0, "cost_source": "provider"}) == "$0.0000"
    assert cost({"cost_usd": None}) == "$0.0000"
    assert cost({"cost_usd": 0.0, "cost_source": "unpriced"}) == "unpriced"
    assert cost({"cost_usd": 12345.5}, 6) == "$12345.500000"


def test_text_helpers() -> None:
    assert printable("a\r\nb\rc\td\u00a0e\u200df\ud800") == "a\nb\nc\td e\u200df�"
    assert one_line("a\nb") == "a b"
    assert cut("abc", 3) == "abc"
    assert cut("abcd", 3) == "ab…"
    assert cut("漢字漢", 4) == "漢…"


def test_tables_load_nothing_heavy() -> None:
    code = (
        "import sys; before = set(sys.modules); import chimera_cli.tables; "
        "print(*sorted(name for name in set(sys.modules) - before if not name.startswith('chimera')))"
    )
    loaded = subprocess.run([sys.executable, "-S", "-c", f"import sys; sys.path[:0] = {sys.path!r}; {code}"],
                            capture_output=True, text=True, check=True)  # fmt: skip
    assert loaded.stdout.split() == ["__future__"]


def test_the_command_loads_msgspec_only_for_the_files() -> None:
    code = "import sys, chimera_cli.commands.sessions; print({'msgspec', 'rich', 'datetime'} & set(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert loaded.stdout == "set()\n"

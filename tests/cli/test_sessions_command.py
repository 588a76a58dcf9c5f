"""``chimera sessions``, ``chimera <flavour> sessions`` and ``chimera mink runs`` as real processes.

Every command is run over the files alone (no daemon can be started) and, at the end, against a daemon.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.daemon import RunningDaemon
from tests.support.files import write_session

OTTER, STOAT, MINK, FERRET, BADGER = (
    "otter-20260425T091201-71032a5e",
    "stoat-20260430T101455-1f3c2a8b",
    "mink-20260426T091201-0badcafe",
    "ferret-20260427T091201-0badcafe",
    "badger-20260428T091201-0badcafe",
)


def chimera(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "chimera_cli", *words],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def printed(*words: str, **environment: str) -> str:
    done = chimera(*words, **environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


def refused(*words: str) -> str:
    """What standard error says of a command that must end with 2 and print nothing."""
    done = chimera(*words)
    assert (done.returncode, done.stdout) == (2, "")
    return "".join(line for line in done.stderr.splitlines(keepends=True) if not line.startswith("note: "))


@pytest.fixture
def root(home: Path) -> Path:
    """A home with five sessions in which no daemon can be started: its log file is a folder."""
    home.mkdir()
    (home / "run").mkdir(mode=0o700)
    (home / "run" / "chimerad.log").mkdir()
    folder = home / "eventlog"
    write_session(folder, OTTER, started_at="2026-04-25T09:12:01Z", title="Flaky", prompt="trace the bug", cwd="/w",
                  permission_mode="ask", cost_usd=0.0241, steps=3, tool_calls_total=4,
                  events=("user_message", "tool_call", "agent_result"))  # fmt: skip
    write_session(
        folder, STOAT, model="kimi-k2.6", prompt="list the files\nand read", steps=4, events=("tool_call",) * 2
    )
    write_session(folder, MINK, started_at="2026-04-26T09:12:01Z", success=False, error="boom", model="m2")
    write_session(folder, FERRET, started_at="2026-04-27T09:12:01Z", sandbox="none", approval="never")
    write_session(folder, BADGER, started_at="2026-04-28T09:12:01Z")
    return folder


def first_column(table: str) -> list[str]:
    return [line.split()[0] for line in table.splitlines()[1:]]


def test_all_flavours_are_listed_newest_first_with_their_origin(root: Path) -> None:
    table = printed("sessions", "list")
    assert table.splitlines()[0].split()[:2] == ["SESSION_ID", "ORIGIN"]
    assert first_column(table) == [STOAT, BADGER, FERRET, MINK, OTTER]
    assert table == printed("sessions") == printed("sessions", "list", "--limit", "0")


def test_a_flavour_lists_its_own_or_all(root: Path) -> None:
    assert first_column(printed("otter", "sessions", "list")) == [OTTER]
    assert first_column(printed("mink", "runs")) == [MINK]
    assert first_column(printed("otter", "sessions", "list", "--all-clis")) == [STOAT, BADGER, FERRET, MINK, OTTER]
    assert printed("stoat", "sessions", "list").endswith("\n\n1 session(s)\n")
    assert printed("weasel", "sessions", "list") == "(no weasel sessions found)\n"


def test_filters_in_both_spellings(root: Path) -> None:
    assert first_column(printed("sessions", "list", "--limit", "2")) == [STOAT, BADGER]
    assert first_column(printed("otter", "sessions", "--all-clis", "--sessions-limit=2")) == [STOAT, BADGER]
    assert first_column(printed("sessions", "list", "--model", "m2")) == [MINK]
    assert first_column(printed("mink", "runs", "list", "--runs-model", "m2")) == [MINK]
    assert first_column(printed("otter", "sessions", "list", "--sessions-model", "m1", "--no-rich")) == [OTTER]
    assert first_column(printed("sessions", "list", "--since", "2026-04-28")) == [STOAT, BADGER]
    assert first_column(printed("sessions", "list", "--failed-only")) == [MINK]
    assert MINK not in printed("sessions", "list", "--success-only", "--failed-only")


def test_json_is_an_array_of_records(root: Path) -> None:
    text = printed("otter", "sessions", "list", "--json")
    (record,) = json.loads(text)
    assert text == json.dumps([record], indent=2) + "\n"
    assert list(record)[:13] == [
        "session_id", "started_at", "ended_at", "model", "prompt", "title", "success", "cost_usd", "steps",
        "tool_calls", "path", "error", "cli_origin",
    ]  # fmt: skip
    assert (record["session_id"], record["path"], record["events"]) == (OTTER, str(root / OTTER), 3)
    assert text == printed("otter", "--json", "sessions") == printed("otter", "sessions", "--sessions-json", "list")
    assert printed("shrew", "--json", "sessions", "list") == "[]\n"


def test_show_of_otter(root: Path) -> None:
    assert printed("otter", "sessions", "show", OTTER) == (
        f"Session: {OTTER}\n"
        f"  path:       {root / OTTER}\n"
        "  model:      m1\n"
        "  title:      Flaky\n"
        "  started:    2026-04-25T09:12:01Z\n"
        "  ended:      2026-04-30T10:15:30Z\n"
        "  cwd:        /w\n"
        "  perm-mode:  ask\n"
        "  steps:      3\n"
        "  tool calls: 4\n"
        "  cost:       $0.024100\n"
        "  success:    yes\n"
        "\n"
        "Prompt:\n"
        "  trace the bug\n"
        "\n"
        "Events (3):\n"
        "  [user] user_message 1\n"
        '  [tool_call] {"content": "tool_call 2"}\n'
        "  [agent] steps=0 ok=no output=\n"
    )


def test_show_of_the_others(root: Path) -> None:
    assert printed("stoat", "sessions", "show", STOAT) == (
        f"session  {STOAT}\n"
        f"path     {root / STOAT}\n"
        "started  2026-04-30T10:14:55Z\n"
        "ended    2026-04-30T10:15:30Z\n"
        "model    kimi-k2.6\n"
        "success  True\n"
        "steps    4\n"
        "\n"
        "prompt:\n"
        "list the files\nand read\n"
        "\n"
        "events: 2 record(s)\n"
    )
    mink = printed("mink", "runs", "show", MINK)
    assert mink.startswith(f"Run: {MINK}\n")
    assert "  success:    no\n  error:      boom\n\nPrompt:\n  hi\n\nEvents (0):\n  (no events recorded)\n" in mink
    assert "Events" not in printed("mink", "runs", "show", MINK, "--no-events")
    ferret = printed("ferret", "sessions", "show", FERRET)
    assert "  sandbox:    none\n  approval:   never\n" in ferret
    badger = printed("badger", "sessions", "show", BADGER)
    assert "cwd" not in badger
    assert "perm-mode" not in badger


def test_every_flavour_shows_every_session(root: Path) -> None:
    for words in (["mink", "runs"], ["stoat", "sessions"], ["sessions"]):
        assert OTTER in printed(*words, "show", OTTER)


def test_show_prints_thirty_events_and_how_many_more(root: Path) -> None:
    write_session(root, "otter-many", events=("user_message",) * 33)
    short = printed("otter", "sessions", "show", "otter-many").splitlines()
    assert short[-2:] == ["  [user] user_message 30", "  … 3 more event(s); --full prints them all"]
    full = printed("otter", "sessions", "show", "--full", "otter-many").splitlines()
    assert "Events (33):" in full
    assert full[-1] == "  [user] user_message 33"
    assert full == printed("otter", "sessions", "show", "otter-many", "--full").splitlines()


def test_full_prints_long_events_whole_and_the_short_form_cuts_them(root: Path) -> None:
    folder = write_session(root, "otter-long")
    content = "first line\n" + "x" * 300
    (folder / "event-000001-user.json").write_text(
        json.dumps({"type": "user_message", "metadata": {"content": content}})
    )
    (cut_line,) = printed("sessions", "show", "otter-long").splitlines()[-1:]
    assert cut_line == "  " + ("[user] first line " + "x" * 300)[:199] + "…"
    assert printed("sessions", "show", "otter-long", "--full").endswith(f"  [user] first line\n  {'x' * 300}\n")


def test_show_json_always_has_the_events(root: Path) -> None:
    for words in (["otter", "sessions", "show", OTTER, "--json"], ["stoat", "--json", "sessions", "show", OTTER],
                  ["mink", "runs", "show", "--sessions-json", OTTER]):  # fmt: skip
        text = printed(*words)
        shown = json.loads(text)
        assert text == json.dumps(shown, indent=2) + "\n"
        assert list(shown) == ["session_id", "path", "summary", "events"]
        assert shown["summary"]["model"] == "m1"
        assert [event["type"] for event in shown["events"]] == ["user_message", "tool_call", "agent_result"]
    assert json.loads(printed("sessions", "show", MINK, "--json"))["events"] == []


def test_missing_events_are_named(root: Path) -> None:
    (root / OTTER / "event-000002-tool_call.json").unlink()
    (root / OTTER / "event-000007-late.json").write_text('{"type": "late", "metadata": {}}')
    done = chimera("otter", "sessions", "show", OTTER)
    assert done.returncode == 0
    assert "Events (3):" in done.stdout
    assert f"warning: events are missing from the log of {OTTER}: 2, 4-6\n" in done.stderr


def test_a_bad_session_is_reported_and_hides_nothing(root: Path) -> None:
    write_session(root, "otter-torn", "{")
    done = chimera("otter", "sessions")
    assert first_column(done.stdout) == [OTTER]
    assert "warning: otter-torn: " in done.stderr


def test_errors_of_the_mink_and_otter_families(root: Path) -> None:
    (root / "otter-aborted").mkdir()
    otter_hint = f"hint: list available sessions with 'chimera otter sessions list' (eventlog root: {root})\n"
    mink_hint = f"hint: list available runs with 'chimera mink runs list' (eventlog root: {root})\n"
    ask_otter, ask_mink = ("otter", "sessions", "show"), ("mink", "runs", "show")
    assert refused(*ask_otter, "otter-x") == f"error: session not found: otter-x\n{otter_hint}"
    assert refused(*ask_otter, "otter-aborted") == f"error: session otter-aborted has no summary.json\n{otter_hint}"
    assert refused(*ask_mink, "mink-x") == f"error: run not found: mink-x\n{mink_hint}"
    assert refused(*ask_mink, "otter-aborted") == (
        f"error: run 'otter-aborted' has no summary.json (did the run abort early?)\n{mink_hint}"
    )
    assert refused("badger", "sessions", "show", "badger-x") == "error: session not found: badger-x\n"
    assert refused("sessions", "show", "x") == (
        "error: session not found: x\n"
        f"hint: list available sessions with 'chimera sessions list' (eventlog root: {root})\n"
    )
    assert refused(*ask_mink) == (
        "error: 'mink runs show' requires a RUN_ID argument (see 'mink runs list' for available ids).\n"
    )
    assert refused(*ask_otter) == (
        "error: 'otter sessions show' requires a SESSION_ID argument (see 'otter sessions list' for available ids).\n"
    )
    assert refused("badger", "sessions", "show") == "error: 'badger sessions show' requires a SESSION_ID argument.\n"
    assert refused("mink", "runs", "frob") == "error: unknown 'runs' action: 'frob' (supported: list, show)\n"
    assert refused("sessions", "frob", "x") == "error: unknown 'sessions' action: 'frob' (supported: list, show)\n"
    assert refused("sessions", "list", "x") == "error: unexpected argument 'x'\n"


def test_errors_of_the_stoat_family(root: Path) -> None:
    (root / "stoat-aborted").mkdir()
    ask = ("stoat", "sessions", "show")
    assert refused(*ask) == "stoat sessions show: missing session id\n"
    assert refused(*ask, "stoat-x") == "stoat sessions show: session not found: stoat-x\n"
    assert refused(*ask, "stoat-aborted") == "stoat sessions show: session 'stoat-aborted' has no summary.json\n"
    assert refused("shrew", "sessions", "frob") == "shrew sessions: unknown action 'frob' (supported: list, show)\n"


@pytest.mark.parametrize("value", ["yesterday", "7y"])
def test_a_since_that_is_none_is_refused(root: Path, value: str) -> None:
    sentence = f"invalid --since '{value}': expected '<N>{{s,m,h,d,w}}' or ISO-8601 timestamp\n"
    assert refused("otter", "sessions", "list", "--since", value) == f"error: {sentence}"
    assert refused("stoat", "sessions", "list", "--since", value) == f"stoat sessions list: {sentence}"
    assert refused("sessions", "list", "--since", "") == "error: empty --since value\n"


@pytest.mark.parametrize("session_id", ["../eventlog", "/etc", "..", ".journal", "a\x1b[2Jb"])
def test_an_id_with_path_tricks_is_refused_in_one_sentence(root: Path, session_id: str) -> None:
    said = refused("badger", "sessions", "show", session_id)
    assert said.startswith("error: the session id ")
    assert said.count("\n") == 1
    assert "\x1b" not in said


def test_a_malformed_summary_says_why(root: Path) -> None:
    write_session(root, "otter-torn", "{")
    assert "summary.json is malformed: Expecting property name" in refused("otter", "sessions", "show", "otter-torn")


def test_wrong_usage_ends_with_two(root: Path) -> None:
    assert "--limit" in refused("sessions", "list", "--limit", "many")
    assert "--frob" in refused("sessions", "list", "--frob")


def test_help_teaches(root: Path) -> None:
    text = printed("otter", "sessions", "--help")
    assert "usage: chimera otter sessions [list] [options] | chimera otter sessions show SESSION_ID [options]" in text
    assert "chimera otter sessions list --since 7d" in text


def test_escape_sequences_never_reach_the_output(root: Path) -> None:
    write_session(root, "otter-evil", prompt="a\x1b]0;x\x07\x9b2Jb", title="\x1b[31mred", model="\x1b[0m", cwd="\x1b",
                  error="\x1b", events=("user_message",))  # fmt: skip
    (root / "otter-evil" / "event-000002-evil.json").write_text(
        '{"type": "a\\u001b[2J", "metadata": {"k\\u009b": "\\u001b"}}'
    )
    for words in (["sessions"], ["sessions", "show", "otter-evil"], ["sessions", "show", "otter-evil", "--full"],
                  ["stoat", "sessions", "show", "otter-evil", "--full"],
                  ["sessions", "show", "otter-evil", "--json"]):  # fmt: skip
        text = printed(*words)
        assert "otter-evil" in text
        assert all(character.isprintable() or character == "\n" for character in text)


def on_a_terminal(*words: str, **environment: str) -> str:
    """What a command prints on a pseudo-terminal."""
    ours, theirs = os.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "chimera_cli", *words],
        env={**os.environ, "TERM": "xterm", **environment},
        stdout=theirs,
        stderr=subprocess.DEVNULL,
    )
    os.close(theirs)
    output = b""
    while True:
        try:
            chunk = os.read(ours, 65536)
        except OSError:  # EIO: the other side was closed
            break
        if not chunk:
            break
        output += chunk
    os.close(ours)
    assert process.wait(60) == 0
    return output.decode().replace("\r\n", "\n")


def test_a_terminal_gets_colour_and_lines_that_fit(root: Path) -> None:
    coloured = on_a_terminal("sessions", "list", COLUMNS="100")
    assert "\x1b[" in coloured
    plain = on_a_terminal("sessions", "list", COLUMNS="100", NO_COLOR="1")
    assert "\x1b" not in plain
    assert plain == on_a_terminal("sessions", "list", "--no-color", COLUMNS="100")
    assert max(map(len, plain.splitlines())) <= 100
    assert max(map(len, printed("sessions", "list").splitlines())) > 100


def test_the_daemon_and_the_files_print_the_same(
    root: Path, home: Path, start_daemon: Callable[[], RunningDaemon]
) -> None:
    commands = [
        ["sessions", "list"],
        ["sessions", "list", "--json"],
        ["sessions", "list", "--limit", "2"],
        ["sessions", "list", "--since", "2026-04-28", "--success-only"],
        ["mink", "runs", "list", "--runs-model", "m2"],
        ["stoat", "sessions", "list", "--all-clis"],
        ["otter", "sessions", "show", OTTER],
        ["stoat", "sessions", "show", STOAT, "--full"],
        ["sessions", "show", OTTER, "--json"],
    ]
    failures = [
        ["otter", "sessions", "show", "otter-x"],
        ["stoat", "sessions", "show", "../x"],
        ["mink", "runs", "show", "otter-aborted"],
        ["otter", "sessions", "show", "otter-torn"],
    ]
    (root / "otter-aborted").mkdir()
    write_session(root, "otter-torn", "{")
    from_files = [printed(*words) for words in commands] + [refused(*words) for words in failures]
    daemon = start_daemon()
    from_daemon = [printed(*words) for words in commands] + [refused(*words) for words in failures]
    assert from_daemon == from_files
    assert daemon.stop() == 0


def test_all_pages_of_a_long_list_and_a_long_log_arrive(home: Path, daemon: RunningDaemon) -> None:
    with daemon.connect() as connection:
        for _ in range(3):
            connection.call("sessions.create", flavour="otter", prompt="p")
        session_id = connection.call("sessions.create", flavour="mink", prompt="long")["session_id"]
        for first in range(0, 2500, 500):
            events = [{"type": "user_message", "metadata": {"content": str(first + i)}} for i in range(500)]
            connection.call("sessions.append", session_id=session_id, events=events, durability="buffered")
    assert len(json.loads(printed("sessions", "list", "--limit", "0", "--json"))) == 4
    assert len(json.loads(printed("sessions", "list", "--limit", "3", "--json"))) == 3
    shown = json.loads(printed("sessions", "show", session_id, "--json"))
    assert [event["seq"] for event in shown["events"]] == list(range(1, 2501))
    assert "  … 2470 more event(s); --full prints them all\n" in printed("mink", "runs", "show", session_id)


def test_what_is_unpriced_is_never_shown_as_free(home: Path, daemon: RunningDaemon) -> None:
    with daemon.connect() as connection:
        session_id = connection.call("sessions.create", flavour="otter", prompt="p")["session_id"]
    assert " unpriced " in printed("otter", "sessions")
    assert "  cost:       unpriced\n" in printed("otter", "sessions", "show", session_id)

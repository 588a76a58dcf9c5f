"""``chimera demo`` as a user runs it: a real session is journalled, finished and shown."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

from tests.support.command import chimera
from tests.support.daemon import RunningDaemon

STEPS = [
    "user_message", "turn_start",
    "step_start", "tool_call", "tool_result", "step_end",
    "step_start", "tool_call", "tool_result", "step_end",
    "agent_result", "turn_end",
]  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A project with two files and a folder."""
    project = tmp_path / "project"
    (project / "src").mkdir(parents=True)
    (project / "README.md").write_text("# A project\n\nWhat it is.\n")
    (project / "LICENSE").write_text("MIT\n")
    return project


def demonstrate(daemon: RunningDaemon, folder: Path | str, *words: str) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """Run it: what it printed, the summary, and for each tool what it answered."""
    done = chimera("demo", str(folder), *words)
    assert (done.returncode, done.stderr) == (0, "")
    found = re.search(r"^Journalled in (.*)$", done.stdout, re.MULTILINE)
    assert found
    with daemon.connect() as connection:
        session = connection.call("sessions.get", session_id=os.path.basename(found[1]), events=True)
    assert [event["type"] for event in session["events"]] == STEPS
    results = [event["metadata"] for event in session["events"] if event["type"] == "tool_result"]
    return done.stdout, session["summary"], {result["tool"]: result for result in results}


def test_it_journals_what_is_there_and_finishes_with_true_numbers(daemon: RunningDaemon, folder: Path) -> None:
    _, summary, results = demonstrate(daemon, folder)
    assert results["List"]["result"] == "3 entries\nLICENSE\nREADME.md\nsrc/"
    assert results["Read"]["result"] == "# A project\n\nWhat it is.\n"
    assert summary["agent"] == "otter"
    assert summary["prompt"] == "list files then read README"
    assert summary["cwd"] == str(folder)
    assert (summary["state"], summary["success"], summary["error"]) == ("finished", True, None)
    assert (summary["steps"], summary["tool_calls_total"], summary["events"]) == (2, 2, len(STEPS))
    assert (summary["cost_usd"], summary["cost_source"], summary["total_tokens"]) == (0.0, "computed", 0)


def test_it_prints_what_the_commands_print(daemon: RunningDaemon, folder: Path) -> None:
    printed, summary, _ = demonstrate(daemon, folder)
    session_id = summary["session_id"]
    listed, shown = chimera("sessions", "list").stdout, chimera("sessions", "show", session_id).stdout
    assert printed.endswith(f"\n\n$ chimera sessions list\n{listed}\n$ chimera sessions show {session_id}\n{shown}")
    assert json.loads(chimera("sessions", "list", "--json").stdout)[0]["session_id"] == session_id


def test_it_starts_the_daemon_by_itself_and_names_the_home_it_was_given(tmp_path: Path, folder: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    try:
        done = chimera("demo", str(folder), "--home", str(elsewhere))
        assert (done.returncode, done.stderr) == (0, "")
        assert f"\n$ chimera --home={elsewhere} sessions list\n" in done.stdout
    finally:
        assert chimera("--home", str(elsewhere), "daemon", "stop").returncode == 0


def test_a_folder_without_a_readme_is_a_failed_session_that_says_so(daemon: RunningDaemon, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    _, summary, results = demonstrate(daemon, tmp_path / "empty")
    assert results["List"]["result"] == "0 entries"
    assert results["Read"]["is_error"] is True
    assert summary["success"] is False
    assert summary["error"] == results["Read"]["result"] == "README.md: No such file or directory"


def test_a_readme_that_is_no_file_is_not_waited_for(daemon: RunningDaemon, tmp_path: Path) -> None:
    (tmp_path / "odd").mkdir()
    os.mkfifo(tmp_path / "odd" / "README.md")
    _, summary, _ = demonstrate(daemon, tmp_path / "odd")
    assert summary["error"] == "README.md: not a regular file"


def test_large_folders_and_files_are_cut_and_odd_names_come_through(daemon: RunningDaemon, tmp_path: Path) -> None:
    project = tmp_path / "large"
    project.mkdir()
    (project / "Readme.rst").write_text("x" * 10_000)
    for number in range(150):
        (project / f"file-{number:03d}").touch()
    with open(os.fsencode(project) + b"/\xff", "w"):
        pass
    _, summary, results = demonstrate(daemon, project)
    assert summary["success"] is True
    listed = results["List"]["result"].splitlines()
    assert (listed[0], len(listed), listed[-1]) == ("152 entries", 102, "… 52 more")
    assert results["Read"]["result"] == "x" * 4096


def test_what_is_no_folder_is_refused_before_anything_is_journalled(home: Path) -> None:
    done = chimera("demo", "nowhere")
    assert (done.returncode, done.stdout, done.stderr) == (2, "", "error: nowhere is not a folder\n")
    assert not home.exists()

"""Mink's sessions under the name of runs."""

from __future__ import annotations

from pathlib import Path

from chimera.mink.runs import get_run, iter_runs
from tests.support.files import write_session


def test_runs_are_minks_sessions(tmp_path: Path) -> None:
    write_session(tmp_path, "mink-1", {"run_id": "mink-1", "prompt": "p"})
    write_session(tmp_path, "otter-1")
    assert [record.session_id for record in iter_runs(eventlog_root=tmp_path)] == ["mink-1"]
    assert get_run("mink-1", eventlog_root=tmp_path).summary["prompt"] == "p"

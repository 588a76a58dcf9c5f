"""The documented helpers, in every flavour."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

from chimera.flavours import FLAVOUR_NAMES
from chimera.stoat.sessions import get_session, iter_sessions
from tests.support.files import write_session


def test_the_documented_example_works(home: Path) -> None:
    write_session(home / "eventlog", "stoat-20260430T101455-1f3c2a8b", events=("user_message",))
    for record in iter_sessions():
        assert (record.session_id, record.cost_usd) == ("stoat-20260430T101455-1f3c2a8b", 0.01)
    detail = get_session("stoat-20260430T101455-1f3c2a8b")
    assert (detail.summary["model"], len(detail.events)) == ("m1", 1)


@pytest.mark.parametrize("flavour", FLAVOUR_NAMES)
def test_every_flavour_reads_its_own_and_all(tmp_path: Path, flavour: str) -> None:
    for name in FLAVOUR_NAMES:
        write_session(tmp_path, f"{name}-1")
    module = importlib.import_module(f"chimera.{flavour}.sessions")
    assert [record.cli_origin for record in module.iter_sessions(eventlog_root=tmp_path)] == [flavour]
    assert len(list(module.iter_sessions(all_clis=True, eventlog_root=tmp_path))) == len(FLAVOUR_NAMES)
    assert module.get_session("otter-1", eventlog_root=tmp_path).session_id == "otter-1"
    assert module.parse_since("2026-04-01").year == 2026

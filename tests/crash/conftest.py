"""Options and markers of the crash tests; how often, how deep, and where they can run."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

CI_ROUNDS = 200
THOROUGH_ROUNDS = 1000
"""With ``--rounds`` from here on nothing is left out of the enumerations either."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = str(Path(__file__).parent)
    for item in items:
        if str(item.path).startswith(here):
            item.add_marker(pytest.mark.crash)


@pytest.fixture
def rounds(request: pytest.FixtureRequest) -> int:
    """How many times to kill: ``--rounds N``."""
    return int(request.config.getoption("--rounds") or CI_ROUNDS)


@pytest.fixture
def share(rounds: int) -> int:
    """Of the states and steps that other tests have much like them, one in so many is tried."""
    return 1 if rounds >= THOROUGH_ROUNDS else 3


@pytest.fixture
def watch(tmp_path: Path) -> Path:
    """The folder whose every change is recorded; the home lies in it."""
    folder = tmp_path / "disk"
    folder.mkdir()
    return folder


@pytest.fixture
def home(watch: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """As the common fixture, but below :func:`watch`."""
    monkeypatch.setenv("CHIMERA_HOME", str(watch / "home"))
    return watch / "home"


@pytest.fixture(autouse=True)
def _importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes under test load our shims by name, wherever they run."""
    repository = str(Path(__file__).parents[2])
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, (repository, os.environ.get("PYTHONPATH")))))

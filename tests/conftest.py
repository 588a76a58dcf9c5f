"""Fixtures for all tests: a home of its own for each, and real daemons that are ended with the test."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.daemon import RunningDaemon

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell ignores Ctrl-C for what it runs in the background; the programs under test must not inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--rounds", type=int, help="how many times tests/crash kills at random (default 200)")


@pytest.fixture(autouse=True)
def _no_real_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No test may touch the home of whoever runs it."""
    for name in list(os.environ):
        if name.startswith(("CHIMERA_", "XDG_RUNTIME")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "user"))
    (tmp_path / "user").mkdir()


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A temporary CHIMERA_HOME, set in the environment."""
    folder = tmp_path / "home"
    monkeypatch.setenv("CHIMERA_HOME", str(folder))
    return folder


@pytest.fixture
def start_daemon(home: Path) -> Iterator[Callable[..., RunningDaemon]]:
    """Start daemons in the temporary home; each is ready when returned, and killed when the test ends."""
    running: list[RunningDaemon] = []

    def start(*arguments: str, **options: object) -> RunningDaemon:
        running.append(RunningDaemon(home, *arguments, **options))  # type: ignore[arg-type]
        return running[-1].wait_ready()

    yield start
    for daemon in running:
        if daemon.process.poll() is None:
            daemon.kill()


@pytest.fixture
def daemon(start_daemon: Callable[..., RunningDaemon]) -> RunningDaemon:
    return start_daemon()

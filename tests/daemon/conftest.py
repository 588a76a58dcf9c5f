"""What the daemon's tests share: each file has a ``daemon`` of its own, each test a connection to it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.daemon import Connection, RunningDaemon


@pytest.fixture
def connection(daemon: RunningDaemon) -> Iterator[Connection]:
    with daemon.connect() as opened:
        yield opened

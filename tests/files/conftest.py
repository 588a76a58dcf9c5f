"""Fixtures of the tests of files."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.files.bench import Bench
from tests.files.privileges import NOBODY


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


@pytest.fixture
def nobodys_folder() -> Iterator[Path]:
    """A folder that nobody may enter and write; those of pytest are closed to others."""
    folder = os.path.realpath(tempfile.mkdtemp())
    if os.geteuid() == 0:
        os.chown(folder, NOBODY, -1)
    yield Path(folder)
    shutil.rmtree(folder)

"""What the documents show works as shown, what there is to use is described, and what they point at is there.

That every configuration key stands in docs/configuration.md is held by tests/daemon/test_config.py, that docs/rpc.md
is the contract by tests/daemon/test_contract.py.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from chimera.flavours import FLAVOURS
from chimera_cli.main import VERBS, Parser, parse
from tests.support.documents import HOME, REPOSITORY, blocks, commands, documents, run_commands

IDS = [path.relative_to(REPOSITORY).as_posix() for path in documents()]
WITH_COMMANDS = [path for path in documents() if commands(path)]
WITH_PYTHON = [path for path in documents() if any(blocks(path, "python"))]
TOOLS = ("bash", "jq", "socat")


@pytest.fixture
def reader(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    """The environment of somebody who has just installed chimera; the daemon that comes up in it is stopped."""
    with tempfile.TemporaryDirectory(prefix="reader-") as folder:  # short: a socket's path must fit
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("CHIMERA_", "XDG_"))}
        path = f"{os.path.dirname(sys.executable)}{os.pathsep}{os.environ['PATH']}"
        environment = {**kept, "HOME": folder, "PATH": path, "LC_ALL": "C.UTF-8"}
        yield environment
        stop = [sys.executable, "-m", "chimera_cli", "daemon", "stop"]
        subprocess.run(stop, env=environment, capture_output=True, timeout=60, check=True)


@pytest.mark.skipif(any(shutil.which(tool) is None for tool in TOOLS), reason=f"needs {', '.join(TOOLS)}")
@pytest.mark.parametrize("document", WITH_COMMANDS, ids=lambda path: path.name)
def test_commands_print_what_the_document_says(document: Path, reader: dict[str, str]) -> None:
    given = commands(document)
    for command, printed in zip(given, run_commands(given, reader, Path(reader["HOME"])), strict=True):
        shown = printed.replace(os.path.realpath(reader["HOME"]), HOME).replace(reader["HOME"], HOME)
        assert command.matches(shown), f"$ {command.text}\n{shown}"


@pytest.mark.parametrize("document", WITH_PYTHON, ids=lambda path: path.name)
def test_python_prints_what_the_document_says(document: Path, reader: dict[str, str]) -> None:
    """The blocks of a document are one program; a ``text`` block is what the block before it prints."""
    given = list(blocks(document, "python", "text"))
    program = "".join(content for language, content in given if language == "python")
    expected = "".join(content for language, content in given if language == "text")
    done = subprocess.run(
        [sys.executable, "-"],
        input=program,
        env=reader,
        cwd=reader["HOME"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == expected


def test_there_are_documents_to_run() -> None:
    assert {path.name for path in WITH_COMMANDS} >= {"README.md", "quickstart.md"}
    assert {path.name for path in WITH_PYTHON} >= {"quickstart.md", "embedding.md"}


def options_of(*words: str) -> set[str]:
    """Every option that a command's own help names."""
    shown = subprocess.run(
        [sys.executable, "-m", "chimera_cli", *words, "--help"], capture_output=True, text=True, timeout=60, check=True
    ).stdout
    return set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", shown)) - {"--help"}


COMMANDS = [
    ("demo",), ("daemon", "run"), ("daemon", "start"), ("daemon", "stop"), ("daemon", "status"), ("sessions",),
    ("append",), ("tail",), ("rpc",), ("mink", "runs"),
]  # fmt: skip


def test_every_command_is_described() -> None:
    text = (REPOSITORY / "docs" / "cli.md").read_text()
    headings = set(re.findall(r"^## `chimera (\w+)", text, re.MULTILINE))
    assert headings == set(VERBS)
    for flavour in FLAVOURS.values():
        assert f"`chimera {flavour.name} {flavour.verb}" in text


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_every_option_is_described(words: tuple[str, ...]) -> None:
    text = (REPOSITORY / "docs" / "cli.md").read_text()
    assert {option for option in options_of(*words) if f"`{option}" not in text} == set()

"""What the documents show works as shown, what there is to use is described, and what they point at is there.

That every configuration key stands in docs/configuration.md is held by tests/daemon/test_config.py, that docs/rpc.md
is the contract by tests/daemon/test_contract.py.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from chimera.flavours import FLAVOURS
from chimera.sessions.eventlog.log import EventLog
from chimera_cli.main import VERBS
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
    """The blocks of a document are one program, run in a session's folder; a ``text`` block is what they print."""
    given = list(blocks(document, "python", "text"))
    program = "".join(content for language, content in given if language == "python")
    expected = "".join(content for language, content in given if language == "text")
    session = Path(reader["HOME"], "mink-20260101T000000-00000000")
    with EventLog(session) as log:
        log.append("user_message", {"content": "hello"})
        log.append("agent_result", {"output": "hello yourself"})
    done = subprocess.run(
        [sys.executable, "-"],
        input=program,
        env=reader,
        cwd=session,
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


@pytest.mark.parametrize("document", documents(), ids=IDS)
def test_links_lead_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", document.read_text()):
        if re.match(r"https?://", target):
            continue
        name, _, heading = target.partition("#")
        file = (document.parent / name) if name else document
        assert file.exists(), target
        assert not heading or heading in anchors(file), target


def anchors(document: Path) -> set[str]:
    """The anchors that a forge gives to a document's headings."""
    headings = re.findall(r"^#+ (.*)$", document.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", documents(), ids=IDS)
def test_no_path_of_anybodys_machine(document: Path) -> None:
    homes = re.findall(r"(?<![\w.~])/(?:work|root|tmp/venv|Users/\w+|home/(?!me\b)\w+)\b", document.read_text())
    assert homes == []


@pytest.mark.parametrize("document", documents(), ids=IDS)
def test_every_document_can_be_reached_from_the_readme(document: Path) -> None:
    readme = REPOSITORY / "README.md"
    linked = {(readme.parent / target).resolve() for target in re.findall(r"\]\(([^)\s#]+)", readme.read_text())}
    assert document in linked | {readme}


def test_the_readme_has_one_command_that_shows_it_and_one_that_tests_it() -> None:
    install = "python3 -m venv .venv && .venv/bin/pip install --quiet"
    commands_given = [content.strip() for _, content in blocks(REPOSITORY / "README.md", "sh")]
    assert commands_given == [
        f"{install} . && .venv/bin/chimera demo",
        f"{install} -e '.[test]' && .venv/bin/python -m pytest -q",
    ]


FOR_THE_REPL = ("prompt-toolkit", "rich")
"""Declared so that installing once is enough; used when the REPL is there."""


def test_every_dependency_is_used_and_has_its_reason() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    reasons = (REPOSITORY / "docs" / "architecture.md").read_text()
    given = [*project["dependencies"], *(one for extra in project["optional-dependencies"].values() for one in extra)]
    for requirement in given:
        name = re.split(r"[^\w.-]", requirement)[0]
        assert name == project["name"] or re.search(rf"^\| [^|]*`{re.escape(name)}`", reasons, re.MULTILINE), name
    sources = [path.read_text() for folder in ("chimera", "chimerad") for path in (REPOSITORY / folder).rglob("*.py")]
    for requirement in project["dependencies"]:
        if requirement.startswith(FOR_THE_REPL):
            continue
        module = re.split(r"[^\w.-]", requirement)[0].replace("-", "_").partition(".")[0]
        assert any(re.search(rf"^\s*(?:import|from) {module}\b", text, re.MULTILINE) for text in sources), module


def test_every_rule_of_the_store_names_tests_that_are_there() -> None:
    text = (REPOSITORY / "docs" / "architecture.md").read_text()
    rows = re.findall(r"^\| (\d+) \|(.*)$", text, re.MULTILINE)
    assert [int(number) for number, _ in rows] == list(range(1, 20))
    for file, name in re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", text):
        assert re.search(rf"^(?:async )?def {name}\(", (REPOSITORY / file).read_text(), re.MULTILINE), (file, name)


def test_every_module_the_architecture_names_is_there() -> None:
    text = (REPOSITORY / "docs" / "architecture.md").read_text()
    named = set(re.findall(r"`((?:chimera|chimerad|chimera_cli|tests)/[\w/]+\.py)`", text))
    assert named
    assert {path for path in named if not (REPOSITORY / path).exists()} == set()

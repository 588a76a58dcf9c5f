"""What the commonest commands load, pinned: every one of these modules is paid for with each call in a shell."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.support.daemon import RunningDaemon

CLIENT = {
    "chimera",
    "chimera.client",
    "chimera.client.blocking",
    "chimera.client.discovery",
    "chimera.client.protocol",
    "chimera.client.retry",
    "chimera.errors",
    "chimera.paths",
    "chimera_cli",
    "chimera_cli.entry",
    "chimera_cli.hot",
    "chimera_cli.output",
}

HOT = {
    "sessions list": {"chimera_cli.listing", "chimera_cli.session_source", "chimera_cli.tables", "chimera_cli.text"},
    "sessions list --json": {
        "chimera_cli.listing",
        "chimera_cli.session_source",
        "chimera_cli.tables",
        "chimera_cli.text",
    },
    "append mink-1 --type a {}": {
        "chimera.identifiers",
        "chimera_cli.commands",
        "chimera_cli.commands.append",
        "chimera_cli.given",
    },
    "daemon status": {"chimera_cli.commands", "chimera_cli.commands.daemon"},
    "daemon status --json": {"chimera_cli.commands", "chimera_cli.commands.daemon"},
}

STANDARD = {
    # json, and re, which a console script of pip loads anyway, with what they load
    *("json", "json.decoder", "json.encoder", "json.scanner", "_json"),
    *("re", "re._casefix", "re._compiler", "re._constants", "re._parser", "_sre", "copyreg", "enum", "types"),
    *("functools", "_functools", "collections", "_collections", "operator", "_operator", "itertools", "keyword"),
    *("reprlib", "__future__", "_socket", "collections.abc"),
}

PROGRAM = """
import sys
before = set(sys.modules)
from chimera_cli import entry
code = entry.run(sys.argv[1:])
print(*sorted(set(sys.modules) - before), file=sys.stderr)
sys.exit(code)
"""


def loaded_by(*words: str) -> set[str]:
    done = subprocess.run([sys.executable, "-c", PROGRAM, *words], capture_output=True, text=True, check=True)
    return set(done.stderr.split())


@pytest.mark.parametrize("words", HOT)
def test_the_hot_verbs_load_exactly_this(daemon: RunningDaemon, words: str) -> None:
    with daemon.connect() as connection:
        connection.call("sessions.create", session_id="mink-1")
    loaded = loaded_by(*words.split())
    ours = {name for name in loaded if name.split(".")[0].startswith("chimera")}
    assert ours == CLIENT | HOT[words]
    assert loaded - ours <= STANDARD


def test_the_version_loads_nothing_at_all() -> None:
    assert {name for name in loaded_by("--version") if name != "__future__"} == {
        "chimera",
        "chimera_cli",
        "chimera_cli.entry",
        "chimera_cli.hot",
    }


@pytest.mark.parametrize(
    ("words", "never"),
    [
        (("rpc", "daemon.hello"), {"asyncio", "typing", "msgspec", "socket", "chimera.flavours", "subprocess"}),
        (("sessions", "list", "--since", "1d"), {"asyncio", "msgspec", "subprocess", "prompt_toolkit", "rich"}),
    ],
)
def test_other_verbs_load_nothing_heavy(daemon: RunningDaemon, words: tuple[str, ...], never: set[str]) -> None:
    assert not loaded_by(*words) & never

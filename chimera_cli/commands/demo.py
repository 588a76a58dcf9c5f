"""``chimera demo [FOLDER]``: journal a small real session, finish it, and show it as the other commands do.

A built-in script of two steps stands in for an agent; no model is asked. What it journals really happens, and it goes
by the same client calls as any other script would.
"""

from __future__ import annotations

import errno
import os
import shlex
import stat

from chimera.client.blocking import Client
from chimera.errors import InvalidParams
from chimera_cli.output import write

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable
    from typing import Any

__all__ = ["add_arguments", "run"]

PROMPT = "list files then read README"
MODEL = "built-in script"
NAMES_SHOWN = 100
HEAD_BYTES = 4096

EXAMPLES = """\
examples:
  chimera demo                   in the current folder
  chimera demo ~/src/project
"""


def add_arguments(subparsers: argparse._SubParsersAction[Any]) -> None:
    parser = subparsers.add_parser(
        "demo",
        description="Journal a small real session, a built-in script that lists the files of a folder and reads its "
        "README, then show it with `sessions list` and `sessions show`.",
        epilog=EXAMPLES,
    )
    parser.add_argument("folder", metavar="FOLDER", nargs="?", default=".", help="where to look (the current folder)")


def run(arguments: Any) -> int:
    folder = os.path.abspath(arguments.folder)
    if not os.path.isdir(folder):
        raise InvalidParams(f"{arguments.folder} is not a folder")
    with Client(arguments.socket, arguments.home) as client:
        session = client.call("sessions.create", flavour="otter", prompt=PROMPT, model=MODEL, cwd=_text(folder))
        _Script(client, session["session_id"]).play(folder)
    write(f"Journalled in {session['path']}\n")
    _print_command(arguments, "sessions", "list")
    _print_command(arguments, "sessions", "show", session["session_id"])
    return 0


class _Script:
    """The turn: each event is journalled when it happens, a tool's call before the tool runs."""

    def __init__(self, client: Client, session_id: str) -> None:
        self._client = client
        self._session_id = session_id
        self._steps = 0
        self._errors: list[str] = []

    def play(self, folder: str) -> None:
        self._journal("user_message", content=PROMPT)
        self._journal("turn_start", turn_id="turn-1")
        names: list[str] = []
        listed = self._step("List", {"path": "."}, lambda: _listed(folder, names))
        read = self._step("Read", {"path": _readme_of(names)}, lambda: _head(folder, _readme_of(names)))
        self._end([listed, read])

    def _step(self, tool: str, args: dict[str, str], work: Callable[[], str]) -> str:
        """One step with one tool call; what the tool answered."""
        self._steps += 1
        call_id = f"call-{self._steps}"
        self._journal("step_start", step=self._steps)
        self._journal("tool_call", call_id=call_id, tool=tool, args=args)
        try:
            result, failed = work(), False
        except OSError as error:
            result, failed = f"{args['path']}: {error.strerror or error}", True
            self._errors.append(result)
        self._journal("tool_result", call_id=call_id, tool=tool, result=result, is_error=failed)
        self._journal("step_end", step=self._steps)
        return result

    def _end(self, results: list[str]) -> None:
        """Close the turn and the session with what really was: no model was asked, so it cost nothing."""
        success, error = not self._errors, "; ".join(self._errors) or None
        counted = {"steps": self._steps, "tool_calls_total": self._steps}
        output = "; then ".join(result.partition("\n")[0] for result in results)
        self._journal("agent_result", output=output, **counted, cost=0.0, success=success, error=error)
        self._journal("turn_end", turn_id="turn-1", state="done" if success else "failed")
        spent = {"cost_usd": 0.0, "cost_source": "computed", "input_tokens": 0, "output_tokens": 0, "cache_tokens": 0}
        summary = {"success": success, **counted, **spent, "error": error}
        self._client.call("sessions.finish", session_id=self._session_id, summary=summary)

    def _journal(self, event_type: str, **metadata: object) -> None:
        self._client.append(self._session_id, [{"type": event_type, "metadata": metadata}])


def _listed(folder: str, names: list[str]) -> str:
    """What the folder holds, folders with a slash: how many, and the first of them. Fills ``names``."""
    with os.scandir(folder) as entries:
        found = sorted(entry.name + "/" * entry.is_dir() for entry in entries)
    names += found
    rest = [f"… {len(found) - NAMES_SHOWN} more"] if len(found) > NAMES_SHOWN else []
    return "\n".join([f"{len(found)} entries", *map(_text, found[:NAMES_SHOWN]), *rest])


def _readme_of(names: list[str]) -> str:
    return next((name for name in names if name.lower() in ("readme.md", "readme", "readme.rst")), "README.md")


def _head(folder: str, name: str) -> str:
    """The beginning of a file."""
    path = os.path.join(folder, name)
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise OSError(errno.EINVAL, "not a regular file")  # a pipe of that name would keep us waiting
    with open(path, "rb") as file:
        return file.read(HEAD_BYTES).decode("utf-8", "replace")


def _text(name: str) -> str:
    """A file name as text; bytes that are no UTF-8 become escapes."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def _print_command(arguments: Any, *words: str) -> None:
    """Print a command as one would type it, then what it prints."""
    from chimera_cli.main import parse

    given = [f"--{name}={value}" for name in ("home", "socket") if (value := getattr(arguments, name))]
    write(f"\n$ {shlex.join(('chimera', *given, *words))}\n")
    parsed = parse(list(words))
    parsed.home, parsed.socket = arguments.home, arguments.socket
    parsed.run(parsed)

"""The long way: parse the command line with argparse. Only the module of the verb that is used is loaded.

Each ``commands/<verb>.py`` has ``add_arguments(subparsers)`` and ``run(arguments) -> int``.
"""

from __future__ import annotations

import argparse
import sys
from importlib import import_module

from chimera import __version__
from chimera.errors import EXIT_USAGE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

__all__ = ["VERBS", "parse"]

VERBS: dict[str, str] = {
    "demo": "journal a small real session in this folder, and show it",
    "daemon": "run, start, stop the session daemon, or ask how it is",
    "sessions": "list and show sessions of every flavour",
    "append": "journal events: JSON lines from a script or a pipe",
    "tail": "follow a session, or all of them, live",
    "rpc": "call any method of the daemon and print its result",
}
"""Verb, which is also the module in chimera_cli.commands that carries it out, and what it is for. The flavours are
verbs too, all carried out by ``sessions``."""

DESCRIPTION = """\
chimera keeps the sessions of coding agents: every prompt, answer, tool call and cost, journalled by one
background process and never lost. The daemon starts by itself with the first command that needs it."""

EXAMPLES = """\
examples:
  chimera demo                                see it work: a small real session, journalled and shown
  chimera sessions list                       the newest sessions, whoever wrote them
  chimera sessions show ID                    one session with its events
  chimera rpc sessions.create '{"prompt":"count the tests"}'
  chimera append ID --type user_message '{"content":"hello"}'
  tool --events | chimera append ID -         JSON lines, acknowledged when they are on the disk
  chimera tail ID                             what happens in it, as it happens
  chimera daemon status                       is the daemon there, and how is it

Every command has its own help: chimera COMMAND --help.
Exit codes: 0 done, 1 failed, 2 wrong usage or no such session, 130 interrupted."""


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one sentence, whose examples keep their lines, and that guesses no half words.

    Options may stand anywhere among the words of a command: ``show --full ID`` as well as ``show ID --full``.
    """

    def __init__(self, **options: object) -> None:
        options.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        options.setdefault("allow_abbrev", False)
        super().__init__(**options)  # type: ignore[arg-type]
        self._intermixing = False

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        if self._subparsers is not None or self._intermixing:
            return super().parse_known_args(args, namespace)
        self._intermixing = True  # the intermixed way comes back here for its two halves
        try:
            return self.parse_known_intermixed_args(args, namespace)
        finally:
            self._intermixing = False

    def error(self, message: str) -> NoReturn:
        from chimera_cli.output import print_error

        print_error(f"{message} (see `{self.prog} --help`)")
        raise SystemExit(EXIT_USAGE)


def parse(words: list[str]) -> argparse.Namespace:
    """The parsed command line, ``run`` among its members. Ends the process for --help, --version and wrong usage."""
    verb = next((word for word in words if not word.startswith("-")), None)
    parser = Parser(prog="chimera", description=DESCRIPTION, epilog=EXAMPLES)
    parser.add_argument("--version", action="version", version=f"chimera {__version__}")
    parser.add_argument("--home", metavar="PATH", help="the state home instead of $CHIMERA_HOME or ~/.chimera")
    parser.add_argument("--socket", metavar="PATH", help="the daemon's socket instead of $CHIMERA_SOCKET")
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND", dest="verb", parser_class=Parser)
    module = _module_of(verb)
    if module is None:
        return _without_verb(parser, subparsers, words, verb)
    command = import_module(f"chimera_cli.commands.{module}")
    command.add_arguments(subparsers)
    arguments = parser.parse_args(words)
    arguments.run = command.run
    return arguments


def _module_of(verb: str | None) -> str | None:
    if verb is None or verb in VERBS:
        return verb
    from chimera.flavours import FLAVOURS

    return "sessions" if verb in FLAVOURS else None


def _without_verb(
    parser: Parser, subparsers: argparse._SubParsersAction[Parser], words: list[str], verb: str | None
) -> NoReturn:
    """Help and version, or a sentence about a verb that is none."""
    from chimera.flavours import FLAVOURS

    purposes = VERBS | {name: f"the {flavour.verb} of {name}" for name, flavour in FLAVOURS.items()}
    for name, purpose in purposes.items():
        subparsers.add_parser(name, help=purpose)
    if verb is not None:
        from difflib import get_close_matches

        near = get_close_matches(verb, purposes, n=1)
        parser.error(f"unknown command {verb!r}" + (f"; did you mean {near[0]!r}?" if near else ""))
    parser.parse_args(words)
    parser.print_help(sys.stderr)
    raise SystemExit(EXIT_USAGE)

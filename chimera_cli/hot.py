"""The commonest forms of the commonest verbs, understood without argparse, which costs as much as all the rest.

Only what can be read in one way is understood here; everything else, wrong usage included, takes the long way
(main). Both ways end in the same functions, so they print the same bytes.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

__all__ = ["Arguments", "understand"]


class Arguments:
    """What argparse would have made of the same words."""

    def __init__(self, run: Callable[[Any], int], **values: object) -> None:
        self.run = run
        self.__dict__.update(values)


def understand(words: list[str]) -> Arguments | None:
    """The command line, if it is one of the common ones; None otherwise."""
    if words == ["--version"]:
        return Arguments(_version)
    for begin, reader in (
        (["append"], _append),
        (["sessions", "list"], _sessions_list),
        (["daemon", "status"], _daemon_status),
    ):
        if words[: len(begin)] == begin:
            return reader(words[len(begin) :])
    return None


def _version(_: Any) -> int:
    from chimera import __version__

    print(f"chimera {__version__}")
    return 0


def _append(words: list[str]) -> Arguments | None:
    values: dict[str, Any] = {"type": None, "create": False, "seq": False, "buffered": False}
    plain = _options(words, values)
    if plain is None or len(plain) not in (1, 2):
        return None
    from chimera_cli.commands import append

    given = plain[1] if len(plain) == 2 else None
    return Arguments(append.run, session_id=plain[0], json=given, **values)


def _daemon_status(words: list[str]) -> Arguments | None:
    values: dict[str, Any] = {"json": False}
    if _options(words, values) != []:
        return None
    from chimera_cli.commands import daemon

    return Arguments(daemon.run, action="status", **values)


def _sessions_list(words: list[str]) -> Arguments | None:
    values: dict[str, Any] = {"limit": None, "model": None, "json": False}
    if _options(words, values) != []:
        return None
    if values["limit"] is not None:
        if not (values["limit"].isascii() and values["limit"].isdecimal()):
            return None
        values["limit"] = int(values["limit"])
    from chimera_cli import listing

    return Arguments(listing.run_all, **values)


def _options(words: list[str], values: dict[str, Any]) -> list[str] | None:
    """Put ``--name VALUE`` (where the default is None) and ``--name`` (where it is False) into ``values``; the words
    that are no options. None for anything that argparse might see otherwise.
    """
    plain: list[str] = []
    rest = iter(words)
    for word in rest:
        if word == "-" or not word.startswith("-"):
            plain.append(word)
            continue
        name = word[2:]
        if not word.startswith("--") or name not in values:
            return None
        if values[name] is False:
            values[name] = True
            continue
        value = next(rest, "-")
        if value.startswith("-"):
            return None
        values[name] = value
    return plain

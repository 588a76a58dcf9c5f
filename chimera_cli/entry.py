"""The console script ``chimera``: the commonest calls by the short way (hot), all others by the long one (main).

The boundary for everything that ends a command: errors to one sentence and an exit code, Ctrl-C, a closed pipe.
Loads nothing itself, because every call in a shell pays for it.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["main", "run"]

EXIT_INTERRUPTED = 130


def main() -> None:
    """Run the command line and end the process, without the tidying up that an exit of the interpreter does."""
    code = run(sys.argv[1:])
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except OSError:
            code = code or 1
    os._exit(code)


def run(words: list[str]) -> int:
    """Run one command; its exit code. Raises nothing."""
    try:
        if sys.stdout is not None:
            sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
        code = _dispatch(words)
        if sys.stdout is not None:
            sys.stdout.flush()
    except BrokenPipeError:
        return _reader_has_gone()
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except SystemExit as leaving:  # argparse
        return leaving.code if isinstance(leaving.code, int) else 0 if leaving.code is None else 1
    except Exception as error:  # noqa: BLE001 - the boundary: one sentence instead of a traceback
        return _report(error)
    return code


def take_globals(words: list[str]) -> tuple[str | None, str | None, list[str]]:
    """``--home`` and ``--socket``, which may stand anywhere before ``--``, and the words that are left."""
    chosen: dict[str, str] = {}
    rest: list[str] = []
    words = list(words)
    while words:
        word = words.pop(0)
        name, equals, value = word.partition("=")
        if word == "--":
            rest += [word, *words]
            break
        if name not in ("--home", "--socket"):
            rest.append(word)
            continue
        if not equals:
            value = words.pop(0) if words else ""
        if not value:
            from chimera.errors import InvalidParams

            raise InvalidParams(f"{name} needs a path after it")
        chosen[name] = value
    return chosen.get("--home"), chosen.get("--socket"), rest


def _dispatch(words: list[str]) -> int:
    home, socket_path, rest = take_globals(words)
    from chimera_cli import hot

    arguments: Any = hot.understand(rest)
    if arguments is None:
        from chimera_cli.main import parse

        arguments = parse(rest)
    arguments.home, arguments.socket = home, socket_path
    return int(arguments.run(arguments))


def _reader_has_gone() -> int:
    """Whoever read our output has had enough, as ``head`` has: no error, and nothing left to flush at exit."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    return 0


def _report(error: Exception) -> int:
    if os.environ.get("CHIMERA_TRACEBACK"):
        raise error
    from chimera.errors import ChimeraError
    from chimera_cli.output import print_error

    if isinstance(error, ChimeraError):
        print_error(error.message)
        return error.exit_code
    if isinstance(error, OSError):
        print_error(f"{error.filename}: {error.strerror}" if error.filename else error.strerror or str(error))
        return 1
    print_error(f"a bug in chimera: {type(error).__name__}: {error} (CHIMERA_TRACEBACK=1 shows where)")
    return 1

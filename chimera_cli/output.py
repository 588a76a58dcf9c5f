"""What every command prints through: standard output, one-sentence errors, JSON, and what the terminal is.

Loads nothing heavy. Must not know any command.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["can_colour", "note", "print_error", "print_json", "terminal_width", "write"]


def write(text: str) -> None:
    """Print text as it is. A standard output that was closed before we started is written to in silence."""
    print(text, end="")


def note(text: str) -> None:
    """A remark for the person at the terminal, beside the output."""
    if sys.stderr is not None:  # print would take None for standard output
        print(text, file=sys.stderr)


def print_error(message: str) -> None:
    """One sentence on standard error."""
    note(f"error: {message}")


def print_json(value: Any) -> None:
    """JSON: indented for a person at a terminal, one line in a pipe."""
    import json

    indent = 2 if terminal_width() else None
    separators = None if indent else (",", ":")
    write(json.dumps(value, ensure_ascii=not _is_utf8(), indent=indent, separators=separators) + "\n")


def terminal_width() -> int:
    """The columns of the terminal that standard output is; 0 when it is none."""
    if sys.stdout is None or not sys.stdout.isatty():
        return 0
    named = os.environ.get("COLUMNS", "")
    if named.isdecimal() and int(named):
        return int(named)
    try:
        return os.get_terminal_size(sys.stdout.fileno()).columns or 80
    except OSError:
        return 80


def can_colour() -> bool:
    """Whether standard output is a terminal that may be given colours (https://no-color.org)."""
    return not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb" and terminal_width() > 0


def _is_utf8() -> bool:
    return sys.stdout is not None and sys.stdout.encoding.lower().replace("-", "") == "utf8"

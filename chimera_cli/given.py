"""JSON that the user gave, as an argument or on standard input: checked here, sent as it was written.

Must not know what it is for; the daemon has the last word on its contents.
"""

from __future__ import annotations

import json
import sys

from chimera.errors import InvalidParams

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

__all__ = ["on_one_line", "parse_json", "read_standard_input", "standard_input"]


def parse_json(text: str) -> Any:
    """The value of strict JSON; raises InvalidParams that says where it is wrong."""
    try:
        return _decode(text)
    except RecursionError:
        raise InvalidParams("it is nested too deeply") from None
    except ValueError as error:
        raise InvalidParams(f"it is not JSON: {error}") from None


def on_one_line(text: str) -> bytes:
    """The same JSON as a part of a line: it has line breaks only between tokens, where a space will do."""
    try:
        return text.replace("\n", " ").replace("\r", " ").encode()
    except UnicodeEncodeError:
        raise InvalidParams("it is not valid UTF-8") from None


def standard_input() -> int:
    """The descriptor of standard input; raises InvalidParams when it is closed."""
    if sys.stdin is None:
        raise InvalidParams("standard input is closed; give the JSON as an argument")
    return sys.stdin.fileno()


def read_standard_input() -> str:
    """All of standard input as text."""
    standard_input()
    try:
        return sys.stdin.buffer.read().decode("utf-8")
    except UnicodeDecodeError as error:
        raise InvalidParams(f"standard input is not UTF-8: {error.reason} at byte {error.start}") from None


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")


_decode = json.JSONDecoder(parse_constant=_refuse).decode

"""Names of files that hold one event each: ``event-000001-<tail>.json``, any digits, any tail."""

from __future__ import annotations

import re

__all__ = ["event_file_name", "event_file_number"]

_EVENT_FILE = re.compile(r"event-(\d{1,18})-.+\.json\Z", re.ASCII | re.DOTALL)
_UNSAFE = re.compile(r"[^A-Za-z0-9._-]")
_LONGEST_TAIL = 64


def event_file_name(number: int, tail: str) -> str:
    """The file of an event; whatever could leave the folder or upset a shell becomes ``_``."""
    safe = _UNSAFE.sub("_", tail)[:_LONGEST_TAIL] or "_"
    return f"event-{number:06d}-{safe}.json"


def event_file_number(name: str) -> int | None:
    """The number in the name of an event's file; None for any other file."""
    match = _EVENT_FILE.match(name)
    return int(match.group(1)) if match else None

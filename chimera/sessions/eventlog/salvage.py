"""Whole records inside bytes that are no record: two in one line, one behind a torn one, one behind zeros."""

from __future__ import annotations

import json
import re

from chimera.events.chain import stated_chain
from chimera.sessions.eventlog.older_shapes import decode_object

__all__ = ["salvage"]

_START = re.compile(rb'\{\s*"(?:seq|idx|id|event_id|type)"\s*:')
_raw_decode = json.JSONDecoder().raw_decode

_MOST_WORK = 64 * 1024 * 1024
"""How many bytes may be parsed for one line: each of many beginnings may be readable almost to the line's end."""

_WORK_OF_A_BEGINNING = 100


def salvage(line: bytes) -> list[tuple[int, bytes | None]]:
    """The parts of a broken line with their offsets: whole records, and None for what lies between them.

    Holds at least one record, or is empty. An object inside the payload of a torn record is not mistaken for a record
    of the log: a foreign one counts only where nothing but zeros or another record stands before it.
    """
    text = line.decode("latin-1")  # a character a byte: offsets are the line's
    parts: list[tuple[int, bytes | None]] = []
    position = 0
    work = _MOST_WORK + len(line)
    for match in _START.finditer(line):
        start = match.start()
        if start < position:
            continue
        if work <= 0:
            break
        end, read_to = _end_of_object(text, start)
        work -= read_to - start + _WORK_OF_A_BEGINNING
        if end is None:
            continue
        record = line[start:end]
        if not _stands_alone(line, position, start, end, record) or decode_object(record) is None:
            continue
        _add_rest(parts, line, position, start)
        parts.append((start, record))
        position = end
    if parts:
        _add_rest(parts, line, position, len(line))
    return parts


def _end_of_object(text: str, start: int) -> tuple[int | None, int]:
    """Where the JSON object that begins at ``start`` ends, None if it does not, and how far that was read."""
    try:
        _, end = _raw_decode(text, start)
    except json.JSONDecodeError as error:
        return None, max(error.pos, start)
    except (ValueError, RecursionError):
        return None, len(text)
    return end, end


def _stands_alone(line: bytes, position: int, start: int, end: int, record: bytes) -> bool:
    if not line[position:start].strip(b"\0 \t\r\n"):
        return True
    return stated_chain(record) is not None and (end == len(line) or line[end : end + 1] in (b"{", b"\0"))


def _add_rest(parts: list[tuple[int, bytes | None]], line: bytes, start: int, end: int) -> None:
    if line[start:end].strip():
        parts.append((start, None))

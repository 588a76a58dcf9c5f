"""The check of what a client wants to append: strict JSON, bounded in depth, size and integers (store rule 2).

The payload is decoded once, in full, for the verdict alone; the raw bytes are what is kept. Knows no session.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

from chimera.errors import EventTooLarge, InvalidParams
from chimera.identifiers import EPOCH_UNKNOWN, epoch_microseconds

__all__ = ["MAX_DEPTH", "MAX_EVENT_BYTES", "check_metadata", "check_timestamp", "encode_metadata"]

MAX_EVENT_BYTES = 8 * 1024 * 1024
MAX_DEPTH = 128
"""Of the whole event; ``metadata`` itself is the second level."""

_PLAIN = {str, float, bool, type(None)}
"""A payload of these alone is neither deep nor does it hold an integer."""

_ENVELOPE_BYTES = 512
"""More than ids, type, time and chain take together."""

_decode_object = msgspec.json.Decoder(dict[str, Any]).decode
_encode = msgspec.json.Encoder().encode
_digits_to_zero = bytes(ord("0") if 48 <= byte <= 57 else byte for byte in range(256))
_NINETEEN_DIGITS = b"0" * 19
_FULL_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?(Z|[+-]\d\d:\d\d)\Z")


def check_metadata(raw: bytes | memoryview) -> None:
    """Accept the JSON text of an event's ``metadata``, or say what is wrong with it.

    Raises:
        EventTooLarge: the event would be over 8 MiB.
        InvalidParams: not one JSON object of strict UTF-8, deeper than 128 levels, or with a number that is not
            finite or not within 64 bits.
    """
    if len(raw) + _ENVELOPE_BYTES > MAX_EVENT_BYTES:
        raise EventTooLarge(
            f"the event is {len(raw)} bytes long, over the limit of {MAX_EVENT_BYTES}; "
            "keep the large part elsewhere and refer to it"
        )
    try:
        value = _decode_object(raw)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidParams(f"metadata must be one JSON object: {error}") from None
    except RecursionError:
        raise _too_deep() from None
    if not _PLAIN.issuperset(map(type, value.values())):
        _check_thoroughly(value, bytes(raw))


def _check_thoroughly(value: dict[str, Any], text: bytes) -> None:
    """Depth and integers of a nested payload; where the bytes show that neither can be wrong, nothing is walked."""
    if text.count(b"{") + text.count(b"[") >= MAX_DEPTH:
        _check_depth(value)
    if _NINETEEN_DIGITS in text.translate(_digits_to_zero):
        _check_integers(value)


def check_timestamp(text: str) -> str:
    """The text itself when it is a full RFC 3339 time; raises InvalidParams otherwise."""
    if not _FULL_TIME.match(text) or epoch_microseconds(text) == EPOCH_UNKNOWN:
        raise InvalidParams(f"ts {text[:40]!r} is no RFC 3339 time such as 2026-04-25T09:12:08.123Z")
    return text


def encode_metadata(metadata: dict[str, Any]) -> bytes:
    """JSON of a payload given as Python values, checked as if it had come over the socket.

    Text that UTF-8 cannot carry (lone surrogates, as in tool output read with ``surrogateescape``) becomes
    backslash escapes; a number that is not finite is refused, never turned into null.

    Raises:
        InvalidParams, EventTooLarge: as :func:`check_metadata`.
    """
    try:
        raw = _encode(_clean(metadata, 2))
    except (TypeError, OverflowError, RecursionError, msgspec.EncodeError) as error:
        raise InvalidParams(f"metadata cannot be written as JSON: {error}") from None
    check_metadata(raw)
    return raw


def _clean(value: Any, level: int) -> Any:
    if level > MAX_DEPTH + 1:
        raise _too_deep()
    if isinstance(value, str):
        return value if value.isascii() else value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, float) and not (float("-inf") < value < float("inf")):
        raise InvalidParams(f"metadata holds {value}, which JSON cannot carry; give a finite number or null")
    if isinstance(value, dict):
        return {
            _clean(key, level) if isinstance(key, str) else key: _clean(item, level + 1) for key, item in value.items()
        }
    if isinstance(value, list | tuple):
        return [_clean(item, level + 1) for item in value]
    return value


def _too_deep() -> InvalidParams:
    return InvalidParams(f"metadata is nested too deeply; an event may have at most {MAX_DEPTH} levels")


def _check_depth(value: Any) -> None:
    level, layer = 2, [value]
    while layer:
        if level > MAX_DEPTH:
            raise _too_deep()
        inner: list[Any] = []
        for item in layer:
            inner.extend(item.values() if isinstance(item, dict) else item)
        layer = [item for item in inner if isinstance(item, dict | list)]
        level += 1


def _check_integers(value: Any) -> None:
    todo = [value]
    while todo:
        item = todo.pop()
        if isinstance(item, dict):
            todo.extend(item.values())
        elif isinstance(item, list):
            todo.extend(item)
        elif isinstance(item, int) and not -(1 << 63) <= item < (1 << 64):
            raise InvalidParams(f"metadata holds the integer {str(item)[:40]}, which needs more than 64 bits")

"""Events of other writers, normalised; and what can be made of a record of ours that was changed.

Accepted are all shapes the family has written: ``idx, event_id, type, timestamp, metadata``; ``id, type, metadata,
ts``; ``type, metadata``; and any object at all, for a viewer of the family shows that too. Knows no file but its name.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any

import msgspec

from chimera.events.event import Event
from chimera.identifiers import EPOCH_UNKNOWN, epoch_microseconds, format_timestamp

__all__ = [
    "DECODE_ERRORS",
    "UNKNOWN_TYPE",
    "decode_object",
    "derived_id",
    "encode",
    "is_damaged",
    "microseconds_of",
    "normalise",
    "own_id",
]

UNKNOWN_TYPE = "unknown"
"""The type of an event that states none."""

DECODE_ERRORS = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
"""What decoding arbitrary bytes can raise."""

_decode = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode

_ENVELOPE = frozenset({"seq", "idx", "id", "event_id", "parent_id", "type", "ts", "timestamp", "metadata", "chain"})
_OURS = frozenset({"seq", "id", "parent_id", "type", "ts", "metadata"})
_VALID_ID = re.compile(r"[A-Za-z0-9._-]{1,64}\Z")
_VALID_CHAIN = re.compile(r"[0-9a-f]{16}\Z")
_ID_IN_NAME = re.compile(r"event-\d+-([0-9a-f]{8})\.json\Z", re.ASCII)
_CANONICAL = re.compile(rb'\{"seq":\d{1,18},"id":"')
_END_OF_TIME = 253402300800.0
"""Seconds of 10000-01-01, where four digits of a year end."""


class _Metadata(msgspec.Struct):
    metadata: msgspec.Raw


_decode_metadata = msgspec.json.Decoder(_Metadata).decode


def decode_object(raw: bytes) -> dict[str, Any] | None:
    """The JSON object in ``raw``, None when there is none.

    What other writers' JSON libraries let through is cleaned: lone surrogates become backslash escapes, numbers that
    are not finite become null, a byte-order mark is passed over.
    """
    try:
        value = _decode(raw)
    except DECODE_ERRORS:
        value = _decode_leniently(raw)
    return value if isinstance(value, dict) else None


def own_id(event: dict[str, Any], file: str) -> str | None:
    """The id that a record states, or else the name of its file; None when neither holds a valid one."""
    for key in ("id", "event_id"):
        value = event.get(key)
        if isinstance(value, str) and _VALID_ID.match(value):
            return value
    match = _ID_IN_NAME.match(file)
    return match.group(1) if match else None


def derived_id(chain: bytes) -> str:
    """The id of a foreign event that has none: the same at every reading, since what came before it is the same."""
    return "evt-" + chain.decode()


def is_damaged(raw: bytes, event: dict[str, Any]) -> bool:
    """Whether a record without a readable chain is one of ours that was changed, not a foreign one."""
    if not isinstance(event.get("seq"), int):
        return False
    return "chain" in event or (_CANONICAL.match(raw) is not None and event.keys() != _OURS)


def microseconds_of(event: dict[str, Any]) -> int:
    """The time stamp inside, in microseconds since the epoch, or EPOCH_UNKNOWN."""
    for key in ("ts", "timestamp"):
        value = event.get(key)
        if isinstance(value, str):
            microseconds = epoch_microseconds(value)
            if microseconds != EPOCH_UNKNOWN:
                return microseconds
        elif isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < _END_OF_TIME:
            return round(value * 1_000_000)
    return EPOCH_UNKNOWN


def normalise(raw: bytes, seq: int, event_id: str, previous_id: str | None) -> Event:
    """The event of a foreign record.

    A type that is missing or no text becomes ``unknown``; metadata that is no object is wrapped as ``{"raw": ...}``;
    without ``metadata`` the members that are no part of the envelope are the metadata.
    """
    event = decode_object(raw)
    if event is None:
        event = {"metadata": {"raw": raw.decode("utf-8", "backslashreplace")}}
    event_type, chain, parent_id = event.get("type"), event.get("chain"), event.get("parent_id", previous_id)
    return Event(
        seq=seq,
        id=event_id,
        parent_id=parent_id if parent_id is None or isinstance(parent_id, str) else previous_id,
        type=event_type if isinstance(event_type, str) and event_type else UNKNOWN_TYPE,
        ts=_timestamp(event),
        metadata=_metadata(event),
        chain=chain if "seq" in event and isinstance(chain, str) and _VALID_CHAIN.match(chain) else None,
    )


def encode(raw: bytes, seq: int, event_id: str, previous_id: str | None) -> bytes:
    """A foreign record as one line of JSON in our shape; its metadata keep their bytes, but for white space."""
    event = normalise(raw, seq, event_id, previous_id)
    metadata = _metadata_bytes(raw) or _encode(event.metadata)
    envelope = b'{"seq":%d,"id":%b,"parent_id":%b,"type":%b,"ts":%b,"metadata":%b' % (
        seq,
        _encode(event.id),
        _encode(event.parent_id),
        _encode(event.type),
        _encode(event.ts),
        metadata,
    )
    return envelope + (b"}" if event.chain is None else b',"chain":"%b"}' % event.chain.encode())


def _timestamp(event: dict[str, Any]) -> str:
    stated = event.get("ts")
    microseconds = microseconds_of(event)
    if microseconds == EPOCH_UNKNOWN:
        return ""
    if isinstance(stated, str) and stated.endswith("Z") and "T" in stated:
        return stated
    return format_timestamp(microseconds * 1000)


def _metadata(event: dict[str, Any]) -> dict[str, Any]:
    if "metadata" not in event:
        return {key: value for key, value in event.items() if key not in _ENVELOPE}
    metadata = event["metadata"]
    return metadata if isinstance(metadata, dict) else {"raw": metadata}


def _metadata_bytes(raw: bytes) -> bytes | None:
    """The bytes of ``metadata`` as they lie, on one line; None where they are no object or not strict JSON."""
    try:
        _decode(raw)
        metadata = bytes(_decode_metadata(raw).metadata)
    except DECODE_ERRORS:
        return None
    if not metadata.startswith(b"{"):
        return None
    return msgspec.json.format(metadata, indent=-1) if b"\n" in metadata or b"\r" in metadata else metadata


def _decode_leniently(raw: bytes) -> Any:
    try:
        text = raw.decode("utf-8-sig")
        return _clean(json.loads(text, parse_constant=_no_number, parse_float=_finite))
    except (ValueError, RecursionError):
        return None


def _no_number(_: str) -> None:
    """NaN and Infinity, which are no JSON."""


def _finite(text: str) -> float | None:
    value = float(text)
    return value if math.isfinite(value) else None


def _clean(value: Any) -> Any:
    if isinstance(value, str):
        return value if value.isascii() else value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, dict):
        return {_clean(key): _clean(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_clean(item) for item in value]
    return value

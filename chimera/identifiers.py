"""Session ids, event ids, event types and timestamps: made here, validated here, nowhere else.

An id is checked before it touches the file system. Knows no path and opens no file.
"""

from __future__ import annotations

import os
import re
import time
from functools import lru_cache

from chimera.errors import InvalidId

__all__ = [
    "EPOCH_UNKNOWN",
    "check_event_id",
    "check_event_type",
    "check_session_id",
    "epoch_microseconds",
    "flavour_prefix",
    "format_timestamp",
    "new_event_id",
    "new_generation",
    "new_session_id",
    "summary_timestamp",
]

MAX_SESSION_ID_BYTES = 200
EPOCH_UNKNOWN = -1
"""What :func:`epoch_microseconds` answers for a text that is no time."""

IDS_DRAWN_AT_ONCE = 256
"""A call for random bytes costs a fifth of an append where it leaves the process; so many ids share one."""

_event_ids: list[str] = []
os.register_at_fork(after_in_child=_event_ids.clear)

_EVENT_ID = re.compile(r"[A-Za-z0-9._-]{1,64}\Z")
_EVENT_TYPE = re.compile(r"[a-z][a-z0-9_]{0,63}\Z")
_TIME = re.compile(r"(\d{4})-(\d\d)-(\d\d)(?:[T ](\d\d):(\d\d)(?::(\d\d)(?:[.,](\d{1,9}))?)?)?(Z|z|[+-]\d\d:?\d\d)?\Z")


def new_session_id(flavour: str, now: float | None = None) -> str:
    """``<flavour>-<YYYYMMDDTHHMMSS>-<8 hex>``, UTC; ``now`` in seconds since the epoch."""
    stamp = time.strftime("%Y%m%dT%H%M%S", time.gmtime(time.time() if now is None else now))
    return f"{flavour}-{stamp}-{os.urandom(4).hex()}"


def new_event_id() -> str:
    """``evt-`` and 64 random bits as hex."""
    try:
        return _event_ids.pop()
    except IndexError:
        drawn = os.urandom(8 * IDS_DRAWN_AT_ONCE).hex(" ", 8)
        _event_ids.extend(("evt-" + drawn.replace(" ", " evt-")).split(" "))
        return _event_ids.pop()


def new_generation() -> str:
    """16 hex digits that name one history of a session; another history gets another name."""
    return os.urandom(8).hex()


def check_session_id(session_id: object) -> str:
    """The id itself when it is one safe path component of at most 200 bytes of UTF-8.

    Raises:
        InvalidId: not text, empty, over-long, with a separator, NUL or control character, or beginning
            with a dot (``..`` and the store's own ``.journal``, ``.trash``, ``.lost`` among them).
    """
    if not isinstance(session_id, str):
        raise InvalidId("a session id must be text; give the name of a folder in the event log")
    if not session_id:
        raise InvalidId("the session id is empty; give the name of a folder in the event log")
    try:
        size = len(session_id.encode())
    except UnicodeEncodeError:
        raise InvalidId("the session id is not valid UTF-8; give the name of a folder in the event log") from None
    if size > MAX_SESSION_ID_BYTES:
        raise InvalidId(f"the session id is {size} bytes long; at most {MAX_SESSION_ID_BYTES} are allowed")
    if session_id[0] == ".":
        raise InvalidId(f"the session id {session_id!r} begins with a dot; such names are the store's own")
    if "/" in session_id or "\\" in session_id or not session_id.isprintable():
        raise InvalidId(
            f"the session id {session_id!r} holds a separator or a control character; it must be one plain folder name"
        )
    return session_id


def check_event_id(event_id: object) -> str:
    """The id itself when it matches ``[A-Za-z0-9._-]{1,64}``; raises InvalidId otherwise."""
    if not isinstance(event_id, str) or not _EVENT_ID.match(event_id):
        raise InvalidId(f"the event id {_shown(event_id)} is not 1 to 64 of A-Z a-z 0-9 . _ -")
    return event_id


def check_event_type(event_type: object) -> str:
    """The type itself when it matches ``[a-z][a-z0-9_]{0,63}``; raises InvalidId otherwise."""
    if not isinstance(event_type, str) or not _EVENT_TYPE.match(event_type):
        raise InvalidId(f"the event type {_shown(event_type)} is not a lower-case letter and up to 63 of a-z 0-9 _")
    return event_type


def flavour_prefix(session_id: str) -> str:
    """The text before the first ``-``: the flavour, if it is one of the family."""
    return session_id.split("-", 1)[0]


def format_timestamp(epoch_nanoseconds: int) -> str:
    """RFC 3339, UTC, milliseconds, ``Z``: the ``ts`` of an event."""
    seconds, rest = divmod(epoch_nanoseconds, 1_000_000_000)
    return f"{_second_as_text(seconds)}.{rest // 1_000_000:03d}Z"


@lru_cache(maxsize=2)
def _second_as_text(seconds: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))


def summary_timestamp(epoch_seconds: float) -> str:
    """RFC 3339, UTC, whole seconds, ``Z``: the times in ``summary.json``."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(epoch_seconds))


def epoch_microseconds(text: str) -> int:
    """Microseconds since the epoch of an ISO-8601 text (no offset: UTC), or EPOCH_UNKNOWN."""
    match = _TIME.match(text.strip()) if isinstance(text, str) else None
    if match is None:
        return EPOCH_UNKNOWN
    year, month, day, hour, minute, second, fraction, zone = match.groups()
    try:
        days = _days_since_epoch(int(year), int(month), int(day))
        clock = (int(hour or 0), int(minute or 0), int(second or 0))
        if clock[0] > 23 or clock[1] > 59 or clock[2] > 60:
            return EPOCH_UNKNOWN
    except ValueError:
        return EPOCH_UNKNOWN
    seconds = days * 86400 + clock[0] * 3600 + clock[1] * 60 + clock[2]
    if zone and zone not in "Zz":
        digits = zone[1:].replace(":", "")
        shift = int(digits[:2]) * 3600 + int(digits[2:]) * 60
        seconds += shift if zone[0] == "-" else -shift
    return seconds * 1_000_000 + int((fraction or "").ljust(6, "0")[:6])


def _days_since_epoch(year: int, month: int, day: int) -> int:
    """Proleptic Gregorian day number, without loading ``datetime`` (which the command line avoids)."""
    february = 29 if year % 4 == 0 and (year % 100 != 0 or year % 400 == 0) else 28
    lengths = (31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)
    if not 1 <= month <= 12 or not 1 <= day <= lengths[month - 1] or year < 1:
        raise ValueError("no such day")
    past = year - 1
    return past * 365 + past // 4 - past // 100 + past // 400 + sum(lengths[: month - 1]) + day - 719163


def _shown(value: object) -> str:
    """A value for an error sentence: quoted, and cut where somebody sent a book."""
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."

"""The one grammar of ``--since``: ``90s``, ``30m``, ``24h``, ``7d``, ``2w``, or an ISO-8601 time.

Used by the daemon, by the walker over files and by the command line, so it loads nothing heavy.
"""

from __future__ import annotations

import time

from chimera.identifiers import EPOCH_UNKNOWN, epoch_microseconds

__all__ = ["since_microseconds"]

SECONDS_OF = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
FIRST_MOMENT = -62_135_596_800_000_000
"""0001-01-01: what lies before it is before every session."""


def since_microseconds(value: str, now: float | None = None) -> int:
    """The cutoff that ``value`` names, in microseconds since the epoch; a session that started at it still counts.

    ``now`` is in seconds since the epoch. A time without an offset is UTC.

    Raises:
        ValueError: blank, or neither a number with a unit nor an ISO-8601 time.
    """
    text = value.strip()
    if not text:
        raise ValueError("empty --since value")
    digits, unit = text[:-1].rstrip(), text[-1].lower()
    if unit in SECONDS_OF and digits.isascii() and digits.isdigit() and len(digits) <= 18:
        moment = time.time() if now is None else now
        return max(round(moment * 1_000_000) - int(digits) * SECONDS_OF[unit] * 1_000_000, FIRST_MOMENT)
    moment_us = epoch_microseconds(text)
    return _rarer_form(text) if moment_us == EPOCH_UNKNOWN else moment_us


def _rarer_form(text: str) -> int:
    """``20260401T120000Z``, ``2026-W14-3``, ``2026-04-01T12``: ISO-8601 that no summary holds but a person may type."""
    from datetime import UTC, datetime, timedelta  # loaded for these alone

    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(f"invalid --since {text!r}: expected '<N>{{s,m,h,d,w}}' or ISO-8601 timestamp") from None
    aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return (aware - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)

"""``SessionRow``: what the index keeps of one session, and how it is made from a summary.

The ``record`` of the contract is kept ready-made as JSON, so that a list splices bytes and encodes nothing. Opens no
file and knows no database.
"""

from __future__ import annotations

import json
import os

import msgspec

from chimera.identifiers import EPOCH_UNKNOWN, epoch_microseconds
from chimera.sessions.summary import Summary, session_record
from chimerad.store.index.stamps import NO_STAMP, Stamp

__all__ = ["MICROSECONDS_A_DAY", "UNKNOWN_DAY", "UNKNOWN_START", "SessionRow", "day_of", "row_of"]

UNKNOWN_START = -(2**63)
"""``started_us`` of a session whose start time cannot be read: sorts behind every other."""

UNKNOWN_DAY = -(2**31)

MICROSECONDS_A_DAY = 86_400_000_000

MAX_RECORD_BYTES = 8 << 20
"""A longer record (a prompt of megabytes) is listed with its long texts cut; ``sessions.get`` has them whole."""

CUT_TEXT = 64 << 10

MAX_SUMMAND = 1 << 43
"""Largest number one session adds to a total, so that the sum over a million sessions stays within 64 bits."""


class SessionRow(msgspec.Struct, frozen=True, kw_only=True):
    """One session as the index holds it.

    Attributes:
        listed: has a readable summary and a flavour's prefix; others are kept to be counted, and compared.
        record: the ``record`` of ``sessions.list`` as JSON.
    """

    session_id: str
    listed: bool
    flavour: str = ""
    started_us: int = UNKNOWN_START
    model: str = ""
    cwd: str = ""
    success: bool = False
    pinned: bool = False
    tags: tuple[str, ...] = ()
    unpriced: bool = False
    cost_microdollars: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cache_tokens: int = 0
    total_tokens: int = 0
    events: int = 0
    stamp: Stamp = NO_STAMP
    record: bytes = b""

    @property
    def day(self) -> int:
        return day_of(self.started_us)


def day_of(started_us: int) -> int:
    """The UTC day as a number of days since the epoch; UNKNOWN_DAY for an unknown start."""
    return UNKNOWN_DAY if started_us == UNKNOWN_START else started_us // MICROSECONDS_A_DAY


def row_of(view: Summary | None, root: str, session_id: str, *, events: int, stamp: Stamp = NO_STAMP) -> SessionRow:
    """The row of a session whose summary is ``view``; None for a session without a readable one."""
    if view is None or not view.cli_origin:
        return SessionRow(session_id=session_id, listed=False, events=events, stamp=stamp)
    started = epoch_microseconds(view.started_at)
    return SessionRow(
        session_id=session_id,
        listed=True,
        flavour=view.cli_origin,
        started_us=UNKNOWN_START if started == EPOCH_UNKNOWN else started,
        model=view.model,
        cwd=view.cwd,
        success=view.success,
        pinned=view.pinned,
        tags=tuple(sorted(set(view.tags))),
        unpriced=view.cost_source == "unpriced" or (not view.cost_source and view.cost_microdollars == 0),
        cost_microdollars=_summand(view.cost_microdollars),
        input_tokens=_summand(view.input_tokens),
        output_tokens=_summand(view.output_tokens),
        cache_tokens=_summand(view.cache_tokens),
        total_tokens=_summand(view.total_tokens),
        events=events,
        stamp=stamp,
        record=_encode_record(session_record(view, os.path.join(root, session_id), events)),
    )


def _summand(number: int) -> int:
    return max(-MAX_SUMMAND, min(MAX_SUMMAND, number))


def _encode_record(record: dict[str, object]) -> bytes:
    body = _encode(record)
    if len(body) > MAX_RECORD_BYTES:
        body = _encode({key: _cut(value) for key, value in record.items()})
    return body


def _encode(value: object) -> bytes:
    try:
        return msgspec.json.encode(value)
    except UnicodeEncodeError:  # a root whose name is not UTF-8
        return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode(errors="replace")


def _cut(value: object) -> object:
    if isinstance(value, str) and len(value) > CUT_TEXT:
        return value[:CUT_TEXT] + "…"
    if isinstance(value, list | dict) and len(_encode(value)) > CUT_TEXT:
        return "(too long to list)" if isinstance(value, dict) else []
    return value

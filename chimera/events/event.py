"""``Event``: one record of a log, normalised; whatever shape it was written in.

Decoding lives here (our own shape, typed) and in ``chimera.sessions.eventlog.older_shapes`` (everybody else's).
Knows no file and no session.
"""

from __future__ import annotations

from typing import Any

import msgspec

__all__ = ["Event", "Problem", "event_to_json"]


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """One event as every reader gives it.

    Attributes:
        seq: number in the session, from 1, without gaps.
        id: unique in the session for ever.
        parent_id: the event that this one follows in the tree; None for a root.
        type: ``user_message``, ``tool_call``, ... (chimera.events.types).
        ts: RFC 3339 UTC; "" where a foreign record has no time.
        metadata: the payload, as its writer gave it.
        chain: 16 hex digits; None for a record that was not written by us.
    """

    seq: int
    id: str
    parent_id: str | None
    type: str
    ts: str
    metadata: dict[str, Any]
    chain: str | None = None


class Problem(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One thing that is wrong with a session, as ``sessions.verify`` reports it.

    ``kind`` is one of ``gap``, ``chain``, ``torn_tail``, ``nul_tail``, ``not_json``, ``stray``, ``duplicate``,
    ``duplicate_number``, ``out_of_order``, ``cut_off``, ``unreadable``, ``no_summary``, ``malformed_summary``,
    ``leftover``, ``damaged_journal``, ``lost``.
    """

    session_id: str
    kind: str
    detail: str
    seq: int | None = None
    file: str | None = None


def event_to_json(event: Event) -> dict[str, Any]:
    """The event as the documents show it: seq, id, parent_id, type, ts, metadata and, where it has one, chain."""
    shown: dict[str, Any] = {
        "seq": event.seq,
        "id": event.id,
        "parent_id": event.parent_id,
        "type": event.type,
        "ts": event.ts,
        "metadata": event.metadata,
    }
    if event.chain is not None:
        shown["chain"] = event.chain
    return shown

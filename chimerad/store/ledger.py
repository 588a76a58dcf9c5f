"""The append-only ledger of the event-log root: renames, tags, pins, deletions, purges, each with what was before.

From it each of them can be taken back, and the costs of purged sessions outlive them. Only appends.
"""

from __future__ import annotations

import time
from typing import Any

import msgspec

from chimera import durable, paths
from chimera.identifiers import format_timestamp

__all__ = ["note"]


def note(root: str, action: str, session_id: str, **details: Any) -> None:
    """Append one line, durably, before the act itself: a line without its act does no harm, the reverse would.

    Raises:
        OSError: nothing has been noted; do not act.
    """
    line = {"ts": format_timestamp(time.time_ns()), "action": action, "session_id": session_id, **details}
    durable.append_file(paths.ledger_path(root), msgspec.json.encode(line) + b"\n")

"""Logs for tests, written byte by byte: whole ones in every layout, for a test to damage."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from chimera.events.chain import CHAIN_START, encode_record
from chimera.sessions.eventlog.layouts import LAYOUTS

TS = "2026-04-25T09:12:08.123Z"


def our_records(count: int, *, first: int = 1, chain: bytes = CHAIN_START, parent: str | None = None) -> list[bytes]:
    """``count`` chained records, numbered from ``first``, the first linked to ``chain``."""
    records = []
    for seq in range(first, first + count):
        event_id = f"evt-{seq:016x}"
        metadata = json.dumps({"content": f"message {seq}", "list": [1, {"a": None}]}).encode()
        record, chain = encode_record(seq, event_id, parent, event_type_of(seq), TS, metadata, chain)
        records.append(record)
        parent = event_id
    return records


def event_type_of(seq: int) -> str:
    return ("user_message", "tool_call", "tool_result", "agent_result")[seq % 4]


def write_ours(folder: Path, layout: str, records: list[bytes], base: int = 1) -> Path:
    """Write records of ours into a new session folder, as our writers lay them out."""
    folder.mkdir(parents=True, exist_ok=True)
    if layout == "jsonl":
        (folder / "events.jsonl").write_bytes(b"".join(record + b"\n" for record in records))
        return folder
    for number, record in enumerate(records, base):
        event = json.loads(record)
        name = LAYOUTS[layout].file_name(number, event["type"], event["id"])
        (folder / name).write_bytes(record + b"\n")
    return folder


def shape_a(index: int, event_id: str, event_type: str = "user_message", **metadata: Any) -> bytes:
    """What the original's event log writes into one file."""
    return json.dumps(
        {
            "idx": index,
            "event_id": event_id,
            "type": event_type,
            "timestamp": 1_777_108_328.5 + index,
            "metadata": {**metadata, "event_id": event_id},
        },
        indent=2,
    ).encode()


def shape_b(event_id: str, event_type: str = "tool_call", ts: str = "2026-04-25T09:12:08Z", **metadata: Any) -> bytes:
    """What the documents show for otter."""
    return json.dumps({"id": event_id, "type": event_type, "metadata": metadata, "ts": ts}).encode()


def shape_c(event_type: str = "user_message", **metadata: Any) -> bytes:
    """What the fixtures of stoat and badger hold."""
    return json.dumps({"type": event_type, "metadata": metadata}).encode()

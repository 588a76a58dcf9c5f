"""Session folders as older and foreign writers leave them: plain files, none of our own writers involved."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def write_session(
    root: Path,
    session_id: str,
    summary: dict[str, Any] | str | None = None,
    events: tuple[str, ...] = (),
    **changes: Any,
) -> Path:
    """A session with this summary (the keys of the stoat fixtures, changed by ``changes``) and typed event files."""
    folder = root / session_id
    folder.mkdir(parents=True)
    if summary is None:
        summary = {
            "session_id": session_id,
            "started_at": "2026-04-30T10:14:55Z",
            "ended_at": "2026-04-30T10:15:30Z",
            "model": "m1",
            "prompt": "hi",
            "success": True,
            "cost_usd": 0.01,
            "steps": 1,
            "tool_calls_total": 0,
            **changes,
        }
    (folder / "summary.json").write_text(summary if isinstance(summary, str) else json.dumps(summary, indent=2))
    for number, event_type in enumerate(events, start=1):
        body = {"type": event_type, "metadata": {"content": f"{event_type} {number}"}}
        (folder / f"event-{number:06d}-{event_type}.json").write_text(json.dumps(body))
    return folder

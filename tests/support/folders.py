"""Session folders written by hand, the way a foreign program or a copy makes them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def summary_of(**changes: Any) -> dict[str, Any]:
    """The least that older writers put into a summary, with changes."""
    summary: dict[str, Any] = {
        "model": "glm-5",
        "prompt": "hello",
        "started_at": "2026-04-25T09:12:01Z",
        "ended_at": "2026-04-25T09:13:01Z",
        "success": True,
        "cost_usd": 0.0241,
        "steps": 3,
        "tool_calls_total": 2,
    }
    return {**summary, **changes}


def make_session(root: Path, session_id: str, *, events: int = 2, lines: bool = True, **summary: Any) -> Path:
    """A folder with a summary and events in one file, or in one file each."""
    folder = root / session_id
    folder.mkdir(parents=True)
    record = json.dumps({"type": "user_message", "metadata": {"content": "hi"}})
    if lines:
        (folder / "events.jsonl").write_text((record + "\n") * events)
    else:
        for number in range(1, events + 1):
            (folder / f"event-{number:06d}-user_message.json").write_text(record)
    write_summary(folder, **summary)
    return folder


def write_summary(folder: Path, **changes: Any) -> None:
    """In place, as an editor does."""
    (folder / "summary.json").write_text(json.dumps(summary_of(**changes), indent=2))

"""What a log says about its session: the part of ``summary.json`` that is a view of the events (store rule 14).

Pure: reads events, knows no file.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from chimera.events.event import Event

__all__ = ["Derived", "derive"]


class Derived(msgspec.Struct):
    """Facts counted from the events; None where the log says nothing about it."""

    steps: int = 0
    tool_calls_total: int = 0
    prompt: str = ""
    last_ts: str = ""
    success: bool | None = None
    error: str | None = None


def derive(events: Iterable[Event]) -> Derived:
    """Count steps and tool calls, find the first prompt, the last time, and how the last turn ended."""
    found = Derived()
    for event in events:
        found.last_ts = event.ts or found.last_ts
        if event.type == "user_message":
            found.prompt = found.prompt or _text(event.metadata.get("content"))
        elif event.type == "tool_call":
            found.tool_calls_total += 1
        elif event.type == "step_start":
            found.steps += 1
        elif event.type == "agent_result":
            _take_result(found, event)
        elif event.type == "error":
            found.success, found.error = False, _text(event.metadata.get("message")) or found.error
    return found


def _take_result(found: Derived, event: Event) -> None:
    steps, calls = event.metadata.get("steps"), event.metadata.get("tool_calls_total")
    found.steps = max(found.steps, steps if isinstance(steps, int) else 0)
    found.tool_calls_total = max(found.tool_calls_total, calls if isinstance(calls, int) else 0)
    found.success = event.metadata.get("success") is True
    found.error = _text(event.metadata.get("error")) or None


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""

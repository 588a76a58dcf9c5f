"""The event types the documents name, and what each one's ``metadata`` holds.

A log accepts every type of the right form; this table is what our own writers keep to and what
``docs/on-disk.md`` shows.
"""

from __future__ import annotations

__all__ = ["EVENT_TYPES"]

EVENT_TYPES: dict[str, str] = {
    "user_message": "content: what the user wrote",
    "agent_result": "output, steps, tool_calls_total, cost, success, error: how a turn ended",
    "tool_call": "call_id, tool, args, step: what the agent asked for",
    "tool_result": "call_id, tool, result, success: what came back; interrupted where nobody answered",
    "text_delta": "text, step, offset: streamed text, coalesced",
    "step_start": "step: a model call begins",
    "step_end": "step, usage: a model call ended",
    "turn_start": "turn_id: a turn begins",
    "turn_end": "turn_id, state: a turn ended",
    "error": "message: what went wrong",
    "cancelled": "reason: who stopped the turn",
    "todo_write": "todos, op: the whole list after the change",
    "steering": "content: a message for the running turn",
    "queued": "content, replaces: a message for the turn after it; one that replaces another, or takes it back",
    "approval_request": "request_id, tool, args: a tool waits for a person",
    "approval": "request_id, decision, reason: the person's answer",
    "file_access": "path, mode, before, after: a file read or written by a tool, and what it was; restored by undo",
    "compaction": "summary, first_kept, memory, strategy: the context was shortened; originals are named by id",
    "undo": "op, kind, undone, from, branch: what was taken back, or done again; its parent is where it went",
    "branch": "name, at: a named path in the tree begins; its parent is where",
    "switch": "to, branch, checkpoint: the active leaf moved; its parent is where to",
    "merge": "from, branch, events, content: what another branch brought",
    "label": "event_id, label: a name for an event",
    "checkpoint": "name, branch: a point to return to",
    "state_change": "kind, value: model, permission mode, system prompt",
}

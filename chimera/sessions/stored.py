"""Between a session's events and what a storage keeps of it: messages and a few facts. Pure, both ways.

A storage keeps less than the log: no branches, no files, no waiting messages. What it keeps comes back as it was.
"""

from __future__ import annotations

import time
from typing import Any

from chimera.sessions.messages import Message
from chimera.sessions.proposals import Proposal
from chimera.sessions.state import SessionState
from chimera.sessions.storage.base import StoredSession

__all__ = ["proposals_of", "stored_of"]


def stored_of(
    session_id: str, state: SessionState, parent_id: str | None, created_at: float, *, journalled: bool = False
) -> StoredSession:
    """What a storage keeps of a session in this state; ``created_at`` in seconds since the epoch.

    ``journalled``: it is a copy, the truth is in the event log.
    """
    metadata: dict[str, Any] = {
        "branch": state.branch,
        "model": state.model,
        "permission_mode": state.permission_mode,
        "todos": [{"id": todo.id, "task": todo.task, "done": todo.done} for todo in state.todos],
        "files_read": state.files_read,
        "files_modified": state.files_modified,
        "journalled": journalled,
    }
    return StoredSession(
        session_id=session_id,
        system=state.system_prompt or None,
        parent_id=parent_id,
        created_at=created_at,
        updated_at=time.time(),
        metadata=metadata,
        messages=list(state.messages),
    )


def proposals_of(stored: StoredSession) -> list[Proposal]:
    """The events that make a session which was stored so."""
    proposals: list[Proposal] = []
    facts = stored.metadata
    for kind, value in (
        ("system_prompt", stored.system),
        ("model", facts.get("model")),
        ("permission_mode", facts.get("permission_mode")),
    ):
        if isinstance(value, str) and value:
            proposals.append(Proposal("state_change", {"kind": kind, "value": value}))
    for mode, key in (("read", "files_read"), ("write", "files_modified")):
        paths = facts.get(key)
        listed = paths if isinstance(paths, list) else []
        proposals += [Proposal("file_access", {"path": path, "mode": mode}) for path in listed]
    todos = facts.get("todos")
    if isinstance(todos, list) and todos:
        proposals.append(Proposal("todo_write", {"todos": todos, "op": "set"}))
    for step, message in enumerate(stored.messages, 1):
        proposals += _of_message(message, step)
    return proposals


def _of_message(message: Message, step: int) -> list[Proposal]:
    if message.role == "user":
        said: dict[str, Any] = {"content": message.content}
        return [Proposal("user_message", {**said, "synthetic": True} if message.synthetic else said)]
    if message.role == "tool":
        result: dict[str, Any] = {"call_id": message.call_id, "result": message.content}
        if message.synthetic:
            result["interrupted"] = True
        return [Proposal("tool_result", result)]
    if message.role != "assistant":
        return []
    text = [Proposal("text_delta", {"step": step, "offset": 0, "text": message.content})] if message.content else []
    calls = [
        Proposal("tool_call", {"call_id": call.id, "tool": call.name, "args": call.arguments, "step": step})
        for call in message.tool_calls
    ]
    return [Proposal("step_start", {"step": step}), *text, *calls, Proposal("step_end", {"step": step})]

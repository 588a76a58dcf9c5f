"""Everything that a session is at one point of its log: what resume gives back. Pure: events in, state out.

What belongs to a path (messages, prompt, model, todos, files) is read from the root to the leaf; what belongs to the
session whatever the branch (turns, queue, steering, approvals) from the log in its order.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from chimera.events.event import Event
from chimera.sessions.context import context_of
from chimera.sessions.event_tree import EventTree
from chimera.sessions.messages import Message, ToolCall, text_of

__all__ = ["PendingApproval", "PendingMessage", "SessionState", "Todo", "state_of"]


class Todo(msgspec.Struct, frozen=True):
    """One task of the session's list; ``done`` when it is."""

    id: int
    task: str
    done: bool = False


class PendingMessage(msgspec.Struct, frozen=True):
    """A message that waits: for the next step (steering) or for the turn after this one (queued)."""

    event_id: str
    seq: int
    content: str


class PendingApproval(msgspec.Struct, frozen=True):
    """A tool call that waits for a person."""

    request_id: str
    tool: str
    args: dict[str, Any]


class SessionState(msgspec.Struct):
    """A session at its leaf.

    Attributes:
        messages: the context, the system prompt not among them.
        system_prompt, model, permission_mode: the newest that was set on the path; "" where none was.
        files_read, files_modified: by the session's own tools, each once, in the order of the first time.
        steering, queue: what was said and not yet taken.
        open_turn: the id of a turn that has no end; None when none is.
        unanswered: its tool calls without a result.
        last_todo_id: the highest that a task ever had.
    """

    leaf: str | None
    branch: str
    messages: list[Message]
    system_prompt: str = ""
    model: str = ""
    permission_mode: str = ""
    todos: list[Todo] = []
    files_read: list[str] = []
    files_modified: list[str] = []
    steering: list[PendingMessage] = []
    queue: list[PendingMessage] = []
    approvals: list[PendingApproval] = []
    open_turn: str | None = None
    unanswered: list[ToolCall] = []
    last_todo_id: int = 0


def state_of(tree: EventTree, leaf: str | None = None) -> SessionState:
    """The state at ``leaf`` (by default the newest event).

    Raises:
        InvalidParams: there is no such event.
    """
    path = tree.path(leaf)
    state = SessionState(path[-1].id if path else None, tree.current, context_of(path))
    read_path(state, path)
    read_log(state, tree.events)
    return state


def read_path(state: SessionState, path: Sequence[Event]) -> None:
    """What the events from the root to the leaf have set."""
    read: dict[str, None] = {}
    modified: dict[str, None] = {}
    for event in path:
        if event.type == "state_change":
            _take_change(state, event)
        elif event.type == "todo_write":
            state.todos = todos_of(event)
        elif event.type == "file_access" and event.metadata.get("restored") is not True:
            path_text = text_of(event.metadata.get("path"))
            (modified if event.metadata.get("mode") == "write" else read)[path_text] = None
    state.files_read, state.files_modified = list(read), list(modified)


def read_log(state: SessionState, events: Sequence[Event]) -> None:
    """What waits, whatever the branch."""
    steering: dict[str, PendingMessage] = {}
    queue: dict[str, PendingMessage] = {}
    approvals: dict[str, PendingApproval] = {}
    calls: dict[str, ToolCall] = {}
    for event in events:
        kind = event.type
        if kind == "tool_call":
            call = _call_of(event)
            calls[call.id] = call
        elif kind == "tool_result":
            calls.pop(text_of(event.metadata.get("call_id")), None)
        elif kind == "user_message":
            steering.pop(text_of(event.metadata.get("steering")), None)
            queue.pop(text_of(event.metadata.get("queued")), None)
        elif kind == "turn_start":
            state.open_turn = text_of(event.metadata.get("turn_id")) or event.id
            calls.clear()
        elif kind == "turn_end":
            state.open_turn = None
            calls.clear()
            approvals.clear()
        elif kind == "todo_write":
            state.last_todo_id = max([state.last_todo_id, *(todo.id for todo in todos_of(event))])
        elif kind == "steering":
            steering[event.id] = PendingMessage(event.id, event.seq, text_of(event.metadata.get("content")))
        elif kind == "queued":
            _take_queued(queue, event)
        elif kind == "approval_request":
            request = _request_of(event)
            approvals[request.request_id] = request
        elif kind == "approval":
            approvals.pop(text_of(event.metadata.get("request_id")), None)
    state.steering, state.queue = list(steering.values()), list(queue.values())
    state.approvals = list(approvals.values())
    state.unanswered = list(calls.values()) if state.open_turn is not None else []


def todos_of(event: Event) -> list[Todo]:
    """The whole list after a ``todo_write``; what is no task is left out."""
    items = event.metadata.get("todos")
    found = []
    for number, item in enumerate(items if isinstance(items, list) else [], 1):
        if isinstance(item, dict):
            given = item.get("id")
            own = given if isinstance(given, int) and not isinstance(given, bool) else number
            found.append(Todo(own, text_of(item.get("task")), item.get("done") is True))
    return found


def _take_change(state: SessionState, event: Event) -> None:
    value = text_of(event.metadata.get("value"))
    kind = event.metadata.get("kind")
    if kind == "system_prompt":
        state.system_prompt = value
    elif kind == "model":
        state.model = value
    elif kind == "permission_mode":
        state.permission_mode = value


def _take_queued(queue: dict[str, PendingMessage], event: Event) -> None:
    """A new message, or one that replaces an earlier one or takes it back (``content`` null)."""
    replaced = text_of(event.metadata.get("replaces"))
    content = event.metadata.get("content")
    if replaced:
        if replaced not in queue:
            return  # it was taken already
        if content is None:
            del queue[replaced]
        else:
            queue[replaced] = PendingMessage(replaced, queue[replaced].seq, text_of(content))
    elif content is not None:
        queue[event.id] = PendingMessage(event.id, event.seq, text_of(content))


def _call_of(event: Event) -> ToolCall:
    arguments = event.metadata.get("args")
    call_id = text_of(event.metadata.get("call_id")) or event.id
    return ToolCall(call_id, text_of(event.metadata.get("tool")), arguments if isinstance(arguments, dict) else {})


def _request_of(event: Event) -> PendingApproval:
    arguments = event.metadata.get("args")
    request_id = text_of(event.metadata.get("request_id")) or event.id
    return PendingApproval(
        request_id, text_of(event.metadata.get("tool")), arguments if isinstance(arguments, dict) else {}
    )

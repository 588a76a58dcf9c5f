"""One turn on its way into the log: what the loop tells becomes events, and however it ends, it is closed.

Text that streams is kept as one event a step; a tool call that nobody answers gets a typed synthetic result, so that
the session can always be continued. Knows no model and no storage.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from chimera.agent.loop_events import (
    FileAccessed,
    LoopEvent,
    StepEnded,
    StepStarted,
    TextDelta,
    TodosWritten,
    ToolCalled,
    ToolReturned,
)
from chimera.sessions.history import History
from chimera.sessions.messages import INTERRUPTED_RESULT
from chimera.sessions.proposals import Proposal
from chimera.sessions.state import PendingMessage

__all__ = ["TurnJournal", "close_open_turn"]

INTERRUPTED = "the turn was interrupted: the program that ran it ended without closing it"


class TurnJournal:
    """Writes the events of one turn.

    Attributes:
        output: the text of the newest step that had any.
    """

    def __init__(self, history: History, message: str, queued: PendingMessage | None = None) -> None:
        """Begin: the turn and its prompt are in the log when this returns."""
        self.turn_id = "turn-" + os.urandom(8).hex()
        self.output = ""
        self.steps = 0
        self.tool_calls = 0
        self._history = history
        self._step = 0
        self._text: list[str] = []
        self._logged = 0  # how much of the step's text is in the log
        self._open: dict[str, ToolCalled] = {}
        prompt = {"content": message, "turn_id": self.turn_id}
        if queued is not None:
            prompt["queued"] = queued.event_id
        history.record(Proposal("turn_start", {"turn_id": self.turn_id}), Proposal("user_message", prompt))

    def take(self, event: LoopEvent) -> None:
        """Keep what the loop tells."""
        if isinstance(event, TextDelta):
            self._text.append(event.text)
        elif isinstance(event, StepStarted):
            self._start_step(event.step)
        elif isinstance(event, ToolCalled):
            self.tool_calls += 1
            self._open[event.call_id] = event
            call = {"call_id": event.call_id, "tool": event.tool, "args": event.args, "step": self._step}
            self._record(Proposal("tool_call", call))
        elif isinstance(event, ToolReturned):
            self._open.pop(event.call_id, None)
            result = {"call_id": event.call_id, "tool": event.tool, "result": event.result, "success": event.success}
            self._record(Proposal("tool_result", result))
        elif isinstance(event, FileAccessed):
            self._record(Proposal("file_access", event.metadata))
        elif isinstance(event, TodosWritten):
            self._record(Proposal("todo_write", {"todos": event.todos, "op": event.op}))
        elif isinstance(event, StepEnded):
            self._end_step(event)

    def take_steering(self, waiting: Sequence[PendingMessage]) -> None:
        """What was said meanwhile becomes part of the context, at a step's boundary."""
        self._record(*(Proposal("user_message", {"content": one.content, "steering": one.event_id}) for one in waiting))

    def finish(self, state: str, error: str | None = None) -> None:
        """Close the turn: ``done``, ``failed`` or ``interrupted``."""
        self._record()
        self._close_text()
        result = {
            "output": self.output,
            "steps": self.steps,
            "tool_calls_total": self.tool_calls,
            "success": state == "done",
            "error": error,
        }
        closing = [_synthetic_result(call.call_id, call.tool) for call in self._open.values()]
        if state == "failed":
            closing.append(Proposal("error", {"message": error or "the turn failed", "turn_id": self.turn_id}))
        if state != "interrupted":
            closing.append(Proposal("agent_result", result))
        self._record(*closing, Proposal("turn_end", {"turn_id": self.turn_id, "state": state}))
        self._open.clear()

    def _start_step(self, step: int) -> None:
        self._record()
        self._close_text()  # where the step before was never ended
        self._step = step
        self.steps += 1
        self._record(Proposal("step_start", {"turn_id": self.turn_id, "step": step}))

    def _end_step(self, event: StepEnded) -> None:
        self._record(Proposal("step_end", {"turn_id": self.turn_id, "step": event.step, "usage": dict(event.usage)}))
        self._close_text()

    def _close_text(self) -> None:
        self.output = "".join(self._text) or self.output
        self._text, self._logged = [], 0

    def _record(self, *proposals: Proposal) -> None:
        """The text so far comes first: the log keeps the order in which things were said and done."""
        text = "".join(self._text)
        delta = text[self._logged :]
        before = []
        if delta:
            streamed = {"turn_id": self.turn_id, "step": self._step, "offset": self._logged, "text": delta}
            before.append(Proposal("text_delta", streamed))
            self._logged = len(text)
        if before or proposals:
            self._history.record_all([*before, *proposals])


def close_open_turn(history: History) -> None:
    """After a crash: answer the open tool calls, say that the turn was interrupted, and close it."""
    state = history.state
    if state.open_turn is None:
        return
    history.record_all(
        [
            *(_synthetic_result(call.id, call.name) for call in state.unanswered),
            Proposal("error", {"message": INTERRUPTED, "kind": "interrupted", "turn_id": state.open_turn}),
            Proposal("turn_end", {"turn_id": state.open_turn, "state": "interrupted"}),
        ]
    )


def _synthetic_result(call_id: str, tool: str) -> Proposal:
    return Proposal(
        "tool_result",
        {"call_id": call_id, "tool": tool, "result": INTERRUPTED_RESULT, "success": False, "interrupted": True},
    )

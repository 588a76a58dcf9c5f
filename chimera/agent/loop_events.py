"""What a running turn tells, step by step, and what a session needs of an agent. Types alone.

A turn is a stream of these events. The session journals each before it hands it on, but for streamed text, which it
keeps with what comes after it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any, Protocol

import msgspec

from chimera.sessions.messages import Message

__all__ = [
    "AgentLoop",
    "FileAccessed",
    "LoopEvent",
    "StepEnded",
    "StepStarted",
    "TextDelta",
    "TodosWritten",
    "ToolCalled",
    "ToolReturned",
    "Turn",
    "TurnEnded",
    "TurnStarted",
]


class LoopEvent(msgspec.Struct, frozen=True, tag=True):
    """Base of them all."""


class TurnStarted(LoopEvent, frozen=True):
    """The session's own: a turn has begun, its prompt is in the log."""

    turn_id: str
    message: str


class StepStarted(LoopEvent, frozen=True):
    """A model call begins; steps of a turn count from 1."""

    step: int


class TextDelta(LoopEvent, frozen=True):
    """More of the step's text; the log keeps the deltas of a step as one."""

    text: str


class ToolCalled(LoopEvent, frozen=True):
    call_id: str
    tool: str
    args: dict[str, Any]


class FileAccessed(LoopEvent, frozen=True):
    """A tool has read or written a file; ``metadata`` as a ``file_access`` event holds it."""

    metadata: dict[str, Any]


class TodosWritten(LoopEvent, frozen=True):
    """The whole list after a change; ``op`` is ``add``, ``complete``, ``set`` or ``remove``."""

    todos: list[dict[str, Any]]
    op: str


class ToolReturned(LoopEvent, frozen=True):
    call_id: str
    tool: str
    result: str
    success: bool = True


class StepEnded(LoopEvent, frozen=True):
    """A model call has ended; ``usage`` holds the provider's token counts, where it gave any."""

    step: int
    usage: dict[str, int] = {}


class TurnEnded(LoopEvent, frozen=True):
    """The session's own, the last of a turn: ``done``, ``failed`` or ``interrupted``."""

    turn_id: str
    state: str
    output: str
    error: str | None = None


class Turn(Protocol):
    """What the agent's loop may ask of the session while a turn runs."""

    @property
    def messages(self) -> list[Message]:
        """The context as it is now: to be read anew at the start of each step."""

    @property
    def cancelled(self) -> bool:
        """Whether somebody asked the turn to stop; the loop ends at the next step or tool."""


class AgentLoop(Protocol):
    """What ``Session.chat`` needs of an agent. ``resume`` reads ``prompt`` and ``tools`` alone."""

    prompt: str
    tools: Sequence[Any]

    def run(self, turn: Turn) -> AsyncIterator[LoopEvent]:
        """Carry out one turn: events between the session's TurnStarted and TurnEnded."""

"""An agent whose turns are written down beforehand: the part of a session that no test wants to wait for."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

from chimera.agent.loop_events import LoopEvent, StepEnded, StepStarted, TextDelta, ToolCalled, ToolReturned, Turn

__all__ = ["ScriptedAgent", "says", "uses"]

Script = Sequence[LoopEvent | BaseException | Callable[[], None]]


class ScriptedAgent:
    """Plays one script a turn, the last one again and again; an exception in it is raised, a function called.

    Attributes:
        seen: the messages that the agent was given at the start of each turn.
    """

    def __init__(self, *scripts: Script, prompt: str = "be brief", tools: Sequence[Any] = (), window: int = 0) -> None:
        self.prompt = prompt
        self.tools = tools
        self.window = window
        self.seen: list[list[Any]] = []
        self._scripts = list(scripts)

    async def run(self, turn: Turn) -> AsyncIterator[LoopEvent]:
        self.seen.append(turn.messages)
        script = self._scripts.pop(0) if len(self._scripts) > 1 else self._scripts[0]
        for item in script:
            if isinstance(item, BaseException):
                raise item
            if isinstance(item, LoopEvent):
                yield item
            else:
                item()


def says(text: str, step: int = 1) -> list[LoopEvent]:
    """A step that says this, in two deltas."""
    return [StepStarted(step), TextDelta(text[:1]), TextDelta(text[1:]), StepEnded(step)]


def uses(tool: str, call_id: str, result: str, step: int = 1, **args: Any) -> list[LoopEvent]:
    """A step that calls a tool and gets its result."""
    return [
        StepStarted(step),
        ToolCalled(call_id, tool, args),
        StepEnded(step),
        ToolReturned(call_id, tool, result),
    ]

"""Paths of events for the tests of compaction: written by hand, or drawn by hypothesis."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hypothesis import strategies as st

from chimera.compaction import CompactionPlan, CompactionRequest
from chimera.events.event import Event
from chimera.sessions.context import context_of, memory_blocks
from chimera.sessions.messages import Message

MEMORY = '<memory source="CLAUDE.md">\nAlways run the tests.\n</memory>'


class Path:
    """A path that grows by one event at a time."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self._step = 0

    def add(self, event_type: str, **metadata: Any) -> str:
        event_id = f"e{len(self.events) + 1}"
        parent_id = self.events[-1].id if self.events else None
        self.events.append(
            Event(seq=len(self.events) + 1, id=event_id, parent_id=parent_id, type=event_type, ts="", metadata=metadata)
        )
        return event_id

    def user(self, content: object) -> str:
        return self.add("user_message", content=content)

    def step(self, text: str, *calls: tuple[str, dict[str, Any], str | None]) -> str:
        """A step with its text and calls: tool, arguments, result (None: never answered)."""
        self._step += 1
        event_id = self.add("step_start", step=self._step)
        if text:
            self.add("text_delta", text=text, step=self._step, offset=0)
        ids = [f"call{self._step}.{number}" for number in range(len(calls))]
        for call_id, (tool, arguments, _) in zip(ids, calls, strict=True):
            self.add("tool_call", call_id=call_id, tool=tool, args=arguments)
        self.add("step_end", step=self._step)
        for call_id, (tool, _, result) in zip(ids, calls, strict=True):
            if result is not None:
                self.add("tool_result", call_id=call_id, tool=tool, result=result)
        return event_id

    def compact(self, plan: CompactionPlan) -> str:
        return self.add("compaction", **plan.metadata())

    @property
    def messages(self) -> list[Message]:
        return context_of(self.events)


def long_session(turns: int = 6, steps: int = 3) -> Path:
    """Turns of some hundred tokens each, memory in the first message."""
    path = Path()
    for turn in range(turns):
        path.user(f"{MEMORY}\nPlease do task {turn}." if turn == 0 else f"Please do task {turn}.")
        for step in range(steps):
            command = f"make task-{turn}-{step}"
            path.step(f"Looking at {turn}.{step}", ("Bash", {"command": command}, "line of output\n" * 40))
        path.step(f"Task {turn} is done. Shall I push it?")
        path.add("turn_end")
    return path


def request_for(messages: list[Message], **more: Any) -> CompactionRequest:
    return CompactionRequest(messages=messages, **{"window": 1000, **more})


def all_memory(messages: Sequence[Message]) -> list[str]:
    """Every memory block of the context, in order: those that users said."""
    return [
        block
        for message in messages
        if message.role == "user" and not message.synthetic
        for block in memory_blocks(message.content)
    ]


def broken_pairs(messages: Sequence[Message]) -> list[str]:
    """Calls without a result and results without a call."""
    called = {call.id for message in messages for call in message.tool_calls}
    answered: set[str] = set()
    broken = []
    seen: set[str] = set()
    for message in messages:
        seen.update(call.id for call in message.tool_calls)
        if message.role == "tool":
            answered.add(str(message.call_id))
            if message.call_id not in seen:
                broken.append(f"result {message.call_id}")
    return broken + [f"call {call_id}" for call_id in sorted(called - answered)]


_words = st.sampled_from(
    [
        "fix it",
        "Why? ",
        "x" * 400,
        "## Goal\n",
        "Decisions: none",
        "\n",
        "\u00e4\u4e2d" * 60,
        "<memory",
        "</memory>",
        '">',
    ]
)
_memory = st.builds(
    '<memory source="{}">{}</memory>'.format,
    st.sampled_from(["CLAUDE.md", "", "a b", "&quot;", "<"]),
    st.text(max_size=20) | st.sampled_from(["<memory source=", "\n\n", "y" * 300]),
)
texts = st.lists(st.text(max_size=30) | _words, max_size=5).map("".join)
user_texts = st.lists(st.text(max_size=10) | _words | _memory, max_size=5).map("".join)
_calls = st.lists(
    st.tuples(
        st.sampled_from(["Bash", "Read"]),
        st.dictionaries(st.sampled_from(["command", "path"]), texts, max_size=2),
        st.none() | texts,
    ),
    max_size=3,
)


def add_turn(path: Path, draw: st.DrawFn) -> None:
    """One turn of any shape: with and without steps, answers, ends and marks."""
    content = draw(user_texts)
    path.user([{"type": "text", "text": content}] if draw(st.booleans()) else content)
    if draw(st.booleans()):
        path.add("turn_start", turn_id=f"t{len(path.events)}")
    for _ in range(draw(st.integers(0, 4))):
        match draw(st.integers(0, 9)):
            case 0:  # as older logs have it: without steps
                path.add("tool_call", tool="Bash", args={"command": draw(texts)})
                path.add("tool_result", tool="Bash", result=draw(texts))
            case 1:
                path.add("merge", content=draw(user_texts))
            case 2:
                path.add("label", event_id="e1", label="x")
            case _:
                path.step(draw(texts), *draw(_calls))
    if draw(st.booleans()):
        path.add("agent_result", output=draw(texts))
    if draw(st.booleans()):
        path.add("turn_end")


@st.composite
def paths(draw: st.DrawFn) -> Path:
    path = Path()
    for _ in range(draw(st.integers(0, 5))):
        add_turn(path, draw)
    return path

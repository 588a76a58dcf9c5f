"""From events to the messages a model sees. Pure: knows neither tree, nor compaction, nor file.

What becomes a message:

    user_message, merge           a user message
    step_start .. step_end        one assistant message: text from ``text_delta`` (or ``step_end``), its tool calls
    tool_result                   a tool message that answers the call with its ``call_id``
    agent_result                  an assistant message with ``output``, unless the turn's steps have said it already

A tool call that was never answered gets a synthetic answer, for providers refuse a context without one.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from chimera.events.event import Event

__all__ = ["INTERRUPTED_RESULT", "Message", "ToolCall", "messages_of", "text_of"]

INTERRUPTED_RESULT = "[interrupted: the tool's result was not recorded; whether it had an effect is not known]"
"""What a tool call is answered with when nobody answered it."""


class ToolCall(msgspec.Struct, frozen=True):
    """What the model asked for. ``id`` links it to its result."""

    id: str
    name: str
    arguments: dict[str, Any]


class Message(msgspec.Struct, frozen=True, omit_defaults=True):
    """One message of the context.

    Attributes:
        role: ``system``, ``user``, ``assistant`` or ``tool``.
        tool_calls: of an assistant message, in the order they were made.
        call_id: of a tool message, the call it answers.
        event_id: the first event it was made from; "" for one that no event stands behind.
        synthetic: nobody said it: a missing result, or the summary in the place of what was compacted.
    """

    role: str
    content: str
    tool_calls: tuple[ToolCall, ...] = ()
    call_id: str | None = None
    event_id: str = ""
    synthetic: bool = False


def messages_of(events: Iterable[Event]) -> list[Message]:
    """The messages of consecutive events of one path through the tree, oldest first."""
    builder = _Builder()
    for event in events:
        take = _TAKERS.get(event.type)
        if take is not None:
            take(builder, event)
    builder.end_turn()
    return builder.messages


def text_of(value: object) -> str:
    """Content as text: a string as it is, the text parts of a list of parts, anything else as JSON."""
    if isinstance(value, str):
        return value
    if value is None:
        return ""
    if isinstance(value, list) and all(isinstance(part, dict) and isinstance(part.get("text"), str) for part in value):
        return "".join(part["text"] for part in value)
    return msgspec.json.encode(value).decode()


class _Builder:
    """Collects messages; the step at hand is open until its results, the next step or the turn's end close it."""

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self._text: list[str] = []
        self._text_end = 0
        self._calls: list[ToolCall] = []
        self._step_event_id = ""
        self._unanswered: dict[str, ToolCall] = {}
        self._said = False  # the turn's newest message is text of the assistant

    def user_message(self, event: Event) -> None:
        self.end_turn()
        synthetic = event.metadata.get("synthetic") is True
        content = text_of(event.metadata.get("content"))
        self.messages.append(Message("user", content, event_id=event.id, synthetic=synthetic))

    def start_step(self, event: Event) -> None:
        self._close_step()
        self._step_event_id = event.id

    def text_delta(self, event: Event) -> None:
        """Deltas may overlap after a worker was replaced: each place of the step's text is taken once."""
        text = text_of(event.metadata.get("text"))
        offset = event.metadata.get("offset")
        if isinstance(offset, int) and not isinstance(offset, bool):
            text = text[max(self._text_end - offset, 0) :]
        if text:
            self._open_step(event)
            self._text.append(text)
            self._text_end += len(text)

    def tool_call(self, event: Event) -> None:
        if self._unanswered and not self._calls:
            self._answer_missing()  # calls of a log without steps: the next call begins another message
        self._open_step(event)
        arguments = event.metadata.get("args", event.metadata.get("arguments"))
        call_id = event.metadata.get("call_id")
        call = ToolCall(
            call_id if isinstance(call_id, str) and call_id else event.id,
            text_of(event.metadata.get("tool", event.metadata.get("name"))),
            arguments if isinstance(arguments, dict) else {},
        )
        self._calls.append(call)
        if "result" in event.metadata:  # an older writer keeps call and result in one event
            self._answer(call.id, event, text_of(event.metadata["result"]))

    def tool_result(self, event: Event) -> None:
        self._close_step()
        call_id = event.metadata.get("call_id")
        if not isinstance(call_id, str) or call_id not in self._unanswered:
            call_id = self._oldest_unanswered(event.metadata.get("tool"))
        if call_id is None:
            return  # it answers nothing that is in the context
        self._answer(call_id, event, text_of(event.metadata.get("result", event.metadata.get("output"))))

    def end_step(self, event: Event) -> None:
        text = event.metadata.get("text")
        if isinstance(text, str) and text and not self._text:
            self._open_step(event)
            self._text.append(text)
        self._close_step()

    def agent_result(self, event: Event) -> None:
        self._close_step()
        output = text_of(event.metadata.get("output"))
        if output and not self._said:
            self._answer_missing()
            self.messages.append(Message("assistant", output, event_id=event.id))
        self.end_turn()

    def end_turn(self, event: Event | None = None) -> None:  # noqa: ARG002
        self._close_step()
        self._answer_missing()
        self._said = False

    def _open_step(self, event: Event) -> None:
        self._step_event_id = self._step_event_id or event.id

    def _close_step(self) -> None:
        if self._text or self._calls:
            self._answer_missing()
            text = "".join(self._text)
            self.messages.append(Message("assistant", text, tuple(self._calls), event_id=self._step_event_id))
            self._unanswered = {call.id: call for call in self._calls}
            self._said = bool(text) and not self._calls
        self._text, self._calls, self._text_end, self._step_event_id = [], [], 0, ""

    def _answer(self, call_id: str, event: Event, result: str) -> None:
        self._close_step()
        self._unanswered.pop(call_id, None)
        synthetic = event.metadata.get("interrupted") is True
        self.messages.append(Message("tool", result, call_id=call_id, event_id=event.id, synthetic=synthetic))
        self._said = False

    def _answer_missing(self) -> None:
        for call_id in self._unanswered:
            self.messages.append(Message("tool", INTERRUPTED_RESULT, call_id=call_id, synthetic=True))
        self._unanswered = {}

    def _oldest_unanswered(self, tool: object) -> str | None:
        """The call that a result without a known ``call_id`` answers: the oldest open one of that tool."""
        for call in self._unanswered.values():
            if not isinstance(tool, str) or call.name == tool:
                return call.id
        return None


_TAKERS: dict[str, Any] = {
    "user_message": _Builder.user_message,
    "user": _Builder.user_message,
    "merge": _Builder.user_message,
    "step_start": _Builder.start_step,
    "text_delta": _Builder.text_delta,
    "tool_call": _Builder.tool_call,
    "tool_result": _Builder.tool_result,
    "step_end": _Builder.end_step,
    "agent_result": _Builder.agent_result,
    "turn_start": _Builder.end_turn,
    "turn_end": _Builder.end_turn,
}

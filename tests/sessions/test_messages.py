"""Events to messages: what is said comes once, calls and results stay together, older shapes are understood."""

from __future__ import annotations

from typing import Any

from chimera.events.event import Event
from chimera.sessions.messages import INTERRUPTED_RESULT, messages_of


def events(*given: tuple[str, dict[str, Any]]) -> list[Event]:
    return [
        Event(seq=seq, id=f"e{seq}", parent_id=f"e{seq - 1}" if seq > 1 else None, type=kind, ts="", metadata=metadata)
        for seq, (kind, metadata) in enumerate(given, 1)
    ]


def shown(*given: tuple[str, dict[str, Any]]) -> list[tuple[str, str, tuple[str, ...], str | None]]:
    return [
        (one.role, one.content, tuple(call.id for call in one.tool_calls), one.call_id)
        for one in messages_of(events(*given))
    ]


def test_a_log_of_prompts_and_results_alone() -> None:
    assert shown(("user_message", {"content": "hi"}), ("agent_result", {"output": "hello"})) == [
        ("user", "hi", (), None),
        ("assistant", "hello", (), None),
    ]


def test_what_the_steps_said_is_not_said_again_by_the_result() -> None:
    assert shown(
        ("user_message", {"content": "hi"}),
        ("step_start", {"step": 1}),
        ("text_delta", {"text": "hel", "offset": 0}),
        ("text_delta", {"text": "lo", "offset": 3}),
        ("step_end", {"step": 1}),
        ("agent_result", {"output": "hello"}),
    ) == [("user", "hi", (), None), ("assistant", "hello", (), None)]


def test_deltas_that_overlap_count_once() -> None:
    assert shown(
        ("step_start", {"step": 1}),
        ("text_delta", {"text": "hello", "offset": 0}),
        ("text_delta", {"text": "lo you", "offset": 3}),
        ("step_end", {"step": 1}),
    ) == [("assistant", "hello you", (), None)]


def test_calls_of_one_step_stand_in_one_message_before_their_results() -> None:
    assert shown(
        ("step_start", {"step": 1}),
        ("tool_call", {"call_id": "a", "tool": "Read", "args": {}}),
        ("tool_call", {"call_id": "b", "tool": "Glob", "args": {}}),
        ("tool_result", {"call_id": "b", "tool": "Glob", "result": "2"}),
        ("tool_result", {"call_id": "a", "tool": "Read", "result": "1"}),
    ) == [("assistant", "", ("a", "b"), None), ("tool", "2", (), "b"), ("tool", "1", (), "a")]


def test_a_call_that_holds_its_result_is_both() -> None:
    assert shown(("user_message", {"content": "go"}), ("tool_call", {"tool": "Read", "args": {}, "result": "x"})) == [
        ("user", "go", (), None),
        ("assistant", "", ("e2",), None),
        ("tool", "x", (), "e2"),
    ]


def test_a_result_without_a_call_id_answers_the_oldest_open_call_of_its_tool() -> None:
    assert shown(
        ("tool_call", {"tool": "Read", "args": {}}),
        ("tool_result", {"tool": "Read", "result": "x"}),
        ("tool_result", {"tool": "Read", "result": "answers nothing"}),
    ) == [("assistant", "", ("e1",), None), ("tool", "x", (), "e1")]


def test_a_call_that_nobody_answered_gets_a_synthetic_answer() -> None:
    found = messages_of(
        events(
            ("tool_call", {"call_id": "a", "tool": "Bash", "args": {}}),
            ("user_message", {"content": "are you there?"}),
        )
    )
    assert [(one.role, one.content) for one in found][1:] == [("tool", INTERRUPTED_RESULT), ("user", "are you there?")]
    assert found[1].synthetic


def test_content_in_parts_is_text() -> None:
    assert shown(("user_message", {"content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]})) == [
        ("user", "ab", (), None)
    ]


def test_nonsense_is_no_message_and_no_error() -> None:
    assert shown(
        ("tool_result", {}),
        ("text_delta", {"text": None, "offset": True}),
        ("tool_call", {"args": "no object", "call_id": 7}),
        ("something_else", {"content": "x"}),
        ("agent_result", {}),
    ) == [("assistant", "", ("e3",), None), ("tool", INTERRUPTED_RESULT, (), "e3")]

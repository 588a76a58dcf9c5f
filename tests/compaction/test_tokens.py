"""How many tokens messages take."""

from __future__ import annotations

import pytest

from chimera.compaction.tokens import CALL_TOKENS, MESSAGE_TOKENS, Usage, count_tokens, estimate_tokens, text_tokens
from chimera.sessions.messages import Message, ToolCall


@pytest.mark.parametrize(("text", "tokens"), [("", 0), ("a", 1), ("abcd", 1), ("abcde", 2), ("\u4e2d\u6587", 2)])
def test_a_text_takes_its_bytes_over_four_rounded_up(text: str, tokens: int) -> None:
    assert text_tokens(text) == tokens


def test_half_a_surrogate_pair_is_counted_too() -> None:
    assert text_tokens("\ud800") == 1


def test_a_message_and_a_call_have_a_fixed_cost() -> None:
    call = ToolCall("c1", "Bash", {"command": "ls"})
    message = Message("assistant", "", (call,))
    assert estimate_tokens([message]) == MESSAGE_TOKENS + CALL_TOKENS + 1 + len('{"command":"ls"}') // 4
    assert estimate_tokens([message, message]) == 2 * estimate_tokens([message])


def test_the_providers_count_is_taken_for_what_it_has_seen() -> None:
    messages = [Message("user", "a" * 40), Message("assistant", "b" * 400)]
    assert count_tokens(messages) == estimate_tokens(messages)
    assert count_tokens(messages, Usage(5000, 1)) == 5000 + estimate_tokens(messages[1:])


def test_a_count_of_a_context_that_was_longer_is_not_taken() -> None:
    messages = [Message("user", "a")]
    assert count_tokens(messages, Usage(5000, 2)) == estimate_tokens(messages)

"""How many tokens messages take: an estimate, and the provider's own count where it is known. Pure.

The estimate is the UTF-8 bytes of what a message says divided by four, rounded up, plus a fixed cost for every message
and every tool call (role, ids, the wrapping JSON). It is even in itself, so that two estimates can be compared; it is
not the count of any provider. Knows nothing of compaction.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from chimera.sessions.messages import Message, ToolCall

__all__ = ["Usage", "count_tokens", "estimate_tokens", "message_tokens", "text_tokens"]

BYTES_PER_TOKEN = 4
MESSAGE_TOKENS = 4
CALL_TOKENS = 8


class Usage(msgspec.Struct, frozen=True):
    """What the provider counted at the newest model call.

    Attributes:
        input_tokens: of that call, the system prompt and the tools' descriptions among them.
        messages: how many messages of the context the call was made with. A count from before a compaction tells
            nothing about the context after it.
    """

    input_tokens: int
    messages: int


def text_tokens(text: str) -> int:
    """The estimate for a text alone."""
    size = len(text) if text.isascii() else len(text.encode(errors="replace"))
    return -(-size // BYTES_PER_TOKEN)


def message_tokens(message: Message) -> int:
    """The estimate for one message with its calls."""
    return MESSAGE_TOKENS + text_tokens(message.content) + sum(_call_tokens(call) for call in message.tool_calls)


def estimate_tokens(messages: Iterable[Message]) -> int:
    """The estimate for messages: the sum of its parts."""
    return sum(message_tokens(message) for message in messages)


def count_tokens(messages: Sequence[Message], usage: Usage | None = None) -> int:
    """The provider's count of the messages it has seen, and the estimate for those that came after."""
    if usage is None or usage.messages > len(messages):
        return estimate_tokens(messages)
    return usage.input_tokens + estimate_tokens(messages[usage.messages :])


def _call_tokens(call: ToolCall) -> int:
    arguments = msgspec.json.encode(call.arguments).decode()
    return CALL_TOKENS + text_tokens(call.name) + text_tokens(arguments)

"""Where a context may be cut so that the newest messages stay whole. Pure; knows no strategy.

A context begins with its head: what an earlier compaction put there (memory blocks of messages that are gone, then the
summary). The head is never kept as if it were original, for no event stands where it stands. After it a cut is legal

    before a user message        a turn boundary
    before an assistant message  a step boundary, where no tool result after it answers a call before it

and only where an event stands behind the message, since a compaction names it by that event's id.
"""

from __future__ import annotations

from collections.abc import Sequence

from chimera.compaction.tokens import message_tokens
from chimera.sessions.context import SUMMARY_HEAD, memory_blocks
from chimera.sessions.messages import Message

__all__ = ["choose_cut", "head_length", "holds_memory", "is_turn_start", "legal_cuts", "summary_in_force"]


def choose_cut(messages: Sequence[Message], keep_tokens: int) -> int | None:
    """The index of the first message to keep; None when everything fits or nothing can be dropped.

    The newest messages that fit ``keep_tokens`` (estimated) are kept. A turn boundary is preferred as long as it keeps
    at least half as much as the nearest step; a single huge turn is split at its steps. The newest user message or
    step is kept even when it alone is larger.
    """
    places = legal_cuts(messages)
    kept = _tokens_from_each(messages)
    if not places or kept[head_length(messages)] <= keep_tokens:
        return None
    fitting = [place for place in places if kept[place] <= keep_tokens]
    if not fitting:
        return places[-1]
    nearest = fitting[0]
    turn = next((place for place in fitting if is_turn_start(messages[place])), nearest)
    return turn if kept[turn] * 2 >= kept[nearest] else nearest


def legal_cuts(messages: Sequence[Message]) -> list[int]:
    """Every place where the context may be cut, oldest first; each drops something that was said."""
    first = head_length(messages) + 1
    places = []
    unmet: set[str | None] = set()  # calls that results further on answer
    for at in range(len(messages) - 1, first - 1, -1):
        message = messages[at]
        if message.role == "tool":
            unmet.add(message.call_id)
        unmet.difference_update(call.id for call in message.tool_calls)
        if not unmet and message.event_id and message.role in ("user", "assistant"):
            places.append(at)
    places.reverse()
    last = next((at for at, message in enumerate(messages) if _cannot_be_named(message)), len(messages))
    return [place for place in places if place <= last]


def head_length(messages: Sequence[Message]) -> int:
    """How many messages at the beginning stand for what was compacted before."""
    for at in range(len(messages) - 1, -1, -1):
        if _is_summary(messages[at]):
            return at + 1
    length = 0
    while length < len(messages) and _is_memory_alone(messages[length]):
        length += 1
    return length


def summary_in_force(messages: Sequence[Message]) -> str:
    """The summary of the newest compaction; "" for none."""
    for message in reversed(messages):
        if _is_summary(message):
            return message.content[len(SUMMARY_HEAD) :]
    return ""


def holds_memory(message: Message) -> bool:
    """Whether a message has memory blocks. Only what a user message says is memory: a tool may have read the tags."""
    return message.role == "user" and not message.synthetic and bool(memory_blocks(message.content))


def is_turn_start(message: Message) -> bool:
    return message.role == "user" and not message.synthetic


def _is_summary(message: Message) -> bool:
    return message.role == "user" and message.synthetic and message.content.startswith(SUMMARY_HEAD)


def _is_memory_alone(message: Message) -> bool:
    """Memory as a compaction without a summary leaves it. An original that looks the same loses nothing by it."""
    return holds_memory(message) and message.content == "\n".join(memory_blocks(message.content))


def _cannot_be_named(message: Message) -> bool:
    """Memory without an event behind it: a compaction could not bring it through, so it is not dropped."""
    return not message.event_id and holds_memory(message)


def _tokens_from_each(messages: Sequence[Message]) -> list[int]:
    """For every place the tokens of the messages from there on; the last one is 0."""
    sums = [0]
    for message in reversed(messages):
        sums.append(sums[-1] + message_tokens(message))
    sums.reverse()
    return sums

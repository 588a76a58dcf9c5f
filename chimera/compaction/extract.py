"""A summary without a model: what was asked, how turns ended, what was run. Pure.

The same messages always give the same lines.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

from chimera.compaction.cuts import head_length, is_turn_start, summary_in_force
from chimera.compaction.outline import Outline, as_items, clip, joined, parse_outline
from chimera.sessions.context import memory_blocks
from chimera.sessions.messages import Message

__all__ = ["extract_outline", "without_memory"]

TEXT_BYTES = 400
COMMAND_BYTES = 200
_COMMAND_ARGUMENTS = ("command", "cmd")
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+|\n+")


def extract_outline(messages: Sequence[Message]) -> Outline:
    """The outline of messages, which takes in the summary that they begin with.

    Goal: what the user said. Decisions: what the assistant said last in each turn. Open questions: what it asked at the
    end of the newest of these. Commands run: the ``command`` of its tool calls. Files are not looked for: the session
    knows them better.
    """
    said = messages[head_length(messages) :]
    conclusions = list(_conclusions(said))
    sentences = _SENTENCE_END.split(conclusions[-1]) if conclusions else []
    extract = Outline(
        goal=_lines((without_memory(message.content) for message in said if is_turn_start(message)), TEXT_BYTES),
        decisions=_lines(conclusions, TEXT_BYTES),
        open_questions=_lines((sentence for sentence in sentences if sentence.rstrip().endswith("?")), TEXT_BYTES),
        commands=_lines(_commands(said), COMMAND_BYTES),
    )
    return joined(parse_outline(summary_in_force(messages)), extract)


def without_memory(text: str) -> str:
    """A text without its memory blocks, which need no summary: they stay."""
    for block in memory_blocks(text):
        text = text.replace(block, "", 1)
    return text


def _conclusions(messages: Sequence[Message]) -> Iterator[str]:
    said = ""
    for message in messages:
        if message.role == "assistant":
            said = message.content if message.content.strip() else said
        elif is_turn_start(message) and said:
            yield said
            said = ""
    if said:
        yield said


def _commands(messages: Sequence[Message]) -> Iterator[str]:
    for message in messages:
        for call in message.tool_calls:
            for name in _COMMAND_ARGUMENTS:
                command = call.arguments.get(name)
                if isinstance(command, str):
                    yield command


def _lines(texts: Iterable[str], max_bytes: int) -> list[str]:
    """A line for each text that says anything, each once."""
    flat = (clip(" ".join(text.split()), max_bytes) for text in texts)
    return list(dict.fromkeys(as_items(text for text in flat if text)))

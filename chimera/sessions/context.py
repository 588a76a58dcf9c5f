"""The context: what the model sees of a path through the tree. The newest compaction on the way counts.

    compaction     {summary, first_kept, memory, ...}: in the place of everything before the event ``first_kept`` (null:
                   before the compaction itself) stand the memory blocks of the events that ``memory`` names, byte by
                   byte, and the summary

Nothing is copied into a compaction: it refers to originals by id, and they stay in the log. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from chimera.events.event import Event
from chimera.sessions.messages import Message, messages_of, text_of

__all__ = ["SUMMARY_HEAD", "context_of", "memory_blocks", "newest_compaction"]

SUMMARY_HEAD = "[Earlier messages were compacted. Summary:]\n"
"""What a summary's message begins with."""

_MEMORY_BEGIN = re.compile(r'<memory source="[^"]*">')
_MEMORY_END = "</memory>"


def context_of(path: Sequence[Event]) -> list[Message]:
    """The messages of a path from root to leaf."""
    at = newest_compaction(path)
    if at is None:
        return messages_of(path)
    compaction = path[at]
    first = _place_of(path, compaction.metadata.get("first_kept"), at)
    kept = [*path[first:at], *path[at + 1 :]]
    return [*_memory_of(path[:first], compaction), *_summary_of(compaction), *messages_of(kept)]


def newest_compaction(path: Sequence[Event]) -> int | None:
    """Where on the path the newest compaction stands."""
    for at in range(len(path) - 1, -1, -1):
        if path[at].type == "compaction":
            return at
    return None


def memory_blocks(text: str) -> list[str]:
    """The ``<memory source="...">`` blocks of a text, each byte by byte as it stands."""
    blocks = []
    at = 0
    while begin := _MEMORY_BEGIN.search(text, at):
        end = text.find(_MEMORY_END, begin.end())
        if end < 0:
            break
        at = end + len(_MEMORY_END)
        blocks.append(text[begin.start() : at])
    return blocks


def _place_of(path: Sequence[Event], event_id: object, otherwise: int) -> int:
    for at, event in enumerate(path[:otherwise]):
        if event.id == event_id:
            return at
    return otherwise


def _memory_of(replaced: Sequence[Event], compaction: Event) -> list[Message]:
    """The memory that stood in what was replaced: named by the compaction, taken from the originals."""
    named = compaction.metadata.get("memory")
    wanted = set(named) if isinstance(named, list) else set()
    messages = []
    for event in replaced:
        if event.id in wanted:
            blocks = memory_blocks(text_of(event.metadata.get("content")))
            messages.append(Message("user", "\n".join(blocks), event_id=event.id))
    return messages


def _summary_of(compaction: Event) -> list[Message]:
    summary = text_of(compaction.metadata.get("summary"))
    if not summary:
        return []
    return [Message("user", SUMMARY_HEAD + summary, event_id=compaction.id, synthetic=True)]

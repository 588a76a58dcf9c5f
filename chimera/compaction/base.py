"""What a compaction is asked and what it proposes. A strategy proposes; somebody else records the one event.

A plan says exactly what ``chimera.sessions.context`` makes of that event: the memory blocks of what is dropped, byte by
byte, the summary, and the messages that are kept. Originals are named by id and never copied. Knows no log.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import msgspec

from chimera.compaction.cuts import holds_memory, summary_in_force
from chimera.compaction.tokens import Usage, estimate_tokens
from chimera.context.agent_memory import defuse_memory_tags
from chimera.errors import CompactionFailed
from chimera.sessions.context import SUMMARY_HEAD, memory_blocks
from chimera.sessions.messages import Message

__all__ = [
    "CompactionFailed",
    "CompactionPlan",
    "CompactionRequest",
    "CompactionStrategy",
    "keep_budget",
    "memory_messages",
    "plan_at",
]


class CompactionRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A context that is to be made shorter.

    Attributes:
        messages: the context as ``context_of`` gives it.
        window: the model's, in tokens; 0 when it is not known.
        instructions: what a person wants the summary to look at.
        previous_summary: the one now in force; "" for the one found among the messages, if any.
        read_files, modified_files: by the session's tools so far.
        force: also when there is room enough.
        keep_tokens: how many tokens of the newest messages to keep (estimated); None leaves it to the strategy.
        usage: the provider's count of the newest model call, where there was one since the last compaction.
    """

    messages: list[Message]
    window: int
    instructions: str | None = None
    previous_summary: str = ""
    read_files: list[str] = []
    modified_files: list[str] = []
    force: bool = False
    keep_tokens: int | None = None
    usage: Usage | None = None

    def earlier_summary(self) -> str:
        """The summary in force; "" for none."""
        return self.previous_summary or summary_in_force(self.messages)


class CompactionPlan(msgspec.Struct, frozen=True, kw_only=True):
    """What a compaction would do.

    Attributes:
        kept: the newest messages, as they are.
        dropped: what the summary stands for, the earlier summary among it.
        first_kept: the event id of the first message that is kept; None when none is.
        memory: the event ids of the dropped messages whose memory blocks stay.
        tokens_before, tokens_after: estimates (chimera.compaction.tokens).
        strategy: the name of the one that proposes it.
    """

    strategy: str
    kept: list[Message]
    dropped: list[Message]
    first_kept: str | None
    memory: list[str]
    summary: str
    tokens_before: int
    tokens_after: int
    read_files: list[str]
    modified_files: list[str]
    instructions: str | None = None

    def metadata(self) -> dict[str, Any]:
        """The payload of the ``compaction`` event."""
        return {
            "summary": self.summary,
            "first_kept": self.first_kept,
            "memory": self.memory,
            "tokens_before": self.tokens_before,
            "tokens_after": self.tokens_after,
            "read_files": self.read_files,
            "modified_files": self.modified_files,
            "strategy": self.strategy,
            "instructions": self.instructions,
        }

    def messages(self, event_id: str = "") -> list[Message]:
        """The context afterwards; ``event_id`` is that of the compaction event, once there is one."""
        summary = Message("user", SUMMARY_HEAD + self.summary, event_id=event_id, synthetic=True)
        return [*memory_messages(self.dropped), *([summary] if self.summary else []), *self.kept]


class CompactionStrategy(ABC):
    """A way to shorten a context. ``name`` stands in the event."""

    name: str

    @abstractmethod
    async def plan(self, request: CompactionRequest) -> CompactionPlan | None:
        """What to do; None when nothing is worth doing. A plan always takes fewer tokens than there were.

        Raises:
            CompactionFailed: no summary could be had.
        """


def plan_at(
    request: CompactionRequest,
    cut: int,
    summary: str,
    strategy: str,
    files: tuple[list[str], list[str]] | None = None,
) -> CompactionPlan | None:
    """The plan that keeps the messages from ``cut`` on; None when it would take no fewer tokens than there are.

    Memory tags in the summary are defused. ``files`` (read, modified) are those of the request unless given.
    """
    dropped, kept = request.messages[:cut], request.messages[cut:]
    read_files, modified_files = files or (request.read_files, request.modified_files)
    plan = CompactionPlan(
        strategy=strategy,
        kept=kept,
        dropped=dropped,
        first_kept=kept[0].event_id if kept else None,
        memory=[message.event_id for message in dropped if holds_memory(message)],
        summary=defuse_memory_tags(summary),
        tokens_before=estimate_tokens(request.messages),
        tokens_after=0,
        read_files=list(read_files),
        modified_files=list(modified_files),
        instructions=request.instructions,
    )
    tokens_after = estimate_tokens(plan.messages())
    if tokens_after >= plan.tokens_before:
        return None
    return msgspec.structs.replace(plan, tokens_after=tokens_after)


def keep_budget(request: CompactionRequest, ratio: float) -> int:
    """How many tokens of the newest messages to keep: as asked, else ``ratio`` of the window.

    A forced compaction, or one without a known window, measures by what is there, so that it can do something.
    """
    if request.keep_tokens is not None:
        return request.keep_tokens
    there = estimate_tokens(request.messages)
    if request.window <= 0:
        return int(ratio * there)
    return int(ratio * (min(request.window, there) if request.force else request.window))


def memory_messages(dropped: Sequence[Message]) -> list[Message]:
    """What stays of dropped messages: a user message with the memory blocks of each that held some."""
    return [
        Message("user", "\n".join(memory_blocks(message.content)), event_id=message.event_id)
        for message in dropped
        if holds_memory(message)
    ]

"""``Prune`` and ``Counter``: compaction without a summary, for tests, cheap models and a summariser that is down.

Both put one line in the place of what they drop. They keep no state: the counts of an earlier line are read from it. A
summary that somebody else wrote before is carried along, for it stands for messages that are not dropped now.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from chimera.compaction.base import CompactionPlan, CompactionRequest, CompactionStrategy, keep_budget, plan_at
from chimera.compaction.cuts import choose_cut, head_length, is_turn_start
from chimera.sessions.messages import Message

__all__ = ["Counter", "Prune"]

_PRUNED = re.compile(r"^\(dropped without a summary: turns (\d{1,9}), messages (\d{1,9})\)$\n?", re.MULTILINE)
_COUNTED = re.compile(r"^\(earlier messages not shown: (\d{1,9})\)$\n?", re.MULTILINE)


class Prune(CompactionStrategy):
    """Drops the oldest turns; a line says how many."""

    name = "prune"

    def __init__(self, keep_ratio: float = 0.5) -> None:
        """``keep_ratio``: of the window, for the newest messages."""
        self._keep_ratio = keep_ratio

    async def plan(self, request: CompactionRequest) -> CompactionPlan | None:
        cut = choose_cut(request.messages, keep_budget(request, self._keep_ratio))
        if cut is None:
            return None
        earlier = request.earlier_summary()
        said = _said(request, cut)
        turns = sum(map(is_turn_start, said))
        messages = len(said)
        for line in _PRUNED.finditer(earlier):
            turns, messages = turns + int(line[1]), messages + int(line[2])
        line_now = f"(dropped without a summary: turns {turns}, messages {messages})"
        return plan_at(request, cut, _before(line_now, _PRUNED.sub("", earlier)), self.name)


class Counter(CompactionStrategy):
    """Puts the number of the messages that it drops in their place."""

    name = "counter"

    def __init__(self, keep_ratio: float = 0.3) -> None:
        """``keep_ratio``: of the window, for the newest messages."""
        self._keep_ratio = keep_ratio

    async def plan(self, request: CompactionRequest) -> CompactionPlan | None:
        cut = choose_cut(request.messages, keep_budget(request, self._keep_ratio))
        if cut is None:
            return None
        earlier = request.earlier_summary()
        messages = len(_said(request, cut)) + sum(int(line[1]) for line in _COUNTED.finditer(earlier))
        line_now = f"(earlier messages not shown: {messages})"
        return plan_at(request, cut, _before(line_now, _COUNTED.sub("", earlier)), self.name)


def _said(request: CompactionRequest, cut: int) -> Sequence[Message]:
    """What is dropped now, without what stands for something dropped earlier."""
    return request.messages[head_length(request.messages) : cut]


def _before(line: str, earlier: str) -> str:
    return f"{line}\n{earlier}" if earlier.strip() else line

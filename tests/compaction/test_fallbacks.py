"""``Prune`` and ``Counter``."""

from __future__ import annotations

import asyncio

import pytest

from chimera.compaction import Counter, Prune, SummaryCompaction
from chimera.compaction.cuts import head_length
from chimera.sessions.context import memory_blocks
from tests.compaction.conversations import MEMORY, Path, long_session, request_for


def grow(path: Path) -> None:
    for event in long_session().events[1:]:
        path.add(event.type, **event.metadata)


def test_prune_says_in_one_line_what_it_dropped() -> None:
    path = long_session()
    plan = asyncio.run(Prune().plan(request_for(path.messages)))
    assert plan is not None
    dropped = len(plan.dropped)
    turns = sum(message.role == "user" for message in plan.dropped)
    assert plan.summary == f"(dropped without a summary: turns {turns}, messages {dropped})"


def test_counter_puts_a_count_in_the_place_of_messages() -> None:
    path = long_session()
    plan = asyncio.run(Counter().plan(request_for(path.messages)))
    assert plan is not None
    assert plan.summary == f"(earlier messages not shown: {len(plan.dropped)})"


@pytest.mark.parametrize("strategy", [Prune(), Counter()])
def test_counts_go_on_over_several_compactions_in_one_line(strategy: Prune | Counter) -> None:
    path = long_session()
    said = 0
    for _ in range(3):
        plan = asyncio.run(strategy.plan(request_for(path.messages)))
        assert plan is not None
        said += len(plan.dropped) - head_length(path.messages)
        path.compact(plan)
        grow(path)
        assert "\n" not in plan.summary
        assert int(plan.summary.rstrip(")").rpartition(" ")[2]) == said


@pytest.mark.parametrize("strategy", [Prune(), Counter()])
def test_a_summary_that_a_model_once_wrote_is_carried_along(strategy: Prune | Counter) -> None:
    path = long_session()
    first = asyncio.run(SummaryCompaction().plan(request_for(path.messages)))
    assert first is not None
    path.compact(first)
    grow(path)
    plan = asyncio.run(strategy.plan(request_for(path.messages)))
    assert plan is not None
    assert plan.summary.partition("\n")[2] == first.summary


def test_tags_in_a_summary_of_somebody_else_are_defused() -> None:
    request = request_for(long_session().messages, previous_summary=MEMORY)
    plan = asyncio.run(Prune().plan(request))
    assert plan is not None
    assert "&lt;memory source" in plan.summary
    assert memory_blocks(plan.summary) == []

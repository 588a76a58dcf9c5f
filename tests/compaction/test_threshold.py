"""When a context is compacted."""

from __future__ import annotations

import asyncio

import pytest

from chimera.compaction import HARD, SOFT, Counter, Prune, ThresholdCompaction, Usage, estimate_tokens
from chimera.errors import InvalidParams
from tests.compaction.conversations import long_session, request_for


@pytest.mark.parametrize(
    ("tokens", "window", "level"),
    [
        (0, 100, None),
        (69, 100, None),
        (70, 100, SOFT),
        (89, 100, SOFT),
        (90, 100, HARD),
        (500, 100, HARD),
        (9, 0, None),
    ],
)
def test_the_level_is_a_share_of_the_window(tokens: int, window: int, level: str | None) -> None:
    assert ThresholdCompaction(Prune()).level(tokens, window) == level


def test_nothing_happens_while_there_is_room() -> None:
    messages = long_session().messages
    window = estimate_tokens(messages) * 2
    assert asyncio.run(ThresholdCompaction(Prune()).plan(request_for(messages, window=window))) is None


def test_a_forced_compaction_happens_while_there_is_room() -> None:
    messages = long_session().messages
    window = estimate_tokens(messages) * 50
    plan = asyncio.run(ThresholdCompaction(Prune()).plan(request_for(messages, window=window, force=True)))
    assert plan is not None
    assert plan.tokens_after < plan.tokens_before // 2


def test_hard_keeps_less_than_soft() -> None:
    messages = long_session(turns=20).messages
    tokens = estimate_tokens(messages)
    strategy = ThresholdCompaction(Prune())
    soft = asyncio.run(strategy.plan(request_for(messages, window=int(tokens / 0.75))))
    hard = asyncio.run(strategy.plan(request_for(messages, window=tokens)))
    assert soft is not None
    assert hard is not None
    assert hard.tokens_after < soft.tokens_after


def test_the_providers_count_decides_where_it_is_known() -> None:
    messages = long_session().messages
    tokens = estimate_tokens(messages)
    request = request_for(messages, window=tokens * 5, usage=Usage(tokens * 5, len(messages)))
    plan = asyncio.run(ThresholdCompaction(Counter()).plan(request))
    assert plan is not None
    assert plan.tokens_after < tokens // 2


def test_a_budget_that_was_asked_for_is_kept_to() -> None:
    messages = long_session().messages
    request = request_for(messages, window=estimate_tokens(messages), keep_tokens=0)
    plan = asyncio.run(ThresholdCompaction(Counter()).plan(request))
    assert plan is not None
    assert len(plan.kept) == 1


def test_the_event_names_the_strategy_that_did_it() -> None:
    assert ThresholdCompaction(Counter()).name == "counter"


@pytest.mark.parametrize(
    "shares", [{"soft": 0.9, "hard": 0.7}, {"soft": 0}, {"hard": 1.1}, {"soft_keep": 0.8}, {"hard_keep": -1}]
)
def test_shares_that_make_no_sense_are_refused(shares: dict[str, float]) -> None:
    with pytest.raises(InvalidParams):
        ThresholdCompaction(Prune(), **shares)

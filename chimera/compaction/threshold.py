"""``ThresholdCompaction``: when to compact. How is left to the strategy inside."""

from __future__ import annotations

from typing import Literal

import msgspec

from chimera.compaction.base import CompactionPlan, CompactionRequest, CompactionStrategy
from chimera.compaction.tokens import count_tokens, estimate_tokens
from chimera.errors import InvalidParams

__all__ = ["HARD", "SOFT", "Level", "ThresholdCompaction"]

SOFT: Literal["soft"] = "soft"
"""Compact when the turn has ended."""

HARD: Literal["hard"] = "hard"
"""Compact before the next model call."""

Level = Literal["soft", "hard"]


class ThresholdCompaction(CompactionStrategy):
    """Compacts from a share of the model's window on; the strategy inside says how.

    Attributes:
        soft, hard: shares of the window from which on the context is that full.
    """

    def __init__(
        self,
        strategy: CompactionStrategy,
        soft: float = 0.7,
        hard: float = 0.9,
        soft_keep: float = 0.3,
        hard_keep: float = 0.15,
    ) -> None:
        """
        Args:
            soft_keep, hard_keep: share of the window that the newest messages keep at each level.

        Raises:
            InvalidParams: not 0 < soft < hard <= 1, or a share to keep is negative or not below its threshold.
        """
        if not 0 < soft < hard <= 1:
            raise InvalidParams(f"thresholds need 0 < soft < hard <= 1; they are {soft} and {hard}")
        if not (0 <= soft_keep < soft and 0 <= hard_keep < hard):
            raise InvalidParams(
                f"what is kept must be less than what there is: soft_keep {soft_keep} below soft {soft}, "
                f"hard_keep {hard_keep} below hard {hard}"
            )
        self.name = strategy.name
        self.soft = soft
        self.hard = hard
        self._strategy = strategy
        self._soft_keep = soft_keep
        self._hard_keep = hard_keep

    def level(self, tokens: int, window: int) -> Level | None:
        """How full a window is with ``tokens``; None when there is room, or its size is not known (0)."""
        if window <= 0:
            return None
        if tokens >= self.hard * window:
            return HARD
        return SOFT if tokens >= self.soft * window else None

    async def plan(self, request: CompactionRequest) -> CompactionPlan | None:
        """The plan of the strategy inside; None while there is room, unless forced.

        Raises:
            CompactionFailed: as the strategy inside.
        """
        tokens = count_tokens(request.messages, request.usage)
        level = self.level(tokens, request.window)
        if level is None and not request.force:
            return None
        if request.keep_tokens is None:
            keep = self._hard_keep if level == HARD else self._soft_keep
            request = msgspec.structs.replace(request, keep_tokens=_keep_tokens(request, tokens, keep))
        return await self._strategy.plan(request)


def _keep_tokens(request: CompactionRequest, tokens: int, ratio: float) -> int:
    """``ratio`` of the window, or of what is there where that is less, in the measure of the estimate.

    The provider may count far more than the estimate; measured by its own share something is dropped all the same.
    """
    share = ratio * min(request.window / tokens, 1) if request.window > 0 and tokens > 0 else ratio
    return int(share * estimate_tokens(request.messages))

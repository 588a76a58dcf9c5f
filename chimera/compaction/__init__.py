"""Compaction: shortening what the model sees. Strategies propose (base); one event, which undo takes back, does it.

threshold   when: SOFT at the turn's end, HARD at once
summary     how: a summary by a model, or extracted        file_aware   the same, no file forgotten
fallbacks   how, without a summary: Prune, Counter
cuts        where a context may be cut                     tokens       how much it takes
outline     the text of a summary                          extract, prompt   where its lines come from
"""

from chimera.compaction.base import CompactionFailed, CompactionPlan, CompactionRequest, CompactionStrategy
from chimera.compaction.fallbacks import Counter, Prune
from chimera.compaction.file_aware import FileAwareCompaction
from chimera.compaction.summary import Summariser, SummaryCompaction
from chimera.compaction.threshold import HARD, SOFT, Level, ThresholdCompaction
from chimera.compaction.tokens import Usage, count_tokens, estimate_tokens

__all__ = [
    "HARD",
    "SOFT",
    "CompactionFailed",
    "CompactionPlan",
    "CompactionRequest",
    "CompactionStrategy",
    "Counter",
    "FileAwareCompaction",
    "Level",
    "Prune",
    "Summariser",
    "SummaryCompaction",
    "ThresholdCompaction",
    "Usage",
    "count_tokens",
    "estimate_tokens",
]

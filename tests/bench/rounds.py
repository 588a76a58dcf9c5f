"""Interleaving: every case once a round, in one run, and ratios of what stood side by side."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence

__all__ = ["Samples", "interleave", "median", "paired_ratio"]

Samples = dict[str, list[float]]


def interleave(rounds: int, cases: Mapping[str, Callable[[], float]]) -> Samples:
    """One sample of every case a round. Every other round runs backwards, so that no case always comes first."""
    samples: Samples = {name: [] for name in cases}
    for number in range(rounds):
        names = list(cases) if number % 2 == 0 else list(cases)[::-1]
        for name in names:
            samples[name].append(cases[name]())
    return samples


def paired_ratio(samples: Mapping[str, Sequence[float]], subject: str, baseline: str) -> float:
    """The median over rounds of subject / baseline, each taken from the same round."""
    pairs = zip(samples[subject], samples[baseline], strict=True)
    return median([ours / theirs for ours, theirs in pairs])


def median(values: Sequence[float]) -> float:
    return float(statistics.median(values))

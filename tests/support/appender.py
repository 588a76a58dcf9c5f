"""Who appends to a store in this process, in place of a connection."""

from __future__ import annotations

from collections.abc import Callable

from chimera.errors import ChimeraError
from chimerad.store.batches import Answer, AppendOutcome

__all__ = ["Outcome", "Telling"]

Outcome = AppendOutcome | ChimeraError


class Telling:
    """An appender that hands on each outcome."""

    def __init__(self, tell: Callable[[Outcome], None]) -> None:
        self.tell = tell

    def answered(self, answers: list[Answer]) -> None:
        for _, outcome in answers:
            self.tell(outcome)

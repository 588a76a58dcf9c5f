"""An event loop that looks a moment longer before it falls asleep. Knows nothing of what it serves.

To fall asleep and be woken takes a core 30 to 60 us, as long as a client takes between an answer and its next call
(docs/architecture.md). So while calls come that quickly the loop polls instead of sleeping; as soon as one does not, it
sleeps at once again, and an idle daemon costs nothing.
"""

from __future__ import annotations

import asyncio
import os
import selectors
import time

__all__ = ["EagerSelector", "new_event_loop"]

LOOK_SECONDS = 200e-6
"""How long it looks, and how short a sleep must have been for the next one to be put off."""


def new_event_loop() -> asyncio.AbstractEventLoop:
    """The daemon's loop. On a single core nobody else could run while it looks, so there it does not."""
    return asyncio.SelectorEventLoop(EagerSelector() if len(os.sched_getaffinity(0)) > 1 else None)


class EagerSelector(selectors.DefaultSelector):
    """The system's selector, which polls for a moment before it sleeps while that has been paying off."""

    def __init__(self) -> None:
        super().__init__()
        self._eager = False

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        poll, clock = super().select, time.perf_counter
        if timeout is not None and timeout < LOOK_SECONDS:
            return poll(timeout)
        deadline = clock() + LOOK_SECONDS
        while self._eager:
            if ready := poll(0):
                return ready
            self._eager = clock() < deadline
        ready = poll(timeout)
        self._eager = clock() < deadline
        return ready

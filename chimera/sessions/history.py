"""A session's events with the tree over them, and the state at the leaf, kept in step with what is recorded.

Knows how to go on, not what a turn is. What several threads record comes one behind the other.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence

from chimera.events.event import Event
from chimera.sessions.event_tree import EventTree
from chimera.sessions.proposals import Proposal
from chimera.sessions.recorder import Recorder
from chimera.sessions.state import SessionState, state_of

__all__ = ["History"]


class History:
    """What was, and the one way to add to it.

    Attributes:
        tree: every event of the session.
        recorder: where they are kept.
    """

    def __init__(self, recorder: Recorder, tree: EventTree | None = None) -> None:
        """Read what there is, unless ``tree`` has it already.

        Raises:
            LogGapError: events are missing.
        """
        self.recorder = recorder
        self.tree = EventTree(recorder.load()) if tree is None else tree
        self._state: SessionState | None = None
        self._turn = threading.RLock()

    @property
    def events(self) -> list[Event]:
        return self.tree.events

    @property
    def state(self) -> SessionState:
        """The session at its leaf; made when it is asked for, once for each change."""
        with self._turn:
            if self._state is None:
                self._state = state_of(self.tree)
            return self._state

    def record(self, *proposals: Proposal) -> list[Event]:
        """Keep these, all or none; returns what is new, which may hold events of others before them."""
        return self.record_all(proposals)

    def record_all(self, proposals: Sequence[Proposal]) -> list[Event]:
        with self._turn:
            added = self.recorder.record(proposals)
            for event in added:
                self.tree.add(event)
            self._state = None
            return added

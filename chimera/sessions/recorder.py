"""Where a session's events go: into memory, or into its event log. One interface, so that a session is one class.

Knows no messages and no tree.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec import UNSET

from chimera.events.check import encode_metadata
from chimera.events.event import Event
from chimera.identifiers import format_timestamp, new_event_id
from chimera.sessions.eventlog.log import EventLog
from chimera.sessions.eventlog.writer import NewEvent
from chimera.sessions.lineage import inherited_events
from chimera.sessions.proposals import Proposal

__all__ = ["LogRecorder", "MemoryRecorder", "Recorder", "event_of"]


class Recorder(ABC):
    """Keeps the events of one session, in order."""

    @abstractmethod
    def load(self) -> list[Event]:
        """Every event that there is.

        Raises:
            LogGapError: some are missing.
        """

    @abstractmethod
    def record(self, proposals: Sequence[Proposal]) -> list[Event]:
        """Keep these, all or none; durable as the recorder promises when it returns.

        Returns what is new in the order of the log: these, after whatever others added meanwhile.
        """


class MemoryRecorder(Recorder):
    """Keeps nothing beyond the process."""

    def __init__(self, events: Sequence[Event] = ()) -> None:
        self._events = list(events)

    def load(self) -> list[Event]:
        return list(self._events)

    def record(self, proposals: Sequence[Proposal]) -> list[Event]:
        seq = self._events[-1].seq if self._events else 0
        leaf = self._events[-1].id if self._events else None
        now = format_timestamp(time.time_ns())
        added = []
        for proposal in proposals:
            seq += 1
            metadata: dict[str, Any] = msgspec.json.decode(encode_metadata(proposal.metadata))
            event = event_of(seq, new_event_id(), proposal, leaf, now, metadata)
            added.append(event)
            leaf = event.id
        self._events += added
        return added


class LogRecorder(Recorder):
    """Keeps them in the session's log, through the daemon where one owns the root."""

    def __init__(self, log: EventLog) -> None:
        self.log = log
        self._known_seq = 0
        self._leaf: str | None = None

    def load(self) -> list[Event]:
        events = list(self.log.replay())
        inherited = inherited_events(self.log.directory)
        self._leaf = inherited[-1].id if inherited else None
        self._note(events)
        return [*inherited, *events]

    def record(self, proposals: Sequence[Proposal]) -> list[Event]:
        now = format_timestamp(time.time_ns())
        ids = [new_event_id() for _ in proposals]
        encoded = [encode_metadata(proposal.metadata) for proposal in proposals]
        indices = self.log.append_new(
            [
                NewEvent(proposal.type, msgspec.Raw(metadata), event_id, proposal.parent_id, now)
                for proposal, metadata, event_id in zip(proposals, encoded, ids, strict=True)
            ]
        )
        if indices[0] == self._known_seq:  # nobody came between: what was written is what we gave
            added = []
            leaf = self._leaf
            for seq, (proposal, event_id, metadata) in enumerate(
                zip(proposals, ids, encoded, strict=True), indices[0] + 1
            ):
                added.append(event_of(seq, event_id, proposal, leaf, now, msgspec.json.decode(metadata)))
                leaf = event_id
        else:
            added = self.log.get_since(self._known_seq)
        self._note(added)
        return added

    def _note(self, events: list[Event]) -> None:
        if events:
            self._known_seq, self._leaf = events[-1].seq, events[-1].id


def event_of(seq: int, event_id: str, proposal: Proposal, leaf: str | None, ts: str, metadata: dict[str, Any]) -> Event:
    parent_id = leaf if proposal.parent_id is UNSET else proposal.parent_id
    return Event(seq=seq, id=event_id, parent_id=parent_id, type=proposal.type, ts=ts, metadata=metadata)

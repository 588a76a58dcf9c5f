"""The ``ids`` layout: one file an event, named for its id."""

from __future__ import annotations

from chimera.sessions.eventlog.layouts.names import event_file_name

__all__ = ["IdsLayout"]


class IdsLayout:
    """Written for otter, ferret, weasel, shrew and badger: ``event-000001-evt-7c8a4f1e90b2d3aa.json``."""

    name = "ids"
    one_file_an_event = True

    def file_name(self, number: int, event_type: str, event_id: str) -> str:  # noqa: ARG002 - the id names it
        return event_file_name(number, event_id)

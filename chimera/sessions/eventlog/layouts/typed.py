"""The ``typed`` layout: one file an event, named for its type."""

from __future__ import annotations

from chimera.sessions.eventlog.layouts.names import event_file_name

__all__ = ["TypedLayout"]


class TypedLayout:
    """Written for stoat: ``event-000001-tool_call.json``."""

    name = "typed"
    one_file_an_event = True

    def file_name(self, number: int, event_type: str, event_id: str) -> str:  # noqa: ARG002 - the type names it
        return event_file_name(number, event_type)

"""The ``jsonl`` layout: every event is one line of ``events.jsonl``."""

from __future__ import annotations

__all__ = ["LINES_FILE", "JsonlLayout"]

LINES_FILE = "events.jsonl"


class JsonlLayout:
    """Written for mink, library sessions and imports."""

    name = "jsonl"
    one_file_an_event = False

    def file_name(self, number: int, event_type: str, event_id: str) -> str:  # noqa: ARG002 - one file for all
        return LINES_FILE

"""The four layouts a session's events lie in; one small class each, one reader over all of them.

``typed`` and ``ids`` have a file an event, ``jsonl`` one file of lines, ``packed`` one compressed file. Knows how
files are named; opens none.
"""

from __future__ import annotations

from typing import Protocol

from chimera.sessions.eventlog.layouts.ids import IdsLayout
from chimera.sessions.eventlog.layouts.jsonl import LINES_FILE, JsonlLayout
from chimera.sessions.eventlog.layouts.names import event_file_number
from chimera.sessions.eventlog.layouts.packed import PACKED_FILE, PackedLayout
from chimera.sessions.eventlog.layouts.typed import TypedLayout

__all__ = ["LAYOUTS", "LINES_FILE", "PACKED_FILE", "Layout", "event_file_number", "layout_of_file"]


class Layout(Protocol):
    """How one layout names the file of an event."""

    @property
    def name(self) -> str: ...

    @property
    def one_file_an_event(self) -> bool: ...

    def file_name(self, number: int, event_type: str, event_id: str) -> str:
        """The file, relative to the session's folder, of the event with this file number."""


LAYOUTS: dict[str, Layout] = {
    layout.name: layout for layout in (TypedLayout(), IdsLayout(), JsonlLayout(), PackedLayout())
}


def layout_of_file(file: str, event_type: str) -> str:
    """The layout that a file was written in; ``event_type`` is that of the event in it."""
    if file in (LINES_FILE, PACKED_FILE):
        return "jsonl" if file == LINES_FILE else "packed"
    number = event_file_number(file)
    typed = LAYOUTS["typed"].file_name(number or 0, event_type, "")
    return "typed" if file.partition("-")[2].partition("-")[2] == typed.partition("-")[2].partition("-")[2] else "ids"

"""The event log of a session: one folder, plain files, one reader over every layout.

The documented names load their modules when they are asked for, so that who needs one does not load the others.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from chimera.sessions.eventlog.log import EventLog
    from chimera.sessions.eventlog.session import EventSourcedSession

__all__ = ["EventLog", "EventSourcedSession"]

_HOMES = {
    "EventLog": "chimera.sessions.eventlog.log",
    "EventSourcedSession": "chimera.sessions.eventlog.session",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)

"""Sessions: conversations with all their branches, and everything that keeps, reads or changes them.

The documented names load their modules when they are asked for, so that who needs one does not load the others.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from chimera.sessions.session import Session
    from chimera.sessions.tree import SessionTree

__all__ = ["Session", "SessionTree"]

_HOMES = {"Session": "chimera.sessions.session", "SessionTree": "chimera.sessions.tree"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)

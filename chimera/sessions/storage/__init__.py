"""Where sessions are kept as a whole, one after the other or side by side: in memory, in files, in SQLite.

The documented names load their modules when they are asked for, so that who needs one backend does not load the others.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from chimera.sessions.storage.base import SessionStorage, Storable, StoredSession
    from chimera.sessions.storage.file import FileSessionStorage
    from chimera.sessions.storage.memory import MemorySessionStorage
    from chimera.sessions.storage.sqlite import SQLiteSessionStorage

__all__ = [
    "FileSessionStorage",
    "MemorySessionStorage",
    "SQLiteSessionStorage",
    "SessionStorage",
    "Storable",
    "StoredSession",
]

_HOMES = {
    "FileSessionStorage": "chimera.sessions.storage.file",
    "MemorySessionStorage": "chimera.sessions.storage.memory",
    "SQLiteSessionStorage": "chimera.sessions.storage.sqlite",
    "SessionStorage": "chimera.sessions.storage.base",
    "Storable": "chimera.sessions.storage.base",
    "StoredSession": "chimera.sessions.storage.base",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)

"""What a stored session is, and what every backend promises about it. Knows no backend and opens no file."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Protocol

import msgspec

from chimera.sessions.messages import Message

__all__ = ["SessionStorage", "Storable", "StoredSession"]


class StoredSession(msgspec.Struct):
    """One session as it is saved and loaded.

    Attributes:
        session_id: one safe path component (:func:`chimera.identifiers.check_session_id`).
        system: the system prompt; None where there is none.
        parent_id: the session that this one was forked from; None for one that begins by itself.
        created_at: seconds since the epoch. A storage keeps the first one that was saved under an id.
        updated_at: seconds since the epoch; kept as it is given.
        metadata: what JSON can carry. ``branch`` (text) and ``cost_usd`` (dollars) are what SQLite finds sessions by.
        messages: oldest first.
    """

    session_id: str
    system: str | None = None
    parent_id: str | None = None
    created_at: float = 0.0
    updated_at: float = 0.0
    metadata: dict[str, Any] = {}
    messages: list[Message] = []


class Storable(Protocol):
    """Whatever can say what is to be stored of it."""

    def stored(self) -> StoredSession: ...


class SessionStorage(ABC):
    """Sessions by id. What is promised of every backend:

    - ``load`` gives what was saved last, equal in every field but ``created_at``, which stays the first one saved
      under that id until the session is deleted. Tuples inside ``metadata`` come back as lists, and text that UTF-8
      cannot carry (lone surrogates) as backslash escapes.
    - What is kept is a copy: changing a session after it was saved, or after it was loaded, changes nothing here.
    - Any number of threads may use one object; where a backend outlives its process, so may any number of processes.
      Whoever loads sees one save or another, never a part of one.
    - An id that :func:`chimera.identifiers.check_session_id` refuses raises ``InvalidId`` before anything is touched.
    """

    @abstractmethod
    def save(self, session: StoredSession | Storable) -> None:
        """Keep the session in the place of what was kept under its id.

        Raises:
            InvalidParams: it holds what JSON cannot carry, or a field of the wrong type.
            InvalidId, Locked, NoSpace, ReadOnly, StorageError: nothing was changed; the last one also where what
                is kept under the id is malformed, which is left as it is.
        """

    @abstractmethod
    def load(self, session_id: str) -> StoredSession | None:
        """The session, or None when none is kept under this id.

        Raises:
            InvalidId: this cannot be an id.
            StorageError: what is kept is malformed, or cannot be read.
        """

    @abstractmethod
    def list_sessions(self) -> list[str]:
        """The ids of all sessions kept, each once; a malformed one is among them, and :meth:`load` tells."""

    @abstractmethod
    def delete(self, session_id: str) -> None:
        """Forget the session, malformed or not; nothing happens when there is none."""

"""Sessions in this process alone, gone with it: for tests, and for programs that keep nothing. Opens no file."""

from __future__ import annotations

from threading import Lock

import msgspec

from chimera.identifiers import check_session_id
from chimera.sessions.storage.base import SessionStorage, Storable, StoredSession
from chimera.sessions.storage.form import SessionForm, encode_form, form_of, session_of

__all__ = ["MemorySessionStorage"]


class MemorySessionStorage(SessionStorage):
    """Sessions are kept as the bytes that other backends would write, so that nobody holds a part of them."""

    def __init__(self) -> None:
        self._bodies: dict[str, bytes] = {}
        self._lock = Lock()

    def save(self, session: StoredSession | Storable) -> None:
        form = form_of(session)
        with self._lock:
            kept = self._bodies.get(form.session_id)
            if kept is not None:
                form.created_at = _form_in(kept).created_at
            self._bodies[form.session_id] = encode_form(form)

    def load(self, session_id: str) -> StoredSession | None:
        body = self._bodies.get(check_session_id(session_id))
        return None if body is None else session_of(_form_in(body))

    def list_sessions(self) -> list[str]:
        """The ids, sorted."""
        with self._lock:
            return sorted(self._bodies)

    def delete(self, session_id: str) -> None:
        with self._lock:
            self._bodies.pop(check_session_id(session_id), None)


def _form_in(body: bytes) -> SessionForm:
    return msgspec.json.decode(body, type=SessionForm)

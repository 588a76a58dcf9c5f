"""The JSON of a stored session: written in the documented shape, read in every shape that the family has written.

    {"session_id", "system", "parent_id", "created_at", "updated_at", "metadata": {},
     "messages": [{"role", "content", "tool_calls": [{"id", "name", "arguments"}], "call_id"}]}

``event_id`` and ``synthetic`` stand beside a message's own keys where they are set. When reading, ``session_id`` and
each message's ``role`` and ``content`` must be there; everything else has a default, also where it is null, and keys
that are not known are left out. Opens no file and knows no backend.
"""

from __future__ import annotations

import math
from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from chimera.errors import InvalidParams, StorageError
from chimera.events.check import MAX_DEPTH
from chimera.identifiers import check_session_id
from chimera.sessions.messages import Message, ToolCall
from chimera.sessions.storage.base import Storable, StoredSession

__all__ = ["CallForm", "MessageForm", "SessionForm", "encode_form", "form_of", "read_form", "session_of"]


class CallForm(msgspec.Struct):
    id: str = ""
    name: str = ""
    arguments: dict[str, Any] | None = None


class MessageForm(msgspec.Struct):
    role: str
    content: str | None
    tool_calls: list[CallForm] | None = None
    call_id: str | None = None
    event_id: str | UnsetType = UNSET
    synthetic: bool | UnsetType = UNSET


class SessionForm(msgspec.Struct):
    session_id: str
    system: str | None = None
    parent_id: str | None = None
    created_at: float | None = None
    updated_at: float | None = None
    metadata: dict[str, Any] | None = None
    messages: list[MessageForm] | None = None


def form_of(session: StoredSession | Storable) -> SessionForm:
    """A copy of the session, as it will be read again.

    Raises:
        InvalidId: its id cannot be one.
        InvalidParams: it holds what JSON cannot carry, or a field of the wrong type.
    """
    stored = session if isinstance(session, StoredSession) else session.stored()
    check_session_id(stored.session_id)
    try:
        return msgspec.json.decode(msgspec.json.encode(_as_json(stored)), type=SessionForm)
    except (TypeError, ValueError, OverflowError, AttributeError) as error:
        raise InvalidParams(f"the session {stored.session_id!r} cannot be stored: {error}") from None


def encode_form(form: SessionForm) -> bytes:
    """The form as compact JSON."""
    return msgspec.json.encode(form)


def read_form(value: dict[str, Any] | None, place: str) -> SessionForm:
    """The form of a decoded JSON object; ``place`` says where it is kept. None for what was no JSON object.

    Raises:
        StorageError: it is no stored session.
    """
    why = "it is not one JSON object"
    if value is not None:
        try:
            return msgspec.convert(value, SessionForm)
        except (msgspec.ValidationError, RecursionError) as error:
            why = str(error)
    raise StorageError(f"{place} is no stored session and was left as it is ({why}); repair it or move it away")


def session_of(form: SessionForm) -> StoredSession:
    """The session that a form says."""
    return StoredSession(
        form.session_id,
        form.system,
        form.parent_id,
        form.created_at or 0.0,
        form.updated_at or 0.0,
        form.metadata or {},
        [_message_of(message) for message in form.messages or ()],
    )


def _message_of(form: MessageForm) -> Message:
    calls = tuple(ToolCall(call.id, call.name, call.arguments or {}) for call in form.tool_calls or ())
    return Message(form.role, form.content or "", calls, form.call_id, form.event_id or "", form.synthetic is True)


def _as_json(stored: StoredSession) -> SessionForm:
    return SessionForm(
        stored.session_id,
        _plain(stored.system),
        _plain(stored.parent_id),
        _plain(stored.created_at),
        _plain(stored.updated_at),
        _plain(stored.metadata),
        [_message_as_json(message) for message in stored.messages],
    )


def _message_as_json(message: Message) -> MessageForm:
    calls = [CallForm(_plain(call.id), _plain(call.name), _plain(call.arguments)) for call in message.tool_calls]
    return MessageForm(
        _plain(message.role),
        _plain(message.content),
        calls,
        _plain(message.call_id),
        _plain(message.event_id) or UNSET,
        message.synthetic or UNSET,
    )


def _plain(value: Any, level: int = 1) -> Any:
    """The value if JSON carries it as it is; an encoder alone would make null of NaN, and text of bytes."""
    if level > MAX_DEPTH:
        raise ValueError(f"it is nested more than {MAX_DEPTH} levels deep")
    if isinstance(value, str):
        return value if value.isascii() else value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"JSON cannot carry {value}; give a finite number or null")
    if value is None or isinstance(value, int | float):
        return value
    if isinstance(value, list | tuple):
        return [_plain(item, level + 1) for item in value]
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return {_plain(key): _plain(item, level + 1) for key, item in value.items()}
    raise ValueError(f"JSON cannot carry {value!r:.60} as it is; give text, numbers, lists or objects with text keys")

"""What methods answer, where the store has no structure of its own for it, or one with raw events in it.

These describe: the OpenRPC document shows them and tests decode real replies by them. The store's own structures,
raw events among them, are encoded straight into replies.
"""

from __future__ import annotations

from typing import Any, Literal

from msgspec import UNSET, Struct, UnsetType

from chimera.events import Event
from chimera.sessions.eventlog.cross_cli import SessionRecord
from chimerad.store.trash import TrashItem

__all__ = [
    "Deleted",
    "EventPage",
    "Finished",
    "Hello",
    "Ok",
    "Pinned",
    "SessionDetail",
    "SessionPage",
    "SessionRecord",
    "Status",
    "Stopping",
    "Subscribed",
    "Tags",
    "TrashItems",
]


class Hello(Struct, frozen=True):
    name: Literal["chimerad"]
    version: str
    protocol: int
    pid: int
    home: str


class JournalStatus(Struct, frozen=True):
    segments: int
    bytes: int
    unflushed_events: int


class IndexStatus(Struct, frozen=True):
    state: Literal["ready", "rebuilding"]
    sessions: int
    lag_events: int


class Status(Struct, frozen=True):
    pid: int
    version: str
    protocol: int
    started_at: str
    uptime_s: float
    home: str
    eventlog: str
    socket: str
    sessions: int
    open_sessions: int
    clients: int
    turns_running: int
    journal: JournalStatus
    index: IndexStatus


class Stopping(Struct, frozen=True):
    stopping: bool


class EventPage(Struct, frozen=True):
    events: list[Event]
    next_seq: int | None
    generation: str


class SessionDetail(Struct, frozen=True):
    session_id: str
    path: str
    summary: dict[str, Any]
    events: list[Event] | UnsetType = UNSET


class SessionPage(Struct, frozen=True):
    sessions: list[SessionRecord]
    next_cursor: str | None
    total: int


class Finished(Struct, frozen=True):
    summary: dict[str, Any]


class Tags(Struct, frozen=True):
    tags: list[str]


class Pinned(Struct, frozen=True):
    pinned: bool


class Deleted(Struct, frozen=True):
    trash_id: str


class Subscribed(Struct, frozen=True):
    subscription: str
    generation: str
    head_seq: int


class Ok(Struct, frozen=True):
    ok: bool


class TrashItems(Struct, frozen=True):
    items: list[TrashItem]

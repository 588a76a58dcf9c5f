"""What each method answers, spelt out for the OpenRPC document and for tests that decode real replies by it.

The store encodes its own structures (raw events among them) straight into replies; nothing here is on that way.
"""

from __future__ import annotations

from typing import Any, Literal

from msgspec import UNSET, Struct, UnsetType

from chimera.events import Event, Problem
from chimerad.store.trash import TrashItem

__all__ = [
    "Appended",
    "Created",
    "Deleted",
    "EventPage",
    "Finished",
    "Hello",
    "IndexRebuilt",
    "Ok",
    "Pinned",
    "Renamed",
    "Restored",
    "SessionDetail",
    "SessionPage",
    "SessionRecord",
    "Status",
    "Stopping",
    "Subscribed",
    "Tags",
    "TrashItems",
    "TrashPurged",
    "Verified",
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


class Created(Struct, frozen=True):
    session_id: str
    path: str
    generation: str


class Appended(Struct, frozen=True):
    first_seq: int
    last_seq: int
    ids: list[str]
    chain: str


class EventPage(Struct, frozen=True):
    events: list[Event]
    next_seq: int | None
    generation: str


class SessionDetail(Struct, frozen=True):
    session_id: str
    path: str
    summary: dict[str, Any]
    events: list[Event] | UnsetType = UNSET


class SessionRecord(Struct, frozen=True):
    session_id: str
    started_at: str
    ended_at: str
    model: str
    prompt: str
    title: str | None
    success: bool
    cost_usd: float
    steps: int
    tool_calls: int
    path: str
    error: Any
    cli_origin: str
    cwd: str
    tags: list[str]
    events: int
    cost_source: str
    state: Literal["running", "open", "finished", "recovered"]


class SessionPage(Struct, frozen=True):
    sessions: list[SessionRecord]
    next_cursor: str | None
    total: int


class Finished(Struct, frozen=True):
    summary: dict[str, Any]


class Renamed(Struct, frozen=True):
    session_id: str
    title: str | None
    path: str


class Tags(Struct, frozen=True):
    tags: list[str]


class Pinned(Struct, frozen=True):
    pinned: bool


class Deleted(Struct, frozen=True):
    trash_id: str


class Restored(Struct, frozen=True):
    session_id: str
    path: str


class Subscribed(Struct, frozen=True):
    subscription: str
    generation: str
    head_seq: int


class Ok(Struct, frozen=True):
    ok: bool


class Verified(Struct, frozen=True):
    sessions: int
    events: int
    problems: list[Problem]


class TrashItems(Struct, frozen=True):
    items: list[TrashItem]


class TrashPurged(Struct, frozen=True):
    purged: list[str]
    bytes: int


class IndexRebuilt(Struct, frozen=True):
    sessions: int
    events: int
    seconds: float

"""What methods answer, where the store has no structure of its own for it, or one with raw events in it.

These describe: the OpenRPC document shows them and tests decode real replies by them. The store's own structures,
raw events among them, are encoded straight into replies.
"""

from __future__ import annotations

from typing import Any, Literal

from msgspec import UNSET, Struct, UnsetType

from chimera.events import Event
from chimera.sessions.event_tree import Node
from chimera.sessions.eventlog.cross_cli import SessionRecord
from chimera.sessions.messages import Message
from chimerad.store.trash import TrashItem

__all__ = [
    "BranchMade",
    "CheckpointRestored",
    "CheckpointSaved",
    "Checkpoints",
    "Compacted",
    "ContextMessages",
    "Deleted",
    "EventPage",
    "Finished",
    "Hello",
    "Merged",
    "Ok",
    "Pinned",
    "SessionDetail",
    "SessionPage",
    "SessionRecord",
    "Status",
    "Stopping",
    "Subscribed",
    "Switched",
    "Tags",
    "TakenBack",
    "TrashItems",
    "TreeShown",
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


class TreeShown(Struct, frozen=True):
    nodes: list[Node]
    branches: dict[str, str | None]
    current: str
    leaf: str | None
    next_seq: int | None


class BranchMade(Struct, frozen=True):
    name: str
    leaf: str


class Merged(Struct, frozen=True):
    seq: int


class Switched(Struct, frozen=True):
    current: str
    leaf: str


class ContextMessages(Struct, frozen=True):
    messages: list[Message]
    tokens: int
    next_cursor: str | None


class Compacted(Struct, frozen=True):
    """``kept`` and ``dropped`` name messages by their events; without ``seq`` nothing was changed."""

    kept: list[str]
    dropped: list[str]
    tokens_before: int
    tokens_after: int
    summary: str
    seq: int | UnsetType = UNSET


class FileConflict(Struct, frozen=True):
    path: str
    reason: str


class FilesReport(Struct, frozen=True):
    restored: list[str]
    conflicts: list[FileConflict]


class TakenBack(Struct, frozen=True):
    undone: list[str]
    files: FilesReport


class CheckpointSaved(Struct, frozen=True):
    name: str
    seq: int


class Checkpoint(Struct, frozen=True):
    name: str
    seq: int
    event_id: str
    ts: str
    branch: str


class Checkpoints(Struct, frozen=True):
    checkpoints: list[Checkpoint]


class CheckpointRestored(Struct, frozen=True):
    files: FilesReport
    current: str

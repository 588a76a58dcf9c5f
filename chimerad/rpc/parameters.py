"""The typed parameters of every method: names, types, defaults and limits, as clients may rely on them.

Decoding one of these is the validation; the OpenRPC document describes the same definitions. Knows no method
table and does nothing.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, Struct, UnsetType, field

from chimera.sessions.eventlog.writer import NewEvent
from chimerad.store.subscriptions import Cursor

__all__ = [
    "AppendParams",
    "CheckpointListParams",
    "CheckpointRestoreParams",
    "CheckpointSaveParams",
    "CompactParams",
    "ContextMessagesParams",
    "CreateParams",
    "DeleteParams",
    "DiscoverParams",
    "FinishParams",
    "FinishedSummary",
    "ForkParams",
    "GetParams",
    "HelloParams",
    "ListParams",
    "PinParams",
    "ReadParams",
    "RebuildIndexParams",
    "RenameParams",
    "RestoreParams",
    "ShutdownParams",
    "StatusParams",
    "SubscribeParams",
    "TagParams",
    "TakeBackParams",
    "TrashListParams",
    "TrashPurgeParams",
    "TreeBranchParams",
    "TreeLabelParams",
    "TreeMergeParams",
    "TreeShowParams",
    "TreeSwitchParams",
    "UnsubscribeParams",
    "VerifyParams",
]

LARGEST_INTEGER = 2**63 - 1

FlavourName = Literal["mink", "otter", "ferret", "weasel", "shrew", "stoat", "badger"]
SessionId = Annotated[str, Meta(description="the name of the session's folder in the event log")]
SequenceNumber = Annotated[int, Meta(ge=0, le=LARGEST_INTEGER)]
Count = Annotated[int, Meta(ge=0, le=LARGEST_INTEGER)]


class HelloParams(Struct, frozen=True, forbid_unknown_fields=True):
    client: Annotated[str | None, Meta(description="who asks, for the daemon's log")] = None


class StatusParams(Struct, frozen=True, forbid_unknown_fields=True):
    pass


class ShutdownParams(Struct, frozen=True, forbid_unknown_fields=True):
    drain: Annotated[bool, Meta(description="let running turns finish; false interrupts them")] = True


class DiscoverParams(Struct, frozen=True, forbid_unknown_fields=True):
    pass


class CreateParams(Struct, frozen=True, forbid_unknown_fields=True):
    flavour: Annotated[FlavourName, Meta(description="which of the seven it belongs to")] = "mink"
    session_id: Annotated[str | None, Meta(description="its name; none: made from flavour, time and chance")] = None
    prompt: Annotated[str | None, Meta(description="what the user asked first")] = None
    title: Annotated[str | None, Meta(description="what lists show beside it")] = None
    model: Annotated[str | None, Meta(description="the model it talks to")] = None
    cwd: Annotated[str | None, Meta(description="the folder it works in")] = None
    layout: Annotated[
        Literal["typed", "ids", "jsonl"] | None, Meta(description="how its files lie; none: as its flavour has it")
    ] = None
    tags: Annotated[list[str] | None, Meta(description="words to find it by")] = None


class AppendParams(Struct, frozen=True, forbid_unknown_fields=True, gc=False):
    session_id: SessionId
    events: Annotated[list[NewEvent], Meta(description="all of them are appended, or none", min_length=1)]
    expect_seq: Annotated[SequenceNumber | None, Meta(description="the head the caller saw; 0: an empty log")] = None
    durability: Annotated[
        Literal["durable", "buffered"],
        Meta(description="durable: answered when on the disk; buffered: survives kill -9, not a power cut"),
    ] = "durable"


class ReadParams(Struct, frozen=True, forbid_unknown_fields=True):
    session_id: SessionId
    from_seq: Annotated[int, Meta(description="the first event wanted", ge=1, le=LARGEST_INTEGER)] = 1
    limit: Annotated[int, Meta(description="at most so many; a page ends at 8 MiB in any case", ge=1, le=100_000)] = (
        1000
    )


class GetParams(Struct, frozen=True, forbid_unknown_fields=True):
    session_id: SessionId
    events: Annotated[bool, Meta(description="with its events; too_large when they do not fit in one reply")] = False


class ListParams(Struct, frozen=True, forbid_unknown_fields=True):
    flavour: Annotated[FlavourName | None, Meta(description="of this flavour alone; none: all")] = None
    since: Annotated[str | None, Meta(description="started then or later: 7d, 24h, 30m, 45s, 2w or ISO-8601")] = None
    model: Annotated[str | None, Meta(description="of exactly this model")] = None
    cwd: Annotated[str | None, Meta(description="that worked in this folder")] = None
    tag: Annotated[str | None, Meta(description="that carry this tag")] = None
    success: Annotated[bool | None, Meta(description="that ended well (true) or not (false)")] = None
    pinned: Annotated[bool | None, Meta(description="that are pinned (true) or not (false)")] = None
    limit: Annotated[Count, Meta(description="at most so many; 0: all, in pages")] = 20
    cursor: Annotated[str | None, Meta(description="next_cursor of the page before")] = None


class FinishedSummary(Struct, frozen=True, forbid_unknown_fields=True):
    """How a session ended; what is left out keeps its value, or is counted from the log."""

    success: bool
    steps: Count | UnsetType = UNSET
    tool_calls_total: Count | UnsetType = UNSET
    cost_usd: Annotated[float, Meta(ge=0)] | UnsetType = UNSET
    cost_source: Literal["provider", "computed", "unpriced"] | UnsetType = UNSET
    input_tokens: Count | UnsetType = UNSET
    output_tokens: Count | UnsetType = UNSET
    cache_tokens: Count | UnsetType = UNSET
    total_tokens: Count | UnsetType = UNSET
    error: Any = UNSET
    model: str | UnsetType = UNSET


class FinishParams(Struct, frozen=True, forbid_unknown_fields=True):
    session_id: SessionId
    summary: FinishedSummary


class RenameParams(Struct, frozen=True, forbid_unknown_fields=True):
    session_id: SessionId
    title: Annotated[str, Meta(description='the new title; "" clears it')]


class TagParams(Struct, frozen=True, forbid_unknown_fields=True):
    session_id: SessionId
    add: list[str] = []
    remove: list[str] = []


class PinParams(Struct, frozen=True, forbid_unknown_fields=True):
    session_id: SessionId
    pinned: bool = True


class DeleteParams(Struct, frozen=True, forbid_unknown_fields=True):
    session_id: SessionId


class RestoreParams(Struct, frozen=True, forbid_unknown_fields=True):
    trash_id: Annotated[str, Meta(description="as sessions.delete or trash.list gave it")]


class SubscribeParams(Struct, frozen=True, forbid_unknown_fields=True):
    session_id: Annotated[str, Meta(description='the session; "*": every session, live only')]
    since: Annotated[Cursor | None, Meta(description="replay what came after it first; none: live only")] = None
    deltas: Annotated[bool, Meta(description="streamed text piece by piece as well")] = False


class UnsubscribeParams(Struct, frozen=True, forbid_unknown_fields=True):
    subscription: str


class VerifyParams(Struct, frozen=True, forbid_unknown_fields=True):
    session_id: Annotated[str | None, Meta(description="the session; none: every one")] = None


class TrashListParams(Struct, frozen=True, forbid_unknown_fields=True):
    pass


class TrashPurgeParams(Struct, frozen=True, forbid_unknown_fields=True):
    older_than: Annotated[str | None, Meta(description="deleted before that: 30d, 24h, 2w or ISO-8601")] = None
    trash_id: Annotated[str | None, Meta(description="this one alone")] = None


class RebuildIndexParams(Struct, frozen=True, forbid_unknown_fields=True):
    pass


class TreeShowParams(Struct, frozen=True, forbid_unknown_fields=True):
    session_id: SessionId
    from_seq: Annotated[
        int, Meta(description="the first event wanted; a page ends at 8 MiB", ge=1, le=LARGEST_INTEGER)
    ] = 1


class TreeBranchParams(Struct, frozen=True, forbid_unknown_fields=True):
    session_id: SessionId
    name: Annotated[str, Meta(description="what the branch is called")]
    at: Annotated[str | None, Meta(description="the event it begins at; none: the leaf")] = None
    summarise: Annotated[bool, Meta(description="keep a summary of the branch that is left")] = False


class TreeMergeParams(Struct, frozen=True, forbid_unknown_fields=True):
    session_id: SessionId
    source: Annotated[str, Meta(description="the branch, or its leaf, that is brought into this one")] = field(
        name="from"
    )
    events: Annotated[
        list[str] | None, Meta(description="the events whose messages are taken over; none: its summary")
    ] = None


class TreeSwitchParams(Struct, frozen=True, forbid_unknown_fields=True):
    session_id: SessionId
    to: Annotated[str, Meta(description="the name of a branch, or the id of an event")]
    summarise: Annotated[bool, Meta(description="keep a summary of the branch that is left")] = False


class TreeLabelParams(Struct, frozen=True, forbid_unknown_fields=True):
    session_id: SessionId
    event_id: str
    label: Annotated[str, Meta(description='a name for the event; "" takes it away')]


class ContextMessagesParams(Struct, frozen=True, forbid_unknown_fields=True):
    session_id: SessionId
    leaf: Annotated[str | None, Meta(description="the event at the end of the path; none: where the session is")] = None
    cursor: Annotated[str | None, Meta(description="next_cursor of the page before")] = None


class CompactParams(Struct, frozen=True, forbid_unknown_fields=True):
    session_id: SessionId
    dry_run: Annotated[bool, Meta(description="show what would go, change nothing")] = False
    instructions: Annotated[str | None, Meta(description="what the summary should dwell on")] = None


class TakeBackParams(Struct, frozen=True, forbid_unknown_fields=True):
    session_id: SessionId
    count: Annotated[int, Meta(description="how many steps", ge=1, le=1000)] = 1
    files: Annotated[bool, Meta(description="what the session's tools wrote, too")] = True
    dry_run: Annotated[bool, Meta(description="show what would happen, change nothing")] = False
    force: Annotated[bool, Meta(description="overwrite files that others changed; what they held is kept")] = False


class CheckpointSaveParams(Struct, frozen=True, forbid_unknown_fields=True):
    session_id: SessionId
    name: Annotated[str, Meta(description="what the point is called; used again, it names the new point")]


class CheckpointListParams(Struct, frozen=True, forbid_unknown_fields=True):
    session_id: SessionId


class CheckpointRestoreParams(Struct, frozen=True, forbid_unknown_fields=True):
    session_id: SessionId
    name: str
    conversation: Annotated[bool, Meta(description="go back to its messages")] = True
    files: Annotated[bool, Meta(description="what the session's tools wrote since, too")] = True
    dry_run: Annotated[bool, Meta(description="show what would happen, change nothing")] = False
    force: Annotated[bool, Meta(description="overwrite files that others changed; what they held is kept")] = False


class ForkParams(Struct, frozen=True, forbid_unknown_fields=True):
    session_id: SessionId
    at: Annotated[str | int | None, Meta(description="the event to go on from, by id or seq; none: the leaf")] = None
    title: Annotated[str | None, Meta(description="what lists show beside it")] = None
    flavour: Annotated[FlavourName | None, Meta(description="which of the seven it belongs to; none: as before")] = None

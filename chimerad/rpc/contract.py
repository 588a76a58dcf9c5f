"""The methods of the daemon as one table: parameters, result, group, errors, and one sentence each.

Validation, dispatch, ``rpc.discover`` and ``docs/rpc.md`` all read it. Holds no behaviour: what a method does is in
``chimerad.rpc.methods``.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

import msgspec

from chimera import errors
from chimera.errors import ChimeraError
from chimerad.rpc import parameters, results
from chimerad.store.batches import AppendOutcome
from chimerad.store.changes import Created, Forked, Purged, Renamed, Restored
from chimerad.store.index.service import Rebuilt
from chimerad.store.readers import Verified

__all__ = ["METHODS", "Method"]


class Method:
    """One row of the contract.

    Attributes:
        name: as it stands in a call's ``method``.
        group: the heading that it is described under.
        parameters: the frozen structure that its ``params`` decode to.
        result: the type of what it answers.
        summary: what it does, in one sentence.
        errors: what it may answer instead, beside the errors of every call.
    """

    def __init__(
        self,
        name: str,
        group: str,
        parameters: type[msgspec.Struct],
        result: Any,
        summary: str,
        errors: tuple[type[ChimeraError], ...] = (),
    ) -> None:
        self.name = name
        self.group = group
        self.parameters = parameters
        self.result = result
        self.summary = summary
        self.errors = errors

    @cached_property
    def decoder(self) -> msgspec.json.Decoder[Any]:
        """Decodes and validates ``params``; made at the first call, so that the daemon starts sooner."""
        return msgspec.json.Decoder(self.parameters)


_DISK = (errors.ReadOnly, errors.NoSpace, errors.StorageError)
_ONE_SESSION = (errors.InvalidId, errors.SessionNotFound)
_CHANGE = (*_ONE_SESSION, errors.Locked, *_DISK)
_SUMMARY = (errors.NoSummary, errors.MalformedSummary)
_READ = (*_ONE_SESSION, errors.LogGapError)
_MOVE = (*_CHANGE, errors.LogGapError, errors.SeqConflict, errors.EventTooLarge, errors.TurnRunning)

METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        Method(
            "daemon.hello",
            "daemon",
            parameters.HelloParams,
            results.Hello,
            "Say who answers: its version, its protocol and its home.",
        ),
        Method(
            "daemon.status",
            "daemon",
            parameters.StatusParams,
            results.Status,
            "How the daemon is: sessions, clients, journal and index.",
        ),
        Method(
            "daemon.shutdown",
            "daemon",
            parameters.ShutdownParams,
            results.Stopping,
            "Answer, flush and end.",
        ),
        Method(
            "rpc.discover",
            "daemon",
            parameters.DiscoverParams,
            dict[str, Any],
            "This contract as an OpenRPC document.",
        ),
        Method(
            "sessions.create",
            "sessions",
            parameters.CreateParams,
            Created,
            "Begin a session; asked again for one that is still empty, it answers the same.",
            (errors.InvalidId, errors.SessionExists, errors.Locked, *_DISK),
        ),
        Method(
            "sessions.append",
            "sessions",
            parameters.AppendParams,
            AppendOutcome,
            "Add events to a session, all or none; answered when they are durable.",
            (
                *_CHANGE,
                errors.SeqConflict,
                errors.IdConflict,
                errors.EventTooLarge,
                errors.TooLarge,
                errors.LogGapError,
                errors.TurnRunning,
            ),
        ),
        Method(
            "sessions.read",
            "sessions",
            parameters.ReadParams,
            results.EventPage,
            "A page of events from a number on; next_seq is null on the last page.",
            _ONE_SESSION,
        ),
        Method(
            "sessions.get",
            "sessions",
            parameters.GetParams,
            results.SessionDetail,
            "A session's summary, with its events when asked.",
            (*_ONE_SESSION, *_SUMMARY, errors.TooLarge),
        ),
        Method(
            "sessions.list",
            "sessions",
            parameters.ListParams,
            results.SessionPage,
            "Sessions, newest first by their start, whatever the flavour.",
        ),
        Method(
            "sessions.finish",
            "sessions",
            parameters.FinishParams,
            results.Finished,
            "Close a session with what came of it.",
            (*_CHANGE, *_SUMMARY),
        ),
        Method(
            "sessions.rename",
            "sessions",
            parameters.RenameParams,
            Renamed,
            "Give a session a title, or take it away.",
            (*_CHANGE, *_SUMMARY),
        ),
        Method(
            "sessions.tag",
            "sessions",
            parameters.TagParams,
            results.Tags,
            "Add tags to a session and remove others.",
            (*_CHANGE, *_SUMMARY),
        ),
        Method(
            "sessions.pin",
            "sessions",
            parameters.PinParams,
            results.Pinned,
            "Pin a session, so that garbage collection never takes it, or unpin it.",
            (*_CHANGE, *_SUMMARY),
        ),
        Method(
            "sessions.delete",
            "sessions",
            parameters.DeleteParams,
            results.Deleted,
            "Move a session to the trash; sessions.restore brings it back.",
            (*_CHANGE, errors.TurnRunning),
        ),
        Method(
            "sessions.restore",
            "sessions",
            parameters.RestoreParams,
            Restored,
            "Bring a session back from the trash.",
            (errors.InvalidId, errors.SessionNotFound, errors.SessionExists, *_DISK),
        ),
        Method(
            "sessions.fork",
            "sessions",
            parameters.ForkParams,
            Forked,
            "Begin a session that goes on from an event of this one; it refers to its parent and copies nothing.",
            (*_CHANGE, errors.LogGapError),
        ),
        Method(
            "sessions.subscribe",
            "sessions",
            parameters.SubscribeParams,
            results.Subscribed,
            "Replay what came after a cursor, then send every new event as session.event, nothing missing or twice.",
            _ONE_SESSION,
        ),
        Method(
            "sessions.unsubscribe",
            "sessions",
            parameters.UnsubscribeParams,
            results.Ok,
            "End a subscription of this connection.",
        ),
        Method(
            "sessions.verify",
            "sessions",
            parameters.VerifyParams,
            Verified,
            "Check chains and numbers; every flipped bit, lost or reordered event is a problem.",
            _ONE_SESSION,
        ),
        Method(
            "tree.show",
            "tree",
            parameters.TreeShowParams,
            results.TreeShown,
            "The events of a session as a tree, its branches, and where it stands; next_seq is null on the last page.",
            _READ,
        ),
        Method(
            "tree.branch",
            "tree",
            parameters.TreeBranchParams,
            results.BranchMade,
            "Begin a branch at an event and go there; nothing is copied.",
            _MOVE,
        ),
        Method(
            "tree.merge",
            "tree",
            parameters.TreeMergeParams,
            results.Merged,
            "Bring another branch's summary, or chosen messages of it, into this one.",
            _MOVE,
        ),
        Method(
            "tree.switch",
            "tree",
            parameters.TreeSwitchParams,
            results.Switched,
            "Go to the end of a branch or to an event; it stays so until the next move.",
            _MOVE,
        ),
        Method(
            "tree.label",
            "tree",
            parameters.TreeLabelParams,
            results.Ok,
            "Give an event a name, or take it away.",
            _MOVE,
        ),
        Method(
            "context.messages",
            "context",
            parameters.ContextMessagesParams,
            results.ContextMessages,
            "What the model sees; next_cursor is null on the last page.",
            _READ,
        ),
        Method(
            "context.compact",
            "context",
            parameters.CompactParams,
            results.Compacted,
            "Shorten the context by one event that undo takes back.",
            (*_MOVE, errors.CompactionFailed),
        ),
        Method(
            "context.undo",
            "context",
            parameters.TakeBackParams,
            results.TakenBack,
            "Take back the newest turn, compaction, switch or restored checkpoint, with what its tools wrote.",
            _MOVE,
        ),
        Method(
            "context.redo",
            "context",
            parameters.TakeBackParams,
            results.TakenBack,
            "Do again what undo has taken back, until something new is done.",
            _MOVE,
        ),
        Method(
            "checkpoints.save",
            "checkpoints",
            parameters.CheckpointSaveParams,
            results.CheckpointSaved,
            "Name the point where the session stands.",
            _MOVE,
        ),
        Method(
            "checkpoints.list",
            "checkpoints",
            parameters.CheckpointListParams,
            results.Checkpoints,
            "The named points of a session.",
            _READ,
        ),
        Method(
            "checkpoints.restore",
            "checkpoints",
            parameters.CheckpointRestoreParams,
            results.CheckpointRestored,
            "Go back to a named point: its conversation, its files, or both.",
            _MOVE,
        ),
        Method(
            "trash.list",
            "trash",
            parameters.TrashListParams,
            results.TrashItems,
            "What was deleted and can be restored.",
        ),
        Method(
            "trash.purge",
            "trash",
            parameters.TrashPurgeParams,
            Purged,
            "Erase from the trash for good: one item, or what was deleted before a time; everything when neither.",
            (errors.InvalidId, errors.SessionNotFound, *_DISK),
        ),
        Method(
            "index.rebuild",
            "index",
            parameters.RebuildIndexParams,
            Rebuilt,
            "Build the index anew from the files.",
            _DISK,
        ),
    )
}

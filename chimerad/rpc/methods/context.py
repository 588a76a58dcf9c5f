"""``context.*``: what the model sees of a session, shortened, taken back and done again."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import msgspec

from chimera.compaction import CompactionPlan, FileAwareCompaction, estimate_tokens
from chimera.errors import InvalidParams
from chimera.events.event import Event
from chimera.sessions import past
from chimera.sessions.context import context_of
from chimera.sessions.history import History
from chimera.sessions.messages import Message
from chimerad.rpc import parameters, results
from chimerad.rpc.context import CallContext, Handler

__all__ = ["HANDLERS", "files_report"]

PAGE_BYTES = 8 * 1024 * 1024

_encode = msgspec.json.Encoder().encode


async def messages(context: CallContext, asked: parameters.ContextMessagesParams) -> results.ContextMessages:
    start = _place_of(asked.cursor)

    def look(history: History) -> results.ContextMessages:
        found = context_of(history.tree.path(asked.leaf))
        page = _page(found[start:])
        more = start + len(page) < len(found)
        return results.ContextMessages(page, estimate_tokens(found), str(start + len(page)) if more else None)

    return await context.daemon.store.trees.look(asked.session_id, look)


async def compact(context: CallContext, asked: parameters.CompactParams) -> results.Compacted:
    """With the deterministic extract: a model is where the session's turns run."""

    def shorten(history: History) -> results.Compacted:
        work = past.compact(history, FileAwareCompaction(), instructions=asked.instructions, dry_run=asked.dry_run)
        plan, event = asyncio.run(work)
        return _compacted(history, plan, event)

    return await context.daemon.store.trees.work(asked.session_id, shorten)


async def undo(context: CallContext, asked: parameters.TakeBackParams) -> results.TakenBack:
    return await _take_back(context, asked, past.undo)


async def redo(context: CallContext, asked: parameters.TakeBackParams) -> results.TakenBack:
    return await _take_back(context, asked, past.redo)


def files_report(taken: past.Taken) -> results.FilesReport:
    conflicts = [results.FileConflict(conflict.path, conflict.reason) for conflict in taken.conflicts]
    return results.FilesReport(taken.restored, conflicts)


async def _take_back(
    context: CallContext, asked: parameters.TakeBackParams, travel: Callable[..., past.Taken]
) -> results.TakenBack:
    trees = context.daemon.store.trees

    def go(history: History) -> results.TakenBack:
        taken = travel(
            history,
            trees.blobs_of(asked.session_id),
            count=asked.count,
            files=asked.files,
            dry_run=asked.dry_run,
            force=asked.force,
        )
        return results.TakenBack(taken.undone, files_report(taken))

    return await trees.work(asked.session_id, go)


def _compacted(history: History, plan: CompactionPlan | None, event: Event | None) -> results.Compacted:
    """Messages by the events they begin with; a summary that is dropped by its own."""
    if plan is None:
        there = history.state.messages
        tokens = estimate_tokens(there)
        return results.Compacted(_ids_of(there), [], tokens, tokens, "")
    return results.Compacted(
        kept=_ids_of(plan.kept),
        dropped=_ids_of(plan.dropped),
        tokens_before=plan.tokens_before,
        tokens_after=plan.tokens_after,
        summary=plan.summary,
        seq=msgspec.UNSET if event is None else event.seq,
    )


def _ids_of(found: list[Message]) -> list[str]:
    return [message.event_id for message in found if message.event_id]


def _page(found: list[Message]) -> list[Message]:
    """As many as fit; at least one."""
    size = 0
    for number, message in enumerate(found):
        size += len(_encode(message)) + 1
        if size > PAGE_BYTES and number:
            return found[:number]
    return found


def _place_of(cursor: str | None) -> int:
    if cursor is None:
        return 0
    if not (cursor.isascii() and cursor.isdigit()) or len(cursor) > 18:
        raise InvalidParams(f"the cursor {cursor[:40]!r} is none of context.messages; give next_cursor of a page")
    return int(cursor)


HANDLERS: dict[str, Handler] = {
    "context.messages": messages,
    "context.compact": compact,
    "context.undo": undo,
    "context.redo": redo,
}

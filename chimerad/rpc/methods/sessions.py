"""``sessions.*``: each a few lines between the contract and the store."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from msgspec import UNSET

from chimera.errors import InvalidParams
from chimera.sessions.since import since_microseconds
from chimerad.rpc import parameters
from chimerad.rpc.context import CallContext, Handler
from chimerad.store.batches import AppendCall, AppendOutcome, OneAnswer
from chimerad.store.index.queries import ListQuery

if TYPE_CHECKING:
    from chimera.events.event import Event
    from chimera.sessions.history import History

__all__ = ["HANDLERS"]


async def create(context: CallContext, asked: parameters.CreateParams) -> object:
    return await context.daemon.store.create(
        flavour=asked.flavour,
        session_id=asked.session_id,
        prompt=asked.prompt or "",
        title=asked.title,
        model=asked.model or "",
        cwd=asked.cwd or "",
        layout=asked.layout,
        tags=asked.tags or [],
    )


async def append(context: CallContext, asked: parameters.AppendParams) -> asyncio.Future[AppendOutcome]:
    """The future of the answer: its place in the store's order is taken before it is there, so appends overlap."""
    one = OneAnswer()
    durable = asked.durability == "durable"
    context.daemon.store.append([AppendCall(asked.session_id, asked.events, asked.expect_seq, durable, one)])
    return one.future


async def read(context: CallContext, asked: parameters.ReadParams) -> object:
    return await context.daemon.store.read(asked.session_id, asked.from_seq, asked.limit)


async def get(context: CallContext, asked: parameters.GetParams) -> object:
    return await context.daemon.store.get(asked.session_id, asked.events)


async def list_sessions(context: CallContext, asked: parameters.ListParams) -> object:
    query = ListQuery(
        flavour=asked.flavour,
        since_us=None if asked.since is None else _started_after(asked.since),
        model=asked.model,
        cwd=asked.cwd,
        tag=asked.tag,
        success=asked.success,
        pinned=asked.pinned,
        limit=asked.limit,
        cursor=asked.cursor,
    )
    return await context.daemon.store.list_sessions(query)


async def finish(context: CallContext, asked: parameters.FinishParams) -> dict[str, object]:
    given = {
        name: value for name in asked.summary.__struct_fields__ if (value := getattr(asked.summary, name)) is not UNSET
    }
    return {"summary": await context.daemon.store.finish(asked.session_id, given)}


async def rename(context: CallContext, asked: parameters.RenameParams) -> object:
    return await context.daemon.store.rename(asked.session_id, asked.title)


async def tag(context: CallContext, asked: parameters.TagParams) -> dict[str, object]:
    return {"tags": await context.daemon.store.tag(asked.session_id, asked.add, asked.remove)}


async def pin(context: CallContext, asked: parameters.PinParams) -> dict[str, object]:
    return {"pinned": await context.daemon.store.pin(asked.session_id, asked.pinned)}


async def delete(context: CallContext, asked: parameters.DeleteParams) -> dict[str, object]:
    return {"trash_id": await context.daemon.store.delete(asked.session_id)}


async def restore(context: CallContext, asked: parameters.RestoreParams) -> object:
    return await context.daemon.store.restore(asked.trash_id)


async def fork(context: CallContext, asked: parameters.ForkParams) -> object:
    def find(history: History) -> list[Event]:
        return history.tree.path(_event_at(history, asked.at))

    path = await context.daemon.store.trees.look(asked.session_id, find)
    if not path:
        raise InvalidParams("the session has no events yet; there is nothing to go on from")
    return await context.daemon.store.fork(asked.session_id, path, asked.title, asked.flavour)


async def subscribe(context: CallContext, asked: parameters.SubscribeParams) -> dict[str, object]:
    made = await context.daemon.store.subscribe(asked.session_id, asked.since, context.sink)
    context.after_reply.append(made.start)
    return {"subscription": made.subscription, "generation": made.generation, "head_seq": made.head_seq}


async def unsubscribe(context: CallContext, asked: parameters.UnsubscribeParams) -> dict[str, object]:
    return {"ok": context.daemon.store.unsubscribe(asked.subscription, context.sink)}


async def verify(context: CallContext, asked: parameters.VerifyParams) -> object:
    return await context.daemon.store.verify(asked.session_id)


def _event_at(history: History, at: str | int | None) -> str | None:
    """The id of an event given by id or by its number in the session; None for the leaf."""
    if not isinstance(at, int):
        return at
    for event in reversed(history.events):
        if event.seq == at:
            return event.id
    raise InvalidParams(f"the session has no event {at}; give the seq or the id of one that is there")


def _started_after(since: str) -> int:
    try:
        return since_microseconds(since)
    except ValueError:
        raise InvalidParams(
            f"the parameter `since` of sessions.list: {since[:80]!r} is neither a time span such as 7d, 24h, 30m, 45s, "
            "2w nor an ISO-8601 time"
        ) from None


HANDLERS: dict[str, Handler] = {
    "sessions.create": create,
    "sessions.append": append,
    "sessions.read": read,
    "sessions.get": get,
    "sessions.list": list_sessions,
    "sessions.finish": finish,
    "sessions.rename": rename,
    "sessions.tag": tag,
    "sessions.pin": pin,
    "sessions.delete": delete,
    "sessions.restore": restore,
    "sessions.fork": fork,
    "sessions.subscribe": subscribe,
    "sessions.unsubscribe": unsubscribe,
    "sessions.verify": verify,
}

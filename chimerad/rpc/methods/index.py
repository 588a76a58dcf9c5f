"""``index.*``: the cache of the files."""

from __future__ import annotations

from chimerad.rpc import parameters
from chimerad.rpc.context import CallContext, Handler

__all__ = ["HANDLERS"]


async def rebuild(context: CallContext, asked: parameters.RebuildIndexParams) -> object:  # noqa: ARG001
    return await context.daemon.store.rebuild_index()


HANDLERS: dict[str, Handler] = {"index.rebuild": rebuild}

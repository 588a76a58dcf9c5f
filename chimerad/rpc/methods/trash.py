"""``trash.*``: what was deleted, and erasing it for good."""

from __future__ import annotations

import time

from chimera.errors import InvalidParams
from chimera.sessions.since import since_microseconds
from chimerad.rpc import parameters
from chimerad.rpc.context import CallContext, Handler

__all__ = ["HANDLERS"]


async def list_items(context: CallContext, asked: parameters.TrashListParams) -> dict[str, object]:  # noqa: ARG001
    return {"items": await context.daemon.store.trash_list()}


async def purge(context: CallContext, asked: parameters.TrashPurgeParams) -> object:
    age = None if asked.older_than is None else _age_seconds(asked.older_than)
    return await context.daemon.store.trash_purge(age, asked.trash_id)


def _age_seconds(older_than: str) -> float:
    now = time.time()
    try:
        return now - since_microseconds(older_than, now) / 1_000_000
    except ValueError:
        raise InvalidParams(
            f"the parameter `older_than` of trash.purge: {older_than[:80]!r} is neither an age such as 30d, 24h, 2w "
            "nor an ISO-8601 time"
        ) from None


HANDLERS: dict[str, Handler] = {"trash.list": list_items, "trash.purge": purge}

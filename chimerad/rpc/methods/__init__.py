"""What each method of the contract does: one module a group, one function a method, one table of them all."""

from __future__ import annotations

from chimerad.rpc.context import Handler
from chimerad.rpc.methods import daemon, index, sessions, trash

__all__ = ["HANDLERS"]

HANDLERS: dict[str, Handler] = {**daemon.HANDLERS, **sessions.HANDLERS, **trash.HANDLERS, **index.HANDLERS}

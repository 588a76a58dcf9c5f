"""What each method of the contract does: one module a group, one function a method, one table of them all.

The groups that change where a session stands are loaded with their first call: a daemon starts sooner without them.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from chimerad.rpc.context import CallContext, Handler
from chimerad.rpc.methods import daemon, index, sessions, trash

__all__ = ["HANDLERS"]


def _loaded_when_called(group: str, *names: str) -> dict[str, Handler]:
    """The methods of a group whose module is imported by the first of them that is called."""

    def handler_of(method: str) -> Handler:
        async def handler(context: CallContext, asked: Any) -> object:
            found: Handler = import_module(f"chimerad.rpc.methods.{group}").HANDLERS[method]
            return await found(context, asked)

        return handler

    return {f"{group}.{name}": handler_of(f"{group}.{name}") for name in names}


HANDLERS: dict[str, Handler] = {
    **daemon.HANDLERS,
    **sessions.HANDLERS,
    **_loaded_when_called("tree", "show", "branch", "merge", "switch", "label"),
    **_loaded_when_called("context", "messages", "compact", "undo", "redo"),
    **_loaded_when_called("checkpoints", "save", "list", "restore"),
    **trash.HANDLERS,
    **index.HANDLERS,
}

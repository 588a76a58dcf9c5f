"""What a method may use while it answers one call: the store, facts of the daemon, and who asks."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from chimerad.store.store import Store
from chimerad.store.subscriptions import Sink

__all__ = ["CallContext", "Daemon", "Handler", "ServiceInfo"]


class ServiceInfo(msgspec.Struct, frozen=True):
    """Facts of the running daemon that its replies carry. ``started_at`` is the wall clock's word for ``started``."""

    home: str
    socket: str
    version: str
    started_at: str
    started: float = msgspec.field(default_factory=time.monotonic)


class Daemon(msgspec.Struct, frozen=True):
    """What the calls of all connections share."""

    store: Store
    service: ServiceInfo
    request_shutdown: Callable[[], None]
    count_clients: Callable[[], int]


class CallContext(msgspec.Struct):
    """One line of one connection: a call, or a batch of calls.

    Attributes:
        sink: the connection that asks, as the store's subscriptions know it.
        after_reply: run in order when the reply is on its way, for a reply precedes the notifications it causes.
    """

    daemon: Daemon
    sink: Sink
    after_reply: list[Callable[[], None]] = []


Handler = Callable[[CallContext, Any], Awaitable[object]]
"""A method: the context and its own parameters; answers what encodes to the contract's JSON, or raises ChimeraError."""

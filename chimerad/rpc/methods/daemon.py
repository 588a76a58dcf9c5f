"""``daemon.*`` and ``rpc.discover``: who answers, how it is, and what it can be asked."""

from __future__ import annotations

import os
import time

from chimera.paths import eventlog_root
from chimerad.rpc import parameters, results
from chimerad.rpc.context import CallContext, Handler
from chimerad.rpc.openrpc import document
from chimerad.rpc.replies import PROTOCOL

__all__ = ["HANDLERS"]


async def hello(context: CallContext, asked: parameters.HelloParams) -> results.Hello:  # noqa: ARG001
    service = context.daemon.service
    return results.Hello("chimerad", service.version, PROTOCOL, os.getpid(), service.home)


async def status(context: CallContext, asked: parameters.StatusParams) -> dict[str, object]:  # noqa: ARG001
    service, store = context.daemon.service, await context.daemon.store.status()
    return {
        "pid": os.getpid(),
        "version": service.version,
        "protocol": PROTOCOL,
        "started_at": service.started_at,
        "uptime_s": round(time.monotonic() - service.started, 3),
        "home": service.home,
        "eventlog": eventlog_root(service.home),
        "socket": service.socket,
        "sessions": store.sessions,
        "open_sessions": store.open_sessions,
        "clients": context.daemon.count_clients(),
        "turns_running": 0,
        "journal": store.journal,
        "index": store.index,
    }


async def shutdown(context: CallContext, asked: parameters.ShutdownParams) -> results.Stopping:  # noqa: ARG001
    context.after_reply.append(context.daemon.request_shutdown)
    return results.Stopping(True)


async def discover(context: CallContext, asked: parameters.DiscoverParams) -> dict[str, object]:  # noqa: ARG001
    return document(context.daemon.service.version)


HANDLERS: dict[str, Handler] = {
    "daemon.hello": hello,
    "daemon.status": status,
    "daemon.shutdown": shutdown,
    "rpc.discover": discover,
}

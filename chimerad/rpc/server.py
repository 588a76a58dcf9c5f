"""The RPC side of the daemon as one component: started on a socket path, stopped with every answer given."""

from __future__ import annotations

import asyncio
import logging
import resource
import socket
from collections.abc import Callable

from chimera.errors import ChimeraError, NotPermitted, Overloaded
from chimerad.rpc.connection import Connection, Load
from chimerad.rpc.context import Daemon, ServiceInfo
from chimerad.rpc.dispatch import Dispatcher
from chimerad.rpc.listener import BACKLOG, SocketFile, peer_is_ours
from chimerad.store.store import Store

__all__ = ["RpcServer"]

log = logging.getLogger(__name__)

DESCRIPTORS_FOR_FILES = 256
"""Of the descriptors a process may open, these stay free of clients: journal, index, sessions."""

STOP_SECONDS = 5.0
"""How long a stop waits for calls that run and for clients to take their answers."""


class RpcServer:
    """Owns the socket and the connections; knows the store only as what methods call.

    Life: ``start``, ``stop``, each once.
    """

    def __init__(self, *, store: Store, service: ServiceInfo, request_shutdown: Callable[[], None]) -> None:
        self._connections: set[Connection] = set()
        self._dispatcher = Dispatcher(Daemon(store, service, request_shutdown, lambda: len(self._connections)))
        self._load = Load()
        self._listening: SocketFile | None = None
        self._server: asyncio.Server | None = None
        self._most_clients = 0

    async def start(self, socket_path: str) -> None:
        """Listen; returns when clients can connect.

        Raises:
            NotPermitted, OwnerRunning, OSError: as SocketFile.
        """
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        unlimited = limit == resource.RLIM_INFINITY
        self._most_clients = 65536 if unlimited else max(limit - DESCRIPTORS_FOR_FILES, limit // 2)
        self._listening = SocketFile(socket_path)
        self._server = await asyncio.get_running_loop().create_unix_server(
            self._accept, sock=self._listening.socket, backlog=BACKLOG
        )

    async def stop(self) -> None:
        """Take no new clients or calls, let what runs be answered, close every connection, remove the socket."""
        if self._server is not None:
            self._server.close()
        if self._listening is not None:
            self._listening.close()
        endings = [asyncio.ensure_future(connection.finish()) for connection in tuple(self._connections)]
        if endings:
            _, unfinished = await asyncio.wait(endings, timeout=STOP_SECONDS)
            for connection in tuple(self._connections):
                connection.abort()
            if unfinished:
                log.warning("%d clients did not take their last answers and were cut off", len(unfinished))
                await asyncio.wait(unfinished, timeout=1.0)

    def _accept(self) -> asyncio.BaseProtocol:
        return Connection(self._dispatcher, self._load, self._connections, self._admit)

    def _admit(self, peer: socket.socket) -> ChimeraError | None:
        if not peer_is_ours(peer):
            return NotPermitted("this daemon serves the user alone that it runs as")
        if len(self._connections) >= self._most_clients:
            log.warning("a client was turned away: %d are connected", len(self._connections))
            return Overloaded(f"{len(self._connections)} clients are connected, as many as there may be; retry later")
        return None

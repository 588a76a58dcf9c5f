"""The daemon put together: components started in order, stopped in reverse, signals in between.

Knows every component and what none of them knows: when to begin and when to end.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import resource
import signal
import time
from contextlib import AsyncExitStack

from chimera import __version__, durable, paths
from chimera.config import Config, load_config
from chimera.errors import ChimeraError, NotPermitted, StorageError
from chimera.identifiers import summary_timestamp
from chimera.sessions.eventlog.locks import Owner, OwnerLock, require_local_disk
from chimerad import logs
from chimerad.rpc.context import ServiceInfo
from chimerad.rpc.server import RpcServer
from chimerad.store.store import Store
from chimerad.watch import Watcher

__all__ = ["run_daemon"]

log = logging.getLogger("chimerad")

MALLOC_FRIENDLY_GC = (50_000, 50, 1000)
"""Generations of the collector: appends make many short-lived objects and no cycles."""


async def run_daemon(home: str, socket_path: str, config: Config) -> None:
    """Serve until a signal or ``daemon.shutdown``; then drain, flush and return.

    Raises:
        ChimeraError: it cannot start; nothing was changed.
    """
    root = paths.eventlog_root(home)
    _prepare_folders(home, root)
    require_local_disk(root, config.store.allow_network_file_system)
    stopping = asyncio.Event()
    async with AsyncExitStack() as components:
        owner = OwnerLock(root)
        owner.acquire()
        components.callback(owner.release)
        service = ServiceInfo(home, socket_path, __version__, summary_timestamp(time.time()))
        # Before the recovery: who meets the lock meanwhile learns whom to wait for.
        owner.announce(Owner(os.getpid(), socket_path, __version__, service.started_at))
        store = Store(home, config)
        await store.start()
        components.push_async_callback(store.stop)
        server = RpcServer(store=store, service=service, request_shutdown=stopping.set)
        await server.start(socket_path)
        components.push_async_callback(server.stop)
        if config.watch.enabled:
            watcher = Watcher(root, store, config.watch)
            await watcher.start()
            components.push_async_callback(watcher.stop)
        _handle_signals(home, stopping)
        _settle_memory()
        log.info("listening on %s", socket_path)
        await stopping.wait()
        log.info("stopping")
    log.info("stopped")


def _prepare_folders(home: str, root: str) -> None:
    if os.path.exists(home) and not os.path.isdir(home):
        raise NotPermitted(f"the home {home} is a file; set CHIMERA_HOME or --home to a folder")
    try:
        durable.make_folder(home)
        durable.make_folder(root)
        durable.make_folder(os.path.dirname(paths.index_path(home)))
    except OSError as error:
        raise StorageError(
            f"the home {home} cannot be used: {error.strerror}; choose another with CHIMERA_HOME"
        ) from error


def _handle_signals(home: str, stopping: asyncio.Event) -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    loop.add_signal_handler(signal.SIGHUP, _reload, home)


def _reload(home: str) -> None:
    """Read config.toml again; what can change while running does, a mistake in it changes nothing."""
    try:
        config = load_config(home)
    except ChimeraError as error:
        log.error("config.toml was not taken over: %s", error)
        return
    logs.set_level(config.daemon.log_level)
    log.info("config.toml was read again")


def raise_descriptor_limit() -> None:
    """Every client and every open session needs descriptors: take what the system allows."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _settle_memory() -> None:
    """What is loaded now stays for good: keep the collector from walking it again and again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*MALLOC_FRIENDLY_GC)

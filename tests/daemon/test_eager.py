"""The daemon's event loop, which looks a moment longer before it sleeps."""

from __future__ import annotations

import asyncio
import socket

from chimerad.eager import EagerSelector


def test_it_hears_what_comes_while_it_looks_and_while_it_sleeps() -> None:
    async def talk() -> bytes:
        loop = asyncio.get_running_loop()
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        theirs.setblocking(False)
        heard = b""
        for word in (b"a", b"b", b"c", b"d"):
            loop.call_later(0.002 if word == b"c" else 0, theirs.send, word)
            heard += await loop.sock_recv(ours, 1)
        ours.close()
        theirs.close()
        return heard

    with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(EagerSelector())) as runner:
        assert runner.run(talk()) == b"abcd"


def test_a_loop_that_was_left_alone_sleeps_at_once() -> None:
    selector = EagerSelector()
    with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(selector)) as runner:
        selector._eager = True
        runner.run(asyncio.sleep(0.02))
        assert not selector._eager

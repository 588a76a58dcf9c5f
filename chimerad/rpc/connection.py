"""One client: lines in, replies and notifications out, in order and within bounds.

Appends of one connection overlap, which is what lets many of them share one sync; any other call begins when the
appends before it are answered, and what follows waits for it. Everything is bounded:

    what                                  bound                       beyond it
    one line                              16 MiB                      answered -32600, the connection is closed
    appends in flight                     1,024, or 32 MiB of lines   reading pauses
    lines that wait                       what one read brought       reading pauses
    replies that the client does not take 1 MiB, and one reply        its calls and its reading pause
    lines of all clients together         256 MiB                     large calls are answered `overloaded`

Knows neither a method nor how a line is understood.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections import deque
from collections.abc import Callable
from typing import cast

import msgspec
from msgspec import UNSET, UnsetType

from chimera.errors import ChimeraError, InvalidRequest, Overloaded
from chimerad.rpc.context import CallContext
from chimerad.rpc.dispatch import AppendReply, AppendRequest, Dispatcher
from chimerad.rpc.envelope import Envelope
from chimerad.rpc.framing import LineSplitter
from chimerad.rpc.replies import MAX_LINE_BYTES, NO_ID, failure
from chimerad.store.batches import Answer, AppendCall

__all__ = ["Admission", "Connection", "Load"]

log = logging.getLogger(__name__)

MAX_APPENDS = 1024
MAX_APPEND_BYTES = 32 * 1024 * 1024
WRITE_HIGH_WATER = 1024 * 1024
WRITE_LOW_WATER = 256 * 1024
RECEIVE_BYTES = 256 * 1024
MAX_HELD_BYTES = 256 * 1024 * 1024
SMALL_LINE_BYTES = 64 * 1024
"""Lines up to this size are served under load too, so that the daemon can be asked how it is, and stopped."""

LINGER_SECONDS = 5.0
"""How long the rest of what a refused client sends is thrown away, so that it can read why before the end."""

_encode_lines = msgspec.json.Encoder().encode_lines


Admission = Callable[[socket.socket], ChimeraError | None]
"""Judges who has connected: None lets it in, an error is what it is told before the end."""


class Load:
    """What all connections together hold.

    Attributes:
        held: bytes of lines that are unfinished, waiting, or being served.
        buffer: what the event loop receives into; one for all, for a fresh one each time costs more than the call.
    """

    __slots__ = ("buffer", "held")

    def __init__(self) -> None:
        self.held = 0
        self.buffer = memoryview(bytearray(RECEIVE_BYTES))


class Connection(asyncio.BufferedProtocol):
    """The protocol object of one accepted client, and the sink of its subscriptions."""

    def __init__(self, dispatcher: Dispatcher, load: Load, connections: set[Connection], admit: Admission) -> None:
        self._dispatcher = dispatcher
        self._admit = admit
        self._store = dispatcher.daemon.store
        self._load = load
        self._connections = connections
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._splitter = LineSplitter()
        self._waiting: deque[bytes] = deque()
        self._next: AppendRequest | Envelope | UnsetType | None = UNSET  # what the first waiting line was recognised as
        self._refusal: ChimeraError | None = None  # answers what came behind the waiting lines
        self._serving: asyncio.Task[None] | None = None
        self._appends = 0
        self._append_bytes = 0
        self._outgoing: list[bytes] = []
        self._outgoing_bytes = 0
        self._flush_scheduled = False
        self._reading = True
        self._writable = True
        self._ending = False  # nothing more is read: close when what has come is answered
        self._linger: asyncio.TimerHandle | None = None
        self._drain_waiters: list[asyncio.Future[None]] = []
        self._closed: asyncio.Future[None] = self._loop.create_future()

    # What the event loop tells.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(WRITE_HIGH_WATER, WRITE_LOW_WATER)
        refusal = self._admit(self._transport.get_extra_info("socket"))
        if refusal is None:
            self._connections.add(self)
            return
        self._ending = True
        self.write_line(failure(refusal, NO_ID))
        self._flush()
        self._transport.close()

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002
        return self._load.buffer

    def buffer_updated(self, nbytes: int) -> None:
        if self._ending or self._refusal is not None:
            return
        lines = self._splitter.feed(bytes(self._load.buffer[:nbytes]))
        self._load.held += nbytes
        if self._splitter.overflown:
            self._refuse(InvalidRequest(f"the line is longer than {MAX_LINE_BYTES} bytes; send less in one call"))
        elif self._load.held > MAX_HELD_BYTES and self._splitter.unfinished_bytes > SMALL_LINE_BYTES:
            self._refuse(_overloaded())
        if not self._begin_appends(lines):
            self._waiting.extend(lines)
            self._advance()
        if self._appends and len(self._connections) == 1:
            self._store.commit_now()

    def eof_received(self) -> bool:
        """The client sends no more: what came whole is still answered, half a line is dropped."""
        self._stop_lingering()
        self._end()
        return True

    def connection_lost(self, error: Exception | None) -> None:  # noqa: ARG002
        """What came whole is still carried out, though nobody hears the answers."""
        self._transport = None
        self._writable = True
        self._outgoing.clear()
        self._outgoing_bytes = 0
        self._connections.discard(self)
        self._store.drop_sink(self)
        self._wake_drain_waiters()
        self._stop_lingering()
        self._closed.set_result(None)
        self._end()

    def pause_writing(self) -> None:
        self._writable = False
        self._set_reading()

    def resume_writing(self) -> None:
        self._writable = True
        self._wake_drain_waiters()
        self._loop.call_soon(self._advance)

    # What the store's subscriptions use.

    def write_line(self, line: bytes) -> None:
        """Queue one reply or notification; what one turn of the loop brings leaves in one write, in order."""
        self._send(line + b"\n", soon=True)

    def backlog(self) -> int:
        return 0 if self._transport is None else self._transport.get_write_buffer_size() + self._outgoing_bytes

    async def drained(self) -> None:
        self._flush()
        if self._transport is not None and not self._writable:
            waiter = self._loop.create_future()
            self._drain_waiters.append(waiter)
            await waiter
        if self._transport is None:
            raise ConnectionError("the client has gone")

    # What the server uses.

    async def finish(self) -> None:
        """Begin nothing more, answer what has begun, and close; returns when the connection is closed."""
        self._load.held -= sum(map(_bytes_held, self._waiting))
        self._waiting.clear()
        self._next = UNSET
        self._stop_lingering()
        self._end()
        await asyncio.shield(self._closed)

    def abort(self) -> None:
        """Close at once, whatever is unsent."""
        if self._transport is not None:
            self._transport.abort()

    # Serving.

    def _begin_appends(self, lines: list[bytes]) -> bool:
        """Begin all of these at once, when each is an append that may begin now; False: nothing has begun."""
        if not lines or self._waiting or self._serving is not None or not self._writable:
            return False
        if self._load.held > MAX_HELD_BYTES or self._append_bytes >= MAX_APPEND_BYTES:
            return False
        if self._appends + len(lines) > MAX_APPENDS:
            return False
        requests = self._dispatcher.recognise_appends(lines)
        if requests is None:
            return False
        self._store.append(self._taken(requests, lines))
        return True

    def _advance(self) -> None:
        """Begin what may begin, in the order in which it came."""
        waiting = self._waiting
        while waiting and self._serving is None and self._writable:
            line, call, self._next = waiting[0], self._next, UNSET
            if call is UNSET:
                call = self._dispatcher.recognise(line)
            if isinstance(call, AppendRequest):
                if self._appends >= MAX_APPENDS or self._append_bytes >= MAX_APPEND_BYTES:
                    self._next = call
                    break
                waiting.popleft()
                appends = self._taken([call], [line])
                if len(line) > SMALL_LINE_BYTES and self._load.held > MAX_HELD_BYTES:
                    appends[0].refuse(_overloaded())
                else:
                    self._store.append(appends)
            elif self._appends:
                self._next = call
                break
            else:
                waiting.popleft()
                self._serving = self._loop.create_task(self._serve(line, call))
        if self._reading != (not waiting and self._writable):
            self._set_reading()
        if (self._ending or self._refusal is not None) and not self._appends and not waiting and self._serving is None:
            self._close()

    def _close(self) -> None:
        """Everything that came is answered: say why no more is taken, or end."""
        if self._refusal is not None:
            self._answer_refused(self._refusal)
        elif self._linger is None and self._transport is not None:
            self._flush()
            self._transport.close()

    def _taken(self, requests: list[AppendRequest], lines: list[bytes]) -> list[AppendCall]:
        """The calls for the store, counted as in flight; each knows its id, and what its line holds until then."""
        self._appends += len(lines)
        self._append_bytes += sum(map(_bytes_held, lines))
        return [
            AppendCall(
                (asked := request.params).session_id,
                asked.events,
                asked.expect_seq,
                asked.durability == "durable",
                self,
                (request.id, len(line) + 1),
            )
            for request, line in zip(requests, lines, strict=True)
        ]

    def answered(self, answers: list[Answer]) -> None:
        """What the store says of appends of this client."""
        size = 0
        replies: list[AppendReply | msgspec.Raw] = []
        for call, outcome in answers:
            request_id, held = call.reference
            size += held
            if not isinstance(outcome, ChimeraError):
                if request_id:
                    replies.append(AppendReply(outcome, request_id))
            elif request_id:
                replies.append(msgspec.Raw(failure(outcome, bytes(request_id))))
            else:
                log.warning("a notification of sessions.append failed: %s", outcome.kind)
        self._appends -= len(answers)
        self._append_bytes -= size
        self._load.held -= size
        if replies:
            self._send(_encode_lines(replies), soon=self._appends > 0)
        if self._waiting or self._ending or self._refusal is not None:
            self._loop.call_soon(self._advance)  # not now: the store is in the middle of its answers

    async def _serve(self, line: bytes, envelope: Envelope | None) -> None:
        context = CallContext(self._dispatcher.daemon, self)
        try:
            if len(line) > SMALL_LINE_BYTES and self._load.held > MAX_HELD_BYTES:
                reply = failure(_overloaded(), bytes(envelope.id) if envelope is not None else NO_ID)
            else:
                reply = await self._dispatcher.answer(line, envelope, context)
            if reply:
                self.write_line(reply)
            for step in context.after_reply:
                step()
        finally:
            self._load.held -= _bytes_held(line)
            self._serving = None
            if self._transport is None:
                self._store.drop_sink(self)  # it may have subscribed after it was lost
            self._advance()

    # Ends.

    def _refuse(self, refusal: ChimeraError) -> None:
        """Read no further: the refusal is answered behind what came before it."""
        self._refusal = refusal
        self._drop_unfinished()

    def _answer_refused(self, refusal: ChimeraError) -> None:
        """Say why, end our side, and throw away what still comes until the client has ended its side as well."""
        self._refusal = None
        self._ending = True
        log.warning("a client was refused: %s", refusal.kind)
        self.write_line(failure(refusal, NO_ID))
        self._flush()
        self._store.drop_sink(self)
        if self._transport is not None:
            self._transport.write_eof()
            self._linger = self._loop.call_later(LINGER_SECONDS, self.abort)

    def _stop_lingering(self) -> None:
        if self._linger is not None:
            self._linger.cancel()
            self._linger = None

    def _end(self) -> None:
        self._ending = True
        self._drop_unfinished()
        self._advance()

    def _drop_unfinished(self) -> None:
        self._load.held -= self._splitter.unfinished_bytes
        self._splitter.clear()

    # Writing.

    def _send(self, lines: bytes, *, soon: bool) -> None:
        """Put whole lines behind those before; ``soon`` lets others of this turn of the loop join the write."""
        if self._transport is None or self._linger is not None:
            return
        if not soon and not self._outgoing:
            self._transport.write(lines)
            return
        self._outgoing.append(lines)
        self._outgoing_bytes += len(lines)
        if not soon or self._outgoing_bytes > WRITE_LOW_WATER:
            self._flush()
        elif not self._flush_scheduled:
            self._flush_scheduled = True
            self._loop.call_soon(self._flush_in_turn)

    def _flush_in_turn(self) -> None:
        self._flush_scheduled = False
        self._flush()

    def _flush(self) -> None:
        if self._outgoing and self._transport is not None:
            body = b"".join(self._outgoing)
            self._outgoing.clear()
            self._outgoing_bytes = 0
            self._transport.write(body)

    def _set_reading(self) -> None:
        """Read while nothing waits and the client takes its answers."""
        wanted = not self._waiting and self._writable
        if wanted != self._reading and self._transport is not None:
            self._reading = wanted
            if wanted:
                self._transport.resume_reading()
            else:
                self._transport.pause_reading()

    def _wake_drain_waiters(self) -> None:
        for waiter in self._drain_waiters:
            if not waiter.done():
                waiter.set_result(None)
        self._drain_waiters.clear()


def _bytes_held(line: bytes) -> int:
    return len(line) + 1


def _overloaded() -> Overloaded:
    return Overloaded("the daemon holds as much unanswered work as it may; retry in a moment")

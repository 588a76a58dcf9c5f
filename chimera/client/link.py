"""One connection of an asynchronous client: calls in flight by their id, subscriptions by theirs.

Every queue here is bounded. A consumer that is too slow for its subscription loses nothing: what no longer fits is
dropped, the consumer is told where to resume (``session.lagged``, as the daemon itself says it), and reads it from
the log. The reader never waits for a consumer, so that an answer is never stuck behind notifications. Knows nothing of
how a connection is come by.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from chimera.client.protocol import MAX_LINE_BYTES, decode_reply, encode_line, encode_request, result_of
from chimera.errors import ChimeraError, ConnectionLost

__all__ = ["Link", "Subscription"]

QUEUE_NOTIFICATIONS = 2048
QUEUE_BYTES = 8 * 1024 * 1024
"""What one subscription holds for its consumer; beyond either, it lags."""


class Subscription:
    """What a ``sessions.subscribe`` brings: an asynchronous iterator of notifications ``(method, params)``.

    A ``session.lagged`` of the daemon is the last that it gives: subscribe again from its ``resume``. One made here,
    because the consumer is slow, is followed by what comes after it. Raises ConnectionLost at the end of the
    connection. Read by one consumer.

    Attributes:
        subscription_id, generation, head_seq: what the daemon answered.
    """

    def __init__(self, result: Mapping[str, Any]) -> None:
        self.subscription_id: str = result["subscription"]
        self.generation: str = result["generation"]
        self.head_seq: int = result["head_seq"]
        self._queue: deque[tuple[int, str, dict[str, Any]]] = deque()
        self._bytes = 0
        self._lagging: dict[str, dict[str, Any]] = {}
        self._cursors: dict[str, dict[str, Any]] = {}
        self._arrived = asyncio.Event()
        self._ended: ChimeraError | None = None
        self._over = False

    def __aiter__(self) -> Subscription:
        return self

    async def __anext__(self) -> tuple[str, dict[str, Any]]:
        while True:
            if self._queue:
                size, method, params = self._queue.popleft()
                self._bytes -= size
                return method, params
            if self._lagging:
                session_id = next(iter(self._lagging))
                resume = self._lagging.pop(session_id)
                params = {"subscription": self.subscription_id, "session_id": session_id, "resume": resume}
                return "session.lagged", params
            if self._over:
                raise StopAsyncIteration
            if self._ended is not None:
                raise self._ended
            self._arrived.clear()
            await self._arrived.wait()

    def deliver(self, method: str, params: dict[str, Any], size: int) -> None:
        """Called by the reader: keep a notification for the consumer, or remember where the consumer must resume."""
        self._arrived.set()
        if method == "session.lagged":
            self._over = True
        elif not self._fits(method, params, size):
            return
        self._queue.append((size, method, params))
        self._bytes += size

    def _fits(self, method: str, params: dict[str, Any], size: int) -> bool:
        session_id = params.get("session_id", "")
        if session_id in self._lagging:
            return False
        if method != "session.event":
            return len(self._queue) < QUEUE_NOTIFICATIONS
        generation, seq = params["generation"], params["event"]["seq"]
        if self._queue and (len(self._queue) >= QUEUE_NOTIFICATIONS or self._bytes + size > QUEUE_BYTES):
            last_given = self._cursors.get(session_id)
            self._lagging[session_id] = last_given or {"generation": generation, "seq": seq - 1}
            return False
        self._cursors[session_id] = {"generation": generation, "seq": seq}
        return True

    def end(self, error: ChimeraError) -> None:
        """The connection is gone: what is queued is still given, then the error."""
        self._ended = error
        self._arrived.set()

    def leave(self) -> None:
        """Unsubscribed: what is queued is still given, then the iteration ends."""
        self._over = True
        self._arrived.set()


class Link:
    """One connection: a reader task, the calls in flight by id, the subscriptions by their id."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._calls: dict[int, tuple[asyncio.Future[Any], Callable[[Any], Any]]] = {}
        self._subscriptions: dict[str, Subscription] = {}
        self._numbers = itertools.count(1)
        self.lost: ConnectionLost | None = None
        self._task = asyncio.get_running_loop().create_task(self._read())

    async def call(
        self, method: str, params: dict[str, Any], convert: Callable[[Any], Any] = lambda result: result
    ) -> Any:
        """The result, through ``convert``, which runs before the next line is looked at."""
        if self.lost is not None:
            raise ConnectionLost(self.lost.message, sent=False)
        request_id = next(self._numbers)
        line = encode_request(method, params, request_id)
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._calls[request_id] = (future, convert)
        try:
            self._writer.write(line)
            await self._writer.drain()
        except OSError:
            pass  # the reader sees the end too, and says what is known
        try:
            return await future
        finally:
            self._calls.pop(request_id, None)

    async def subscribe(self, session_id: str, since: Mapping[str, Any] | None, *, deltas: bool) -> Subscription:
        params: dict[str, Any] = {"session_id": session_id, "deltas": deltas}
        if since is not None:
            params["since"] = dict(since)
        subscription: Subscription = await self.call("sessions.subscribe", params, self._subscribed)
        return subscription

    def _subscribed(self, result: Any) -> Subscription:
        subscription = Subscription(result)
        self._subscriptions[subscription.subscription_id] = subscription
        return subscription

    def unsubscribe(self, subscription: Subscription) -> None:
        """Say that nobody listens any more, without waiting for an answer: a consumer may be leaving in a hurry."""
        if self._subscriptions.pop(subscription.subscription_id, None) is not None:
            subscription.leave()
            params = {"subscription": subscription.subscription_id}
            self._writer.write(encode_line({"jsonrpc": "2.0", "method": "sessions.unsubscribe", "params": params}))

    async def close(self) -> None:
        self._end(ConnectionLost("this client was closed"))
        self._task.cancel()
        await asyncio.wait([self._task])

    async def _read(self) -> None:
        error = ConnectionLost("the daemon closed the connection before it answered")
        try:
            while (line := await self._reader.readline()).endswith(b"\n"):
                self._take(line)
        except ValueError:  # asyncio's word for a line over its limit
            error = ConnectionLost(f"the daemon sent a line of more than {MAX_LINE_BYTES} bytes")
        except OSError as failure:
            error = ConnectionLost(f"the daemon closed the connection ({failure.strerror or failure})")
        except ConnectionLost as lost:
            error = lost
        finally:
            self._end(error)

    def _end(self, error: ConnectionLost) -> None:
        if self.lost is not None:
            return
        self.lost = error
        self._writer.close()
        for future, _ in self._calls.values():
            if not future.done():
                future.set_exception(ConnectionLost(error.message))
        for subscription in self._subscriptions.values():
            subscription.end(error)
        self._subscriptions.clear()

    def _take(self, line: bytes) -> None:
        message = decode_reply(line)
        if not isinstance(message, dict):
            return
        method = message.get("method")
        if method is None:
            self._settle(message)
            return
        params = message.get("params")
        if isinstance(params, dict) and (subscription := self._subscriptions.get(params.get("subscription", ""))):
            subscription.deliver(method, params, len(line))

    def _settle(self, reply: dict[str, Any]) -> None:
        future, convert = self._calls.pop(reply.get("id", 0), (None, None))
        if future is None or convert is None or future.done():
            return
        try:
            future.set_result(convert(result_of(reply)))
        except ChimeraError as error:
            future.set_exception(error)

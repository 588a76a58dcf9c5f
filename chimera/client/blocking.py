"""``Client``: one call and its answer, over a connection that is found, started and renewed as needed.

Standard library only; what the command line and scripts in Python use. One client belongs to one thread.
It never repeats a call whose effect is not known, but for reads and for appends, whose event ids make the
repetition harmless.
"""

from __future__ import annotations

import os
import time

from chimera.client import discovery
from chimera.client.protocol import (
    LineConnection,
    checked_line,
    encode_json,
    encode_line,
    encode_request,
    encode_request_raw,
    is_uncertain,
    result_of,
)
from chimera.client.retry import AppendRetry
from chimera.errors import ChimeraError, ConnectionLost, InvalidParams

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import TracebackType
    from typing import Any

__all__ = ["CALL_SECONDS", "Client", "PendingAppend"]

CALL_SECONDS = 60.0
"""How long a call waits for its answer unless the client was made with another limit."""

REPEATABLE = frozenset(
    (
        "daemon.hello",
        "daemon.status",
        "rpc.discover",
        "sessions.get",
        "sessions.list",
        "sessions.read",
        "sessions.verify",
        "trash.list",
    )
)
"""Methods that change nothing: asked once more after a lost connection."""


class Client:
    """A client of the daemon. Connects with the first call; ``with`` closes it.

    Args:
        socket_path: which socket; by default as chimera.paths says.
        home: the state home; by default ``$CHIMERA_HOME`` or ``~/.chimera``.
        start: whether to start a daemon where none answers.
        timeout: seconds a call may take before DaemonWedged; None: for ever.
    """

    def __init__(
        self,
        socket_path: str | os.PathLike[str] | None = None,
        home: str | os.PathLike[str] | None = None,
        *,
        start: bool = True,
        timeout: float | None = CALL_SECONDS,
    ) -> None:
        self._socket_path = None if socket_path is None else os.fspath(socket_path)
        self._home = None if home is None else os.fspath(home)
        self._start = start
        self._timeout = timeout
        self._connection: LineConnection | None = None
        self._hello: dict[str, Any] = {}
        self._last_id = 0

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def connect(self) -> dict[str, Any]:
        """Connect now rather than with the first call; what the daemon said of itself."""
        self._connected()
        return self._hello

    def fileno(self) -> int:
        """The connection's descriptor, to wait on; -1 when there is none at the moment."""
        return -1 if self._connection is None else self._connection.fileno()

    def call(self, method: str, /, **params: Any) -> Any:
        """The result of a method; its error is raised as the class of its kind (chimera.errors)."""
        request_id = self._new_id()
        line = encode_request(method, params, request_id)
        return result_of(self._exchange(line, request_id, repeatable=method in REPEATABLE))

    def call_raw(self, method: str, params: bytes) -> Any:
        """As :meth:`call`, with parameters that are JSON already and travel as they are."""
        request_id = self._new_id()
        line = encode_request_raw(method, params, request_id)
        return result_of(self._exchange(line, request_id, repeatable=method in REPEATABLE))

    def send_batch(self, requests: Sequence[Mapping[str, Any]]) -> Any:
        """Send requests as one JSON-RPC batch; the list of replies as the daemon gave it.

        A batch that is refused as a whole gives the one reply that says so.
        """
        return self._exchange(encode_line(list(requests)), None, repeatable=False)

    def append(
        self,
        session_id: str,
        events: Sequence[Mapping[str, Any] | bytes],
        *,
        expect_seq: int | None = None,
        durability: str = "durable",
    ) -> dict[str, Any]:
        """Append events, all or nothing; first_seq, last_seq, ids, chain.

        Events without an ``id`` get one here, so that the same call can be sent again after a lost answer and
        adds nothing twice. An event given as bytes is one JSON object that has its id already.
        """
        return self.begin_append(session_id, events, expect_seq=expect_seq, durability=durability).wait()

    def begin_append(
        self,
        session_id: str,
        events: Sequence[Mapping[str, Any] | bytes],
        *,
        expect_seq: int | None = None,
        durability: str = "durable",
    ) -> PendingAppend:
        """Send an append without waiting for its answer; nothing else may be called before its ``wait``."""
        params: dict[str, object] = {"session_id": session_id, "durability": durability}
        if expect_seq is not None:
            params["expect_seq"] = expect_seq
        request_id = self._new_id()
        head = encode_json({"jsonrpc": "2.0", "id": request_id, "method": "sessions.append", "params": params})
        body = b",".join([_event_bytes(event) for event in events])
        line = checked_line(b"".join((head[:-2].encode(), b',"events":[', body, b"]}}\n")))
        return PendingAppend(self, line, request_id)

    def _new_id(self) -> int:
        self._last_id += 1
        return self._last_id

    def _connected(self) -> LineConnection:
        if self._connection is None:
            answer = discovery.connect(self._home, self._socket_path, self._start)
            self._connection, self._hello = answer.connection, answer.hello
        assert self._connection is not None
        return self._connection

    def _exchange(self, line: bytes, request_id: int | None, *, repeatable: bool) -> Any:
        try:
            return self._exchange_once(line, request_id)
        except ConnectionLost as error:
            if is_uncertain(error) and not repeatable:
                raise
        return self._exchange_once(line, request_id)

    def _exchange_once(self, line: bytes, request_id: int | None) -> Any:
        self._send(line)
        return self._receive(request_id)

    def _send(self, line: bytes) -> None:
        connection = self._connected()
        try:
            connection.send(line, self._timeout)
        except BaseException:  # after half a line, or an unread answer, the connection is of no use
            self.close()
            raise

    def _receive(self, request_id: int | None) -> Any:
        if self._connection is None:
            raise ConnectionLost("the connection was closed before the answer was read")
        try:
            return self._connection.receive_reply(request_id, self._timeout)
        except BaseException:
            self.close()
            raise


class PendingAppend:
    """An append on its way. ``wait`` returns its result, sending it again for as long as its fate is unknown."""

    def __init__(self, client: Client, line: bytes, request_id: int) -> None:
        self._client = client
        self._line = line
        self._request_id = request_id
        self._failed: ChimeraError | None = None
        self._send()

    def wait(self) -> dict[str, Any]:
        retry = AppendRetry()
        while True:
            try:
                if self._failed is None:
                    result: dict[str, Any] = result_of(self._client._receive(self._request_id))
                    return result
            except ChimeraError as error:
                self._failed = error
            time.sleep(retry.pause_after(self._failed))
            self._send()

    def _send(self) -> None:
        self._failed = None
        try:
            self._client._send(self._line)
        except ChimeraError as error:
            self._failed = error


def _event_bytes(event: Mapping[str, Any] | bytes) -> bytes:
    if isinstance(event, bytes):
        return event
    from chimera.identifiers import new_event_id

    named = event if event.get("id") is not None else {**event, "id": new_event_id()}
    try:
        return encode_json(named).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidParams(f"an event cannot be written as JSON: {error}") from error

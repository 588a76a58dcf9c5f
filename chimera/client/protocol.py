"""The wire: one JSON object, or one batch, a line; and a blocking connection that carries such lines.

Standard library only and few modules of it, because every ``chimera`` call in a shell pays for them:
``_socket`` instead of ``socket`` alone saves a third of an interpreter's start. Must not know which
socket to open (discovery) nor when a call may be repeated (blocking).
"""

from __future__ import annotations

import _socket
import json
import sys
import time

from chimera.errors import ChimeraError, ConnectionLost, DaemonWedged, InvalidParams, TooLarge, error_from_rpc

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = [
    "MAX_LINE_BYTES",
    "PROTOCOL",
    "LineBuffer",
    "LineConnection",
    "checked_line",
    "decode_reply",
    "encode_json",
    "encode_line",
    "encode_request",
    "encode_request_raw",
    "is_uncertain",
    "result_of",
]

PROTOCOL = 1
"""What both sides must speak; ``daemon.hello`` answers it."""

MAX_LINE_BYTES = 16 * 1024 * 1024
"""The longest line either way, its newline included."""

_RECEIVE_BYTES = 256 * 1024
_ADVICE = "look at `chimera daemon status`"

encode_json = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode


def encode_line(message: object) -> bytes:
    """The message as one line; raises InvalidParams for what JSON cannot hold, TooLarge for a line too long."""
    try:
        line = encode_json(message).encode() + b"\n"
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidParams(f"the call cannot be written as JSON: {error}") from error
    return checked_line(line)


def checked_line(line: bytes) -> bytes:
    """The line itself, unless the daemon would refuse its length."""
    if len(line) > MAX_LINE_BYTES:
        raise TooLarge(
            f"the call is {len(line)} bytes long; a line holds at most {MAX_LINE_BYTES}: send it in smaller parts"
        )
    return line


def encode_request(method: str, params: dict[str, Any], request_id: int | str) -> bytes:
    """One request as a line."""
    return encode_line({"jsonrpc": "2.0", "id": request_id, "method": method, "params": params})


def encode_request_raw(method: str, params: bytes, request_id: int | str) -> bytes:
    """One request whose parameters are JSON already: they travel as they are, number for number."""
    head = encode_json({"jsonrpc": "2.0", "id": request_id, "method": method})[:-1]
    return checked_line(b"".join((head.encode(), b',"params":', params, b"}\n")))


def decode_reply(line: bytes) -> Any:
    """A line of the daemon as a value; raises ConnectionLost for one that is no JSON: the stream is beyond use."""
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ConnectionLost(f"the daemon sent a line that is not JSON ({error})") from error


def result_of(reply: dict[str, Any]) -> Any:
    """The result that a reply carries, or the error that it carries, raised as our class for it."""
    if "result" in reply:
        return reply["result"]
    error = reply.get("error")
    raise error_from_rpc(error if isinstance(error, dict) else {"message": "the daemon's reply has no result"})


class LineBuffer:
    """Cuts a stream of bytes into lines, without copying the start of a long line again for every part of it."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._held = 0

    def feed(self, chunk: bytes) -> list[bytes]:
        """The lines, without their newline, that end in this chunk; the rest waits for the next."""
        *lines, rest = chunk.split(b"\n")
        if lines and self._parts:
            lines[0] = b"".join((*self._parts, lines[0]))
            self._parts.clear()
            self._held = 0
        if rest:
            self._parts.append(rest)
            self._held += len(rest)
        if self._held >= MAX_LINE_BYTES:
            raise ConnectionLost(f"the daemon sent a line of more than {MAX_LINE_BYTES} bytes")
        return lines


class LineConnection:
    """A connected Unix socket that carries lines. Closed by whoever made it."""

    def __init__(self, socket_path: str, timeout: float | None) -> None:
        """Connect; raises OSError. A full backlog (``EAGAIN``) is waited out, at most ``timeout`` seconds."""
        self._buffer = LineBuffer()
        self._lines: list[bytes] = []
        self._socket = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
        deadline = None if timeout is None else time.monotonic() + timeout
        try:
            self._socket.settimeout(timeout)
            while True:
                try:
                    self._socket.connect(socket_path)
                except BlockingIOError:
                    if deadline is not None and time.monotonic() >= deadline:
                        raise
                    time.sleep(0.005)
                else:
                    return
        except BaseException:
            self._socket.close()
            raise

    def fileno(self) -> int:
        """The descriptor, to wait on; -1 once closed."""
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()

    def detach(self) -> int:
        """Hand the descriptor over; the connection is closed for this object."""
        return self._socket.detach()

    def peer_pid(self) -> int | None:
        """The process that listens at the other end, as the kernel knows it; None where the system cannot tell."""
        option = getattr(_socket, "SO_PEERCRED", None)
        if option is None or self.fileno() < 0:
            return None
        return int.from_bytes(self._socket.getsockopt(_socket.SOL_SOCKET, option, 4), sys.byteorder) or None

    def send(self, line: bytes, timeout: float | None) -> None:
        """Write a whole line; its errors say ``sent=False``: half a line is never carried out."""
        self._socket.settimeout(timeout)
        try:
            self._socket.sendall(line)
        except TimeoutError:
            raise DaemonWedged(f"the daemon took no more bytes for {timeout:g} s; {_ADVICE}", sent=False) from None
        except OSError as error:
            raise ConnectionLost(f"the daemon closed the connection ({error.strerror or error})", sent=False) from error

    def receive(self, timeout: float | None) -> bytes:
        """The next line; raises ConnectionLost at the end of the stream, DaemonWedged after ``timeout`` seconds."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while not self._lines:
            left = None if deadline is None else max(deadline - time.monotonic(), 0.000001)
            self._socket.settimeout(left)
            try:
                chunk = self._socket.recv(_RECEIVE_BYTES)
            except TimeoutError:
                raise DaemonWedged(f"the daemon did not answer in {timeout:g} s; {_ADVICE}") from None
            except OSError as error:
                raise ConnectionLost(f"the daemon closed the connection ({error.strerror or error})") from error
            if not chunk:
                raise ConnectionLost("the daemon closed the connection before it answered")
            self._lines = self._buffer.feed(chunk)
        return self._lines.pop(0)

    def receive_reply(self, request_id: int | str | None, timeout: float | None) -> Any:
        """The reply to that request (None: the next batch of replies); notifications before it are passed over."""
        while True:
            reply = decode_reply(self.receive(timeout))
            if isinstance(reply, list):
                if request_id is None:
                    return reply
            elif isinstance(reply, dict) and "method" not in reply and reply.get("id") in (request_id, None):
                return reply  # an id of null: the daemon could not read the request at all

    def call(self, method: str, params: dict[str, Any], timeout: float | None) -> Any:
        """One request and its result; for a connection with nothing else in flight."""
        self.send(encode_request(method, params, 0), timeout)
        return result_of(self.receive_reply(0, timeout))


def is_uncertain(error: ChimeraError) -> bool:
    """Whether a call that ended so may have been carried out all the same."""
    if isinstance(error, ConnectionLost | DaemonWedged):
        return error.details.get("sent") is not False
    return error.details.get("outcome") == "unknown"

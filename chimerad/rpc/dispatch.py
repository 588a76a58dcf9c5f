"""From a line to its reply, in two ways that give the same bytes.

A single well-formed call goes straight to its method. Everything else (batches, notifications, methods that are not
there, whatever is malformed) goes through jsonrpcserver, which is imported here alone, in a thread, when the first of
these comes: it takes 0.15 s and 6 MiB that most daemons never need. A test holds the two ways against each other.

This is the boundary at which unknown exceptions end: the log gets them, the caller a reference to the log.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Literal

import msgspec

from chimera.errors import ChimeraError, InternalError, InvalidRequest, MethodNotFound, TooLarge
from chimerad.rpc.context import CallContext, Daemon, Handler
from chimerad.rpc.contract import METHODS
from chimerad.rpc.envelope import Envelope, check_id, check_params, read_batch, read_envelope, require_utf8
from chimerad.rpc.methods import HANDLERS
from chimerad.rpc.parameters import AppendParams
from chimerad.rpc.replies import (
    MAX_ERROR_BYTES,
    MAX_ID_BYTES,
    MAX_LINE_BYTES,
    MAX_RESULT_BYTES,
    encode_result,
    error_object,
    failure,
    success,
)
from chimerad.rpc.validation import decode_parameters
from chimerad.store.batches import AppendOutcome

__all__ = ["AppendReply", "AppendRequest", "Dispatcher"]

log = logging.getLogger(__name__)

APPEND = "sessions.append"

_encode = msgspec.json.Encoder().encode
_BYTES_BESIDE_A_RESULT = MAX_ERROR_BYTES + MAX_ID_BYTES + 64
"""What a member of a batch may take in the reply when it has no result."""


class AppendRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, gc=False):
    """The one call that is worth a way of its own: read in one go with its parameters, ready for the store."""

    jsonrpc: Literal["2.0"]
    method: Literal["sessions.append"]
    params: AppendParams
    id: msgspec.Raw = msgspec.Raw(b"")


class AppendReply(msgspec.Struct, tag_field="jsonrpc", tag="2.0", frozen=True, gc=False):
    """Its answer, encoded in one go as well."""

    result: AppendOutcome
    id: msgspec.Raw


_decode_append = msgspec.json.Decoder(AppendRequest).decode


class Dispatcher:
    """The methods of the contract with what they work on; one for all connections."""

    def __init__(self, daemon: Daemon, handlers: Mapping[str, Handler] = HANDLERS) -> None:
        self.daemon = daemon
        self._handlers = {name: (METHODS[name], handler) for name, handler in handlers.items()}
        self._library: _Library | None = None

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._handlers)

    def recognise_appends(self, lines: list[bytes]) -> list[AppendRequest] | None:
        """These lines when each is an append that goes straight to the store; None: look at them one by one."""
        try:
            if not all(map(bytes.isascii, lines)):
                for line in lines:
                    require_utf8(line)
            requests = list(map(_decode_append, lines))
            for request in requests:
                if not bytes(request.id).isdigit():
                    check_id(bytes(request.id))
        except (ChimeraError, msgspec.DecodeError, RecursionError):
            return None  # other methods, or nothing at all
        return requests

    def recognise(self, line: bytes) -> AppendRequest | Envelope | None:
        """The call when the line is one that goes straight to its method; None: it goes through the library."""
        requests = self.recognise_appends([line])
        if requests is not None:
            return requests[0]
        try:
            envelope = read_envelope(line)
            check_params(envelope)
        except ChimeraError:
            return None  # the library's way says what is wrong with it
        return envelope if envelope.id and envelope.method in self._handlers else None

    async def answer(self, line: bytes, envelope: Envelope | None, context: CallContext) -> bytes:
        """The reply to a line, without newline; b"" when it wants none."""
        if envelope is None:
            return await self.through_library(line, context)
        request_id = bytes(envelope.id)
        try:
            return success(await self.perform(envelope.method, bytes(envelope.params), context), request_id)
        except ChimeraError as error:
            return failure(error, request_id)

    async def through_library(self, line: bytes, context: CallContext) -> bytes:
        """As :meth:`answer`, for every line there can be."""
        if self._library is None:
            self._library = await asyncio.to_thread(_Library, self)
        return await self._library.answer(line, context)

    async def perform(
        self, name: str, raw_parameters: bytes, context: CallContext, turns: Turns | None = None
    ) -> bytes:
        """Carry out one call; the JSON of its result. ``turns`` keeps the calls of a batch in order.

        Raises:
            ChimeraError: and nothing else.
        """
        method, handler = self._handlers[name]
        try:
            if turns is None:
                result = await handler(context, decode_parameters(name, raw_parameters, method.decoder))
            else:
                async with turns.lock:
                    await turns.before(name)
                    result = await handler(context, decode_parameters(name, raw_parameters, method.decoder))
                    turns.begun(result)
            return encode_result(await result if isinstance(result, asyncio.Future) else result)
        except ChimeraError:
            raise
        except Exception as error:  # noqa: BLE001 - the boundary
            raise unexpected(name, error) from None


def unexpected(name: str, error: Exception) -> InternalError:
    """An error that tells the caller nothing but where the log has the cause, which may hold anything."""
    reference = os.urandom(4).hex()
    log.error("%s failed, reference %s", name, reference, exc_info=error)
    return InternalError(
        f"{name} failed inside the daemon; its log has the cause under {reference}", reference=reference
    )


class Turns:
    """The calls of one batch begin in order; appends overlap, any other call waits for the appends before it."""

    def __init__(self) -> None:
        self.lock = asyncio.Lock()  # is given in the order in which it was asked for
        self._appends: list[asyncio.Future[Any]] = []

    async def before(self, name: str) -> None:
        if name != APPEND and self._appends:
            await asyncio.wait(self._appends)
            self._appends.clear()

    def begun(self, result: object) -> None:
        if isinstance(result, asyncio.Future):
            self._appends.append(result)


class _Library:
    """jsonrpcserver, kept from what it does by itself.

    It would send the text of any exception to the caller, run the members of a batch at once, and answer one bad
    member of a batch for all of them. Here its methods raise errors of ours alone, take turns, and a member that is
    no request becomes a call of :data:`_REFUSED`, which answers so.
    """

    def __init__(self, dispatcher: Dispatcher) -> None:
        from jsonrpcserver import JsonRpcError, Success, async_dispatch

        self._dispatch: Callable[..., Awaitable[Any]] = async_dispatch
        self._success: Callable[[Any], Any] = Success
        self._error: Callable[[int, str, Any], Exception] = JsonRpcError
        self._dispatcher = dispatcher
        self._methods: dict[object, Any] = {name: self._method(name) for name in dispatcher.names}
        self._methods[_REFUSED] = self._refuse

    async def answer(self, line: bytes, context: CallContext) -> bytes:
        message = _Message(line, context)
        reply: bytes | str = await self._dispatch(
            line,
            self._methods,
            context=message,
            deserializer=message.deserialise,
            validator=message.validate,
            serializer=message.serialise,
        )
        return reply if isinstance(reply, bytes) else b""  # its word for no reply is an empty text

    def _method(self, name: str) -> Callable[..., Awaitable[Any]]:
        async def method(message: _Message, envelope: Envelope) -> Any:
            try:
                result = await self._dispatcher.perform(name, bytes(envelope.params), message.context, message.turns)
                message.take_room(len(result))
            except ChimeraError as error:
                if not envelope.id:
                    log.warning("a notification of %s failed: %s", name, error.kind)
                raise self._as_theirs(error) from None
            return self._success(msgspec.Raw(result))

        return method

    async def _refuse(self, message: _Message, error: ChimeraError) -> Any:  # noqa: ARG002
        raise self._as_theirs(error)

    def _as_theirs(self, error: ChimeraError) -> Exception:
        shown = error_object(error)
        return self._error(shown["code"], shown["message"], shown["data"])


class _Refused:
    """Names no method that a caller could name."""


_REFUSED = _Refused()


class _Message:
    """One line on its way through the library: what it decodes to, what is wrong with it, and its reply's bytes."""

    def __init__(self, line: bytes, context: CallContext) -> None:
        self.context = context
        self.turns: Turns | None = None
        self._is_batch = line.lstrip(b" \t\r\n")[:1] == b"["
        self._refusal: ChimeraError | None = None
        self._room = MAX_RESULT_BYTES

    def deserialise(self, line: bytes) -> object:
        try:
            if not self._is_batch:
                return _as_call(line)
            members = read_batch(line)
        except ChimeraError as error:
            self._refusal = error
            if isinstance(error, InvalidRequest):
                return {}  # it is JSON: the verdict is the validator's
            raise
        self.turns = Turns()
        self._room = MAX_LINE_BYTES - len(members) * _BYTES_BESIDE_A_RESULT
        return [_member(member) for member in members]

    def validate(self, message: object) -> None:  # noqa: ARG002
        if self._refusal is not None:
            raise self._refusal

    def take_room(self, size: int) -> None:
        """Raises TooLarge when the results so far leave no room for this one in the reply's line."""
        if size > self._room:
            raise TooLarge("the answers of this batch do not fit in one line; ask for less in one batch")
        self._room -= size

    def serialise(self, reply: Any) -> bytes:
        for answer in reply if isinstance(reply, list) else [reply]:
            if "error" in answer:
                answer["error"] = self._in_our_words(answer["error"])
        return _encode(reply)

    def _in_our_words(self, error: dict[str, Any]) -> dict[str, Any]:
        """The library's own errors, which have no kind, become ours."""
        data = error.get("data")
        if isinstance(data, dict) and "kind" in data:
            return error
        if self._refusal is not None:
            return error_object(self._refusal)
        if error["code"] == MethodNotFound.code:
            return error_object(MethodNotFound(f"there is no method {str(data)[:80]!r}; rpc.discover names them all"))
        return error_object(unexpected("the dispatch", RuntimeError(error["message"])))


def _as_call(text: bytes) -> dict[str, object]:
    """What the library works on; the params travel inside the envelope, undecoded."""
    envelope = read_envelope(text)
    check_params(envelope)
    call: dict[str, object] = {"method": envelope.method, "params": {"envelope": envelope}}
    if envelope.id:
        call["id"] = envelope.id
    return call


def _member(text: bytes) -> dict[str, object]:
    try:
        return _as_call(text)
    except ChimeraError as error:
        return {"method": _REFUSED, "params": {"error": error}, "id": None}

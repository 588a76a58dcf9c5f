"""The outside of a call: ``jsonrpc``, ``method``, ``params``, ``id``. Params and id stay the bytes they came as.

Judges a message by JSON-RPC 2.0 alone; which methods there are it does not know.
"""

from __future__ import annotations

import re
from typing import Literal

import msgspec

from chimera.errors import InvalidRequest, ParseError
from chimerad.rpc.replies import MAX_ID_BYTES

__all__ = ["Envelope", "check_id", "check_params", "read_batch", "read_envelope", "require_utf8"]

MAX_BATCH = 1000

_INTEGER = re.compile(rb"-?\d+\Z")


class Envelope(msgspec.Struct, frozen=True, forbid_unknown_fields=True, gc=False):
    """One call. ``params`` is an object, an array, or empty for none; a call whose id is empty wants no answer."""

    jsonrpc: Literal["2.0"]
    method: str
    params: msgspec.Raw = msgspec.Raw(b"")
    id: msgspec.Raw = msgspec.Raw(b"")


_decode_envelope = msgspec.json.Decoder(Envelope).decode
_decode_members = msgspec.json.Decoder(list[msgspec.Raw]).decode
_decode_anything = msgspec.json.Decoder(msgspec.Raw).decode


def read_envelope(text: bytes) -> Envelope:
    """One message.

    Raises:
        ParseError: not UTF-8, or not JSON.
        InvalidRequest: JSON, and no JSON-RPC 2.0 request.
    """
    require_utf8(text)
    try:
        envelope = _decode_envelope(text)
    except msgspec.ValidationError as error:
        _require_json(text)  # the verdict may have come before the end of the line was seen
        raise InvalidRequest(
            f"not a JSON-RPC 2.0 request ({_cut(error)}); a call is an object with jsonrpc, method, params and id"
        ) from None
    except (msgspec.DecodeError, RecursionError) as error:
        raise _no_json(error) from None
    check_id(bytes(envelope.id))
    return envelope


def check_id(text: bytes) -> None:
    """A string, a whole number, null, or none at all; anything else could not be told from it in the answer.

    Raises:
        InvalidRequest.
    """
    if len(text) > MAX_ID_BYTES:
        raise InvalidRequest(f"the id is {len(text)} bytes long; at most {MAX_ID_BYTES} are allowed")
    if not text.isdigit() and text and text[:1] != b'"' and text != b"null" and not _INTEGER.match(text):
        raise InvalidRequest("the id must be a string or a whole number; without one the call gets no answer")


def check_params(envelope: Envelope) -> None:
    """Whether ``params`` is what JSON-RPC allows; decoding them as an object says so too.

    Raises:
        InvalidRequest: neither an object nor an array.
    """
    if envelope.params and memoryview(envelope.params)[0] not in b"{[":
        raise InvalidRequest("params must be an object that names each parameter")


def read_batch(text: bytes) -> list[bytes]:
    """The members of a batch, each as it came and not yet judged.

    Raises:
        ParseError: not UTF-8, or not JSON.
        InvalidRequest: empty, or over the limit.
    """
    require_utf8(text)
    try:
        members = _decode_members(text)
    except (msgspec.DecodeError, RecursionError) as error:
        raise _no_json(error) from None
    if not members:
        raise InvalidRequest("the batch is empty; give at least one call")
    if len(members) > MAX_BATCH:
        raise InvalidRequest(f"the batch has {len(members)} calls, over the limit of {MAX_BATCH}; send it in parts")
    return [bytes(member) for member in members]


def require_utf8(text: bytes) -> None:
    """Raises ParseError for what is not UTF-8; msgspec looks only at the texts that it decodes."""
    if text.isascii():
        return
    try:
        text.decode()
    except UnicodeDecodeError as error:
        raise ParseError(
            f"the line is not UTF-8 (byte {error.start}); send JSON in UTF-8, one message a line"
        ) from None


def _require_json(text: bytes) -> None:
    try:
        _decode_anything(text)
    except (msgspec.DecodeError, RecursionError) as error:
        raise _no_json(error) from None


def _no_json(error: Exception) -> ParseError:
    if isinstance(error, RecursionError):
        return ParseError("the line is nested too deeply to be read; an event may have at most 128 levels")
    return ParseError(f"the line is not JSON ({_cut(error)}); send one JSON message a line")


def _cut(error: Exception) -> str:
    text = str(error)
    return text if len(text) <= 200 else text[:197] + "..."

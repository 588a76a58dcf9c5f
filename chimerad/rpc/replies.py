"""The bytes of replies: JSON-RPC envelopes around results that are encoded already, and errors as objects.

A reply is one line without its newline and never longer than a line may be. Knows no method.
"""

from __future__ import annotations

from typing import Any

import msgspec

from chimera.errors import ChimeraError, TooLarge

__all__ = [
    "MAX_ERROR_BYTES",
    "MAX_ID_BYTES",
    "MAX_LINE_BYTES",
    "MAX_RESULT_BYTES",
    "NO_ID",
    "PROTOCOL",
    "encode_result",
    "error_object",
    "failure",
    "success",
]

PROTOCOL = 1
"""What clients and daemon agree on; raised when something is renamed or taken away."""

MAX_LINE_BYTES = 16 * 1024 * 1024
MAX_ID_BYTES = 1024
MAX_RESULT_BYTES = MAX_LINE_BYTES - MAX_ID_BYTES - 1024
"""What fits in a line beside the envelope and the id."""

MAX_ERROR_BYTES = 8 * 1024
"""An error with longer details (a gap of ten thousand numbers) is sent with its kind alone."""

MAX_MESSAGE_CHARACTERS = 1000

NO_ID = b"null"
"""The id of an answer to a message whose own id could not be read (JSON-RPC 2.0, section 5)."""

_encode = msgspec.json.Encoder().encode


def success(result: bytes, request_id: bytes) -> bytes:
    return b'{"jsonrpc":"2.0","result":%b,"id":%b}' % (result, request_id)


def failure(error: ChimeraError, request_id: bytes) -> bytes:
    return b'{"jsonrpc":"2.0","error":%b,"id":%b}' % (_encode(error_object(error)), request_id)


def encode_result(result: object) -> bytes:
    """JSON of what a method answers.

    Raises:
        TooLarge: it does not fit in one line.
    """
    body = _encode(result)
    if len(body) > MAX_RESULT_BYTES:
        raise TooLarge(
            f"the answer is {len(body)} bytes long, over the {MAX_LINE_BYTES} of a line; read it in pages "
            "(sessions.read with from_seq and limit, sessions.list with limit and cursor)"
        )
    return body


def error_object(error: ChimeraError) -> dict[str, Any]:
    """The ``error`` member of a reply, bounded."""
    shown = error.to_rpc()
    if len(error.message) > MAX_MESSAGE_CHARACTERS:
        shown["message"] = error.message[:MAX_MESSAGE_CHARACTERS] + "..."
    if error.details and len(_encode(shown)) > MAX_ERROR_BYTES:
        shown["data"] = {"kind": error.kind, "details_left_out": True}
    return shown

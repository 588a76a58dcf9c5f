"""The hash chain over the records of a log, and the one place where a record's bytes are made.

A record is one compact JSON object without its newline. ``chain`` is its last member and hashes the chain
before it with the record's own bytes up to ``,"chain"`` (BLAKE2b, 64 bits, as 16 hex digits). The bytes are
final: nothing decodes a record to write it again. Knows no file.
"""

from __future__ import annotations

import re
from hashlib import blake2b

__all__ = ["CHAIN_START", "chain_of_record", "encode_record", "link", "stated_chain"]

CHAIN_START = b"0" * 16
"""The chain before the first event."""

_CHAIN_TAIL = re.compile(rb',"chain":"([0-9a-f]{16})"\}\Z')
_fresh_digest = blake2b(digest_size=8).copy  # a copy is made in a fifth of the time of a new one
_CHAIN_TAIL_LENGTH = len(b',"chain":"0123456789abcdef"}')


def link(previous: bytes, body: bytes) -> bytes:
    """The chain after ``body``: 16 hex digits of BLAKE2b-64 over the previous chain and the bytes."""
    digest = _fresh_digest()
    digest.update(previous + body)
    return digest.hexdigest().encode()


def encode_record(
    seq: int,
    event_id: str,
    parent_id: str | None,
    event_type: str,
    ts: str,
    metadata: bytes | memoryview,
    previous: bytes,
) -> tuple[bytes, bytes]:
    """The record of one event, without newline, and its chain.

    ``metadata`` is JSON that was checked already and is carried as it came; ids, type and ts must have been
    checked too (chimera.identifiers), for they are written between quotes as they are.
    """
    parent = "null" if parent_id is None else f'"{parent_id}"'
    head = (
        f'{{"seq":{seq},"id":"{event_id}","parent_id":{parent},"type":"{event_type}","ts":"{ts}","metadata":'
    ).encode()
    digest = _fresh_digest()
    digest.update(previous + head)
    digest.update(metadata)
    chain = digest.hexdigest().encode()
    return b"".join((head, metadata, b',"chain":"', chain, b'"}')), chain


def stated_chain(record: bytes) -> bytes | None:
    """The chain that a record says it has, as 16 hex digits; None for a record that is not ours."""
    match = _CHAIN_TAIL.match(record, len(record) - _CHAIN_TAIL_LENGTH) if record.endswith(b'"}') else None
    return match.group(1) if match else None


def chain_of_record(previous: bytes, record: bytes) -> bytes:
    """The chain after a record that follows ``previous``.

    A record with a chain counts with its bytes up to ``,"chain"``; one without counts with its bytes as they lie.
    Equal to :func:`stated_chain` if and only if the record is whole and in its place.
    """
    if stated_chain(record) is None:
        return link(previous, record)
    return link(previous, record[:-_CHAIN_TAIL_LENGTH])

"""A store full of finished sessions, made without a daemon: ``python -m tests.bench.corpus COUNT ROOT``.

Each session is a folder with a ``summary.json`` of about 590 bytes and an ``events.jsonl`` of two chained events,
as the documented layout has them. The same arguments give the same bytes. Nothing is synced.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable, Iterator

from chimera.events.chain import CHAIN_START, encode_record
from chimera.flavours import FLAVOURS

__all__ = ["build_corpus", "realistic_metadata", "session_name", "write_event_log", "write_session"]

_FIRST_DAY = 1_767_225_600
"""2026-01-01T00:00:00Z."""
_MODELS = ("haiku-4", "sonnet-4", "opus-4", "glm-5", "gpt-5")
_FLAVOURS = tuple(FLAVOURS)

_SUMMARY = b"""{
  "session_id": "%(name)b",
  "run_id": "%(name)b",
  "agent": "%(flavour)b",
  "model": "%(model)b",
  "prompt": "Find out why test number %(number)d of the suite fails and repair it",
  "cwd": "/home/somebody/projects/project-%(project)d",
  "started_at": "%(started)b",
  "ended_at": "%(ended)b",
  "steps": %(steps)d,
  "tool_calls_total": %(calls)d,
  "success": %(success)b,
  "cost_usd": 0.%(cost)06d,
  "total_tokens": %(tokens)d,
  "error": null,
  "input_tokens": %(tokens)d,
  "output_tokens": %(calls)d,
  "cost_source": "provider",
  "layout": "jsonl"
}"""


def session_name(number: int) -> str:
    """The id of session ``number``: the flavours take turns, one session starts every minute."""
    started = time.strftime("%Y%m%dT%H%M%S", time.gmtime(_FIRST_DAY + number * 60))
    return f"{_FLAVOURS[number % len(_FLAVOURS)]}-{started}-{number:08x}"


def write_session(root: str, number: int) -> str:
    """One session folder; its name."""
    name = session_name(number)
    folder = os.path.join(root, name)
    os.mkdir(folder, 0o700)
    started = time.gmtime(_FIRST_DAY + number * 60)
    ended = time.gmtime(_FIRST_DAY + number * 60 + 45)
    summary = _SUMMARY % {
        b"name": name.encode(),
        b"flavour": name.split("-")[0].encode(),
        b"model": _MODELS[number % len(_MODELS)].encode(),
        b"number": number,
        b"project": number % 37,
        b"started": time.strftime("%Y-%m-%dT%H:%M:%SZ", started).encode(),
        b"ended": time.strftime("%Y-%m-%dT%H:%M:%SZ", ended).encode(),
        b"steps": number % 11,
        b"calls": number % 23,
        b"success": b"true" if number % 5 else b"false",
        b"cost": number * 37 % 1_000_000,
        b"tokens": number * 7 % 40_000,
    }
    _write(os.path.join(folder, "summary.json"), summary)
    events = [
        ("user_message", b'{"content":"Find out why test number %d of the suite fails and repair it"}' % number),
        ("agent_result", b'{"output":"The fixture was shared; test %d passes now.","steps":1,"success":true}' % number),
    ]
    ts = time.strftime("%Y-%m-%dT%H:%M:%S.000Z", started)
    _write(os.path.join(folder, "events.jsonl"), b"".join(_lines(events, ts)))
    return name


def build_corpus(root: str, count: int, first: int = 0) -> list[str]:
    """``count`` session folders under ``root``, which is made where it is missing; their names."""
    os.makedirs(root, mode=0o700, exist_ok=True)
    return [write_session(root, number) for number in range(first, first + count)]


def write_event_log(folder: str, count: int) -> int:
    """One long session with ``count`` events of about 1.2 KB in ``events.jsonl``; the bytes of its records."""
    os.makedirs(folder, mode=0o700, exist_ok=True)
    texts = realistic_metadata()
    events = (("tool_result", next(texts)) for _ in range(count))
    body = b"".join(_lines(events, "2026-01-01T00:00:00.000Z"))
    _write(os.path.join(folder, "events.jsonl"), body)
    return len(body) - count


def realistic_metadata(size: int = 1024) -> Iterator[bytes]:
    """Metadata of ``size`` bytes each, as a Read tool leaves it: program text, none of it twice in a row.

    Taken from the standard library of the running Python, so that a compressor meets what it would meet.
    """
    folder = os.path.dirname(os.__file__)
    while True:
        for name in sorted(os.listdir(folder)):
            if not name.endswith(".py"):
                continue
            with open(os.path.join(folder, name), encoding="utf-8") as source:
                text = source.read()
            yield from _pieces(name, text, size)


def _pieces(name: str, text: str, size: int) -> Iterator[bytes]:
    shell = b'{"tool":"Read","args":{"path":"%b"},"result":"%%b"}' % name.encode()
    room = size - len(shell) + 2
    escaped = text.replace("\\", "/").replace('"', "'").replace("\n", "\\n").replace("\t", " ")
    plain = escaped.encode("ascii", "replace")
    for start in range(0, len(plain) - room, room):
        piece = plain[start : start + room]
        if piece.endswith(b"\\"):
            piece = piece[:-1] + b"."
        if piece.startswith(b"n") and plain[start - 1 : start] == b"\\":
            piece = b"." + piece[1:]
        if piece.isascii() and not any(byte < 32 for byte in piece):
            yield shell % piece


def _lines(events: Iterable[tuple[str, bytes]], ts: str) -> Iterator[bytes]:
    previous = CHAIN_START
    parent: str | None = None
    for seq, (event_type, metadata) in enumerate(events, 1):
        event_id = f"evt-{seq:016x}"
        record, previous = encode_record(seq, event_id, parent, event_type, ts, metadata, previous)
        parent = event_id
        yield record + b"\n"


def _write(path: str, body: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        os.write(descriptor, body)
    finally:
        os.close(descriptor)


if __name__ == "__main__":
    began = time.perf_counter()
    build_corpus(sys.argv[2], int(sys.argv[1]))
    print(f"{int(sys.argv[1]):,} sessions in {time.perf_counter() - began:.1f} s under {sys.argv[2]}")

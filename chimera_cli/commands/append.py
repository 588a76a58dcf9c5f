"""``chimera append ID [--type TYPE] [JSON|-]``: the simplest way for a script to journal.

A stream is sent in calls of many events, one call on its way while the next lines are read. One, because the order
of the lines is the order of the events: a call that is refused must not be overtaken by the next. What waits in
memory is bounded.
"""

from __future__ import annotations

import os
import sys
from collections import deque

from chimera.client.blocking import Client
from chimera.client.protocol import encode_json
from chimera.errors import (
    ChimeraError,
    EventTooLarge,
    IdConflict,
    InvalidId,
    InvalidParams,
    SessionExists,
    SessionNotFound,
    TooLarge,
)
from chimera.identifiers import check_event_type, check_session_id, new_event_id
from chimera_cli.given import on_one_line, parse_json, standard_input
from chimera_cli.output import note, write

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from typing import Any

    from chimera.client.blocking import PendingAppend

    Batch = list[tuple[int, bytes]]

__all__ = ["add_arguments", "run"]

CALL_EVENTS = 256
CALL_BYTES = 1024 * 1024
QUEUE_BYTES = 4 * 1024 * 1024
"""Lines that are read ahead while a call is on its way."""

LINE_BYTES = 8 * 1024 * 1024 + 4096
"""An event has at most 8 MiB; a line that is longer by more than its envelope need not be read to its end."""

_READ_BYTES = 256 * 1024
_ABOUT_ONE_EVENT = (InvalidParams, InvalidId, EventTooLarge, TooLarge, IdConflict)

EXAMPLES = """\
examples:
  chimera append ID --type user_message '{"content":"hello"}'
  chimera append ID '{"type":"tool_call","metadata":{"tool":"Read","args":{"path":"README.md"}}}'
  tool --events | chimera append ID                    one event a line: {"type":...,"metadata":{...}}
  jq -c .usage log.jsonl | chimera append ID --type step_end       one metadata object a line
  chimera append mink-import-1 --create --seq < events.jsonl

An event is acknowledged when it is on the disk. Lines are appended in their order; a bad one is named by its
number, and everything before it has been appended.
"""


def add_arguments(subparsers: argparse._SubParsersAction[Any]) -> None:
    parser = subparsers.add_parser(
        "append",
        description="Append events to a session: one, given as JSON, or JSON lines from standard input.",
        epilog=EXAMPLES,
    )
    parser.add_argument("session_id", metavar="ID", help="the session")
    parser.add_argument("json", metavar="JSON", nargs="?", help="one event; - or nothing: lines of standard input")
    parser.add_argument("--type", metavar="TYPE", help="the type of every event; the JSON is then its metadata alone")
    parser.add_argument("--create", action="store_true", help="begin the session if there is none of that name")
    parser.add_argument("--seq", action="store_true", help="print the number of each event once it is acknowledged")
    parser.add_argument("--buffered", action="store_true", help="do not wait for the disk: a power cut may lose events")


def run(arguments: Any) -> int:
    check_session_id(arguments.session_id)
    if arguments.type is not None:
        check_event_type(arguments.type)
    with Client(arguments.socket, arguments.home) as client:
        journal = _Journal(client, arguments)
        if arguments.json in (None, "-"):
            _stream(journal, _Lines(standard_input(), arguments.type))
        else:
            journal.finish(journal.begin([(0, _event(arguments.json, arguments.type))]))
    return 0


def _stream(journal: _Journal, lines: _Lines) -> None:
    """Until the input ends or a line is bad: one call on its way, the next lines read meanwhile."""
    import select

    if sys.stdin.isatty():
        note("reading one JSON object a line; Ctrl-D ends")
    on_its_way: _Call | None = None
    while True:
        if on_its_way is None and lines.waiting:
            on_its_way = journal.begin(lines.take())
        if on_its_way is None and lines.ended:
            break
        sources = [lines.descriptor] if lines.wants_more() else []
        if on_its_way is not None:
            if (answers := journal.client.fileno()) < 0:  # it could not be sent; `finish` sees to that
                sources = []
            else:
                sources.append(answers)
        ready = select.select(sources, [], [])[0] if sources else []
        if lines.descriptor in ready:
            lines.read()
        if on_its_way is not None and (not sources or answers in ready):
            journal.finish(on_its_way)
            on_its_way = None
    if lines.problem is not None:
        raise lines.problem


class _Call:
    """Events on their way, each with the number of its line (0: it was an argument)."""

    def __init__(self, batch: Batch, pending: PendingAppend) -> None:
        self.batch = batch
        self.pending = pending


class _Journal:
    """Appends batches to one session, and says what came of them."""

    def __init__(self, client: Client, arguments: Any) -> None:
        self.client = client
        self._session_id: str = arguments.session_id
        self._durability = "buffered" if arguments.buffered else "durable"
        self._create: bool = arguments.create
        self._prints: bool = arguments.seq
        self._appended_up_to = 0

    def begin(self, batch: Batch) -> _Call:
        events = [event for _, event in batch]
        return _Call(batch, self.client.begin_append(self._session_id, events, durability=self._durability))

    def finish(self, call: _Call) -> None:
        """Wait for the answer; raises the error of the first event that was refused, after appending those before."""
        try:
            result = call.pending.wait()
        except SessionNotFound:
            if not self._create:
                raise
            self._create_session()
            self.finish(self.begin(call.batch))
        except ChimeraError as error:
            if len(call.batch) == 1 or not isinstance(error, _ABOUT_ONE_EVENT):
                raise self._located(error, call.batch[0][0]) from error
            for numbered in call.batch:  # a call is all or nothing: find the one
                self.finish(self.begin([numbered]))
        else:
            self._appended_up_to = call.batch[-1][0]
            self._print(result)

    def _create_session(self) -> None:
        import contextlib

        from chimera.flavours import origin_of

        self._create = False
        flavour = origin_of(self._session_id)
        named = {"flavour": flavour} if flavour else {}
        with contextlib.suppress(SessionExists):  # somebody else was faster
            self.client.call("sessions.create", session_id=self._session_id, **named)

    def _located(self, error: ChimeraError, number: int) -> ChimeraError:
        if number and isinstance(error, _ABOUT_ONE_EVENT):
            error.message = f"line {number}: {error.message}"
        elif self._appended_up_to:
            error.message += f" (the lines up to {self._appended_up_to} are appended)"
        return error

    def _print(self, result: dict[str, Any]) -> None:
        if not self._prints:
            return
        try:
            write("".join(f"{seq}\n" for seq in range(result["first_seq"], result["last_seq"] + 1)))
            if sys.stdout is not None:
                sys.stdout.flush()
        except BrokenPipeError:
            self._prints = False  # nobody reads the numbers any more; the events still want to be journalled


class _Lines:
    """Events from the lines of a descriptor; what waits is bounded."""

    def __init__(self, descriptor: int, event_type: str | None) -> None:
        self.descriptor = descriptor
        self.waiting: deque[tuple[int, bytes]] = deque()
        self.ended = False
        self.problem: ChimeraError | None = None
        self._type = event_type
        self._bytes = 0
        self._number = 0
        self._parts: list[bytes] = []
        self._held = 0

    def wants_more(self) -> bool:
        return not self.ended and self._bytes < QUEUE_BYTES

    def take(self) -> Batch:
        """The next events that go into one call; at least one."""
        batch: Batch = []
        size = 0
        while self.waiting and len(batch) < CALL_EVENTS and (not batch or size + len(self.waiting[0][1]) <= CALL_BYTES):
            batch.append(self.waiting.popleft())
            size += len(batch[-1][1])
        self._bytes -= size
        return batch

    def read(self) -> None:
        """What the descriptor has now; the first line that is no event ends the reading."""
        chunk = os.read(self.descriptor, _READ_BYTES)
        *whole, rest = chunk.split(b"\n")
        if whole or not chunk:
            self._parts.append(whole[0] if whole else b"")
            lines = [b"".join(self._parts), *whole[1:]]
            self._parts, self._held = [], 0
        else:
            lines = []
        if rest:
            self._parts.append(rest)
            self._held += len(rest)
        try:
            for line in lines:
                self._add(line)
            if self._held > LINE_BYTES:
                raise EventTooLarge(f"line {self._number + 1}: it is longer than an event may be, which is 8 MiB")
        except ChimeraError as error:
            self.problem = error
            self.ended = True
        self.ended = self.ended or not chunk

    def _add(self, line: bytes) -> None:
        self._number += 1
        if not line.strip():
            return
        try:
            event = _event(line.decode("utf-8"), self._type)
        except UnicodeDecodeError as error:
            raise InvalidParams(f"line {self._number}: it is not UTF-8: {error.reason}") from None
        except ChimeraError as error:
            error.message = f"line {self._number}: {error.message}"
            raise
        self.waiting.append((self._number, event))
        self._bytes += len(event)


def _event(text: str, event_type: str | None) -> bytes:
    """One event as JSON with an id of ours, unless it has one, around the bytes as they were given."""
    value = parse_json(text)
    if not isinstance(value, dict):
        what = "an event" if event_type is None else "the metadata of an event"
        raise InvalidParams(f"{what} must be a JSON object")
    given = on_one_line(text.strip())
    if event_type is not None:
        return b'{"id":"%b","type":"%b","metadata":%b}' % (new_event_id().encode(), event_type.encode(), given)
    if not isinstance(value.get("type"), str):
        raise InvalidParams('an event needs a "type"; with --type TYPE the JSON is its metadata alone')
    if value.get("id") is not None:
        return given
    if "id" in value:
        return encode_json({**value, "id": new_event_id()}).encode()
    return b'{"id":"%b",%b' % (new_event_id().encode(), given[1:])

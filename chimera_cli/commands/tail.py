"""``chimera tail [ID]``: what happens in a session, or in all of them, as it happens, until Ctrl-C."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import TYPE_CHECKING, Any

from chimera.client.following import EVERY_SESSION, TailEvent
from chimera.client.streaming import AsyncClient
from chimera.errors import ChimeraError, InvalidParams
from chimera.identifiers import check_session_id
from chimera_cli.output import can_colour, note, terminal_width, write
from chimera_cli.text import cut, one_line

if TYPE_CHECKING:
    import argparse

__all__ = ["add_arguments", "run"]

DIM, BOLD, PLAIN = "\x1b[2m", "\x1b[1m", "\x1b[0m"

EXAMPLES = """\
examples:
  chimera tail ID                           from now on
  chimera tail ID --from 1                  from the first event on, then live
  chimera tail --json | jq -c .event        every session, as JSON lines

It goes on when the daemon is restarted, from where it was. Ctrl-C ends it.
"""


def add_arguments(subparsers: argparse._SubParsersAction[Any]) -> None:
    parser = subparsers.add_parser(
        "tail", description="Follow a session live; without an ID, all of them.", epilog=EXAMPLES
    )
    parser.add_argument("session_id", metavar="ID", nargs="?", help="the session; none: every session")
    parser.add_argument("--from", dest="from_seq", type=int, metavar="SEQ", help="the first event to show; 1: all")
    parser.add_argument("--json", action="store_true", help="one object a line: session_id, generation, event")


def run(arguments: Any) -> int:
    session_id = EVERY_SESSION if arguments.session_id in (None, EVERY_SESSION) else arguments.session_id
    if session_id != EVERY_SESSION:
        check_session_id(session_id)
    if arguments.from_seq is not None:
        if session_id == EVERY_SESSION:
            raise InvalidParams("--from needs the ID of one session; all sessions are followed from now on")
        if arguments.from_seq < 1:
            raise InvalidParams("--from must be the number of an event, from 1 on")
    asyncio.run(_follow(arguments, session_id))
    return 0


async def _follow(arguments: Any, session_id: str) -> None:
    show = _show_json if arguments.json else _Lines(with_session=session_id == EVERY_SESSION).show
    async with AsyncClient(arguments.socket, arguments.home) as client:
        since = None
        if arguments.from_seq is not None:
            page = await client.call("sessions.read", session_id=session_id, from_seq=arguments.from_seq, limit=1)
            since = {"generation": page["generation"], "seq": arguments.from_seq - 1}
        async for seen in client.tail(session_id, since, on_lost=_say_lost):
            show(seen)
            if sys.stdout is not None:
                sys.stdout.flush()


def _say_lost(error: ChimeraError) -> None:
    note(f"the daemon has gone ({error.message}); waiting for it to come back")


def _show_json(seen: TailEvent) -> None:
    line = {"session_id": seen.session_id, "generation": seen.generation, "event": seen.event}
    write(json.dumps(line, separators=(",", ":")) + "\n")


class _Lines:
    """Events for a person: one line each, cut at the edge of a terminal, whole in a pipe."""

    def __init__(self, *, with_session: bool) -> None:
        self._with_session = with_session
        self._colour = can_colour()

    def show(self, seen: TailEvent) -> None:
        if seen.new_generation:
            note(f"the history of {seen.session_id} was replaced; what follows is from its beginning")
        event = seen.event
        head = f"{event['ts'][11:19] or '        '}  "
        if self._with_session:
            head += f"{one_line(seen.session_id)}  "
        head += f"{event['seq']:>5}  "
        name = event["type"]
        text = one_line(_text(event["metadata"]))
        if width := terminal_width():
            text = cut(text, max(width - len(head) - len(name) - 2, 10))
        write(f"{DIM}{head}{PLAIN}{BOLD}{name}{PLAIN}  {text}\n" if self._colour else f"{head}{name}  {text}\n")


def _text(metadata: dict[str, Any]) -> str:
    """What an event says, in the words of whoever wrote it; else its metadata."""
    for key in ("content", "text", "output", "message"):
        if isinstance(metadata.get(key), str):
            return str(metadata[key])
    if isinstance(metadata.get("tool"), str):
        rest = metadata.get("args", metadata.get("result", {}))
        return f"{metadata['tool']} {json.dumps(rest, ensure_ascii=False)}"
    return json.dumps(metadata, ensure_ascii=False) if metadata else ""

"""``chimera sessions``, ``chimera <flavour> sessions`` and ``chimera mink runs``: list the sessions, show one.

Parses, asks (session_source) and prints (tables, detail); the texts of errors are those each family has always had.
"""

from __future__ import annotations

import argparse
import json
from typing import Any, NamedTuple

from chimera.errors import EXIT_OK, EXIT_USAGE, ChimeraError, InvalidId, MalformedSummary, NoSummary, SessionNotFound
from chimera.flavours import FLAVOURS, Flavour
from chimera.sessions.since import since_microseconds
from chimera_cli.detail import EVENTS_SHOWN, session_text
from chimera_cli.output import can_colour, note, terminal_width, write
from chimera_cli.session_source import SessionSource
from chimera_cli.tables import session_table

__all__ = ["add_arguments", "run"]

ALL_LIMIT = 20
"""How many rows ``chimera sessions list`` shows unasked."""

EVERYTHING = Flavour("", "", "sessions", "all", ("list", "show"), ALL_LIMIT, 0)
"""What ``chimera sessions`` is, seen as one more flavour: all of them."""


class _Words(NamedTuple):
    """How a family speaks of its sessions."""

    noun: str
    placeholder: str
    heading: str


WORDS = {"mink": _Words("run", "RUN_ID", "runs")}
SESSION_WORDS = _Words("session", "SESSION_ID", "sessions")


class _Refused(Exception):
    """A usage error that was told already."""


def add_arguments(subparsers: Any) -> None:
    """Declare ``sessions`` and the seven flavours."""
    summary = "list the sessions of all flavours, or show one"
    _declare(subparsers, "sessions", EVERYTHING, summary)
    for flavour in FLAVOURS.values():
        parser = subparsers.add_parser(flavour.name, help=f"{flavour.name}'s {flavour.verb}")
        parser.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="print JSON")
        verbs = parser.add_subparsers(metavar="COMMAND", required=True)
        _declare(verbs, flavour.verb, flavour, f"list {flavour.name}'s {flavour.verb}, or show one")


def run(arguments: argparse.Namespace) -> int:
    flavour: Flavour = arguments.flavour
    try:
        if arguments.action == "list" and arguments.session_id is None:
            return _list(arguments, flavour)
        if arguments.action == "show":
            return _show(arguments, flavour)
        return _refuse_action(arguments, flavour)
    except _Refused:
        return EXIT_USAGE


def _declare(subparsers: Any, verb: str, flavour: Flavour, summary: str) -> None:
    command = " ".join(part for part in ("chimera", flavour.name, verb) if part)
    words = WORDS.get(flavour.family, SESSION_WORDS)
    parser = subparsers.add_parser(
        verb,
        help=summary,
        description=f"{summary[0].upper()}{summary[1:]}. Without an action: list.",
        usage=f"{command} [list] [options] | {command} show {words.placeholder} [options]",
        epilog=f"examples:\n  {command} list --since 7d\n  {command} list --json | jq '.[].session_id'\n"
        f"  {command} show {flavour.name or 'otter'}-20260425T091201-71032a5e --full",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.free_order = True
    parser.set_defaults(flavour=flavour)
    parser.add_argument("action", nargs="?", default="list", help="list or show")
    parser.add_argument("session_id", nargs="?", metavar=words.placeholder, help="what to show: the name of its folder")
    listing = parser.add_argument_group("list")
    limit = str(flavour.list_limit or "all")
    listing.add_argument(
        "--limit", "--sessions-limit", dest="limit", type=int, metavar="N", help=f"at most N, 0: all (default: {limit})"
    )
    listing.add_argument("--since", metavar="WHEN", help="started at WHEN or later: 30m, 24h, 7d, 2w or 2026-04-01")
    listing.add_argument(
        "--model", "--sessions-model", "--runs-model", dest="model", metavar="NAME", help="of exactly this model"
    )
    listing.add_argument("--success-only", action="store_true", help="only those that succeeded")
    listing.add_argument("--failed-only", action="store_true", help="only those that did not")
    if flavour.name:
        listing.add_argument("--all-clis", action="store_true", help="of all flavours, with a column for the origin")
    showing = parser.add_argument_group("show")
    showing.add_argument("--full", action="store_true", help=f"every event in full, not the first {EVENTS_SHOWN} cut")
    showing.add_argument("--events", action=argparse.BooleanOptionalAction, default=True, help="print the events")
    parser.add_argument(
        "--json", "--sessions-json", dest="json", action="store_true", default=argparse.SUPPRESS, help="print JSON"
    )
    parser.add_argument("--no-color", "--no-rich", dest="no_color", action="store_true", help="never use colours")


def _list(arguments: argparse.Namespace, flavour: Flavour) -> int:
    _check_since(arguments.since, flavour)
    every = not flavour.name or arguments.all_clis
    limit = flavour.list_limit if arguments.limit is None else max(arguments.limit, 0)
    success = True if arguments.success_only else False if arguments.failed_only else None
    records = SessionSource(arguments.home, arguments.socket).list(
        flavour=None if every else flavour.name,
        since=arguments.since,
        model=arguments.model,
        success=success,
        limit=limit,
    )
    if _wants_json(arguments):
        write(json.dumps(records, indent=2) + "\n")
        return EXIT_OK
    write(
        session_table(
            records,
            family=flavour.family,
            flavour=flavour.name,
            origin=every,
            width=terminal_width(),
            colour=can_colour() and not arguments.no_color,
        )
    )
    return EXIT_OK


def _show(arguments: argparse.Namespace, flavour: Flavour) -> int:
    session_id = arguments.session_id
    if not session_id:
        return _refuse_missing_id(flavour)
    source = SessionSource(arguments.home, arguments.socket)
    try:
        detail = source.detail(session_id)
    except (SessionNotFound, NoSummary, MalformedSummary, InvalidId) as error:
        return _refuse_session(flavour, session_id, error, source.root)
    events = _WatchedEvents(source.events(detail))
    if _wants_json(arguments):
        _write_json(detail, events)
    else:
        _write_text(detail, events, flavour, arguments)
    if events.missing:
        numbers = ", ".join(map(str, events.missing[:20])) + (", …" if len(events.missing) > 20 else "")
        note(f"warning: events are missing from the log of {session_id}: {numbers}")
    return EXIT_OK


class _WatchedEvents:
    """The events as they come, and the numbers that did not."""

    def __init__(self, events: Any) -> None:
        self._events = events
        self.missing: list[int] = []

    def __iter__(self) -> Any:
        expected = 1
        for event in self._events:
            self.missing += range(expected, event["seq"])
            expected = max(expected, event["seq"] + 1)
            yield event


def _write_text(
    detail: dict[str, Any], events: _WatchedEvents, flavour: Flavour, arguments: argparse.Namespace
) -> None:
    shown: list[dict[str, Any]] = []
    total = 0
    for event in events if arguments.events else ():
        total += 1
        if arguments.full or total <= EVENTS_SHOWN:
            shown.append(event)
    lines = session_text(detail, shown, total, family=flavour.family, full=arguments.full, with_events=arguments.events)
    for line in lines:
        write(line + "\n")


def _write_json(detail: dict[str, Any], events: _WatchedEvents) -> None:
    """The bytes of ``json.dumps(..., indent=2)``, written event by event: a session may be larger than memory."""
    head = json.dumps({name: detail[name] for name in ("session_id", "path", "summary")}, indent=2)
    write(head.removesuffix("\n}") + ',\n  "events": [')
    separator = "\n    "
    for event in events:
        write(separator + json.dumps(event, indent=2).replace("\n", "\n    "))
        separator = ",\n    "
    write("]\n}\n" if separator == "\n    " else "\n  ]\n}\n")


def _wants_json(arguments: argparse.Namespace) -> bool:
    return bool(getattr(arguments, "json", False))


def _check_since(since: str | None, flavour: Flavour) -> None:
    if since is None:
        return
    try:
        since_microseconds(since)
    except ValueError as error:
        _complain(flavour, "list", str(error))
        raise _Refused from None


def _complain(flavour: Flavour, action: str, message: str) -> None:
    prefix = f"{flavour.name} sessions {action}".rstrip() if flavour.family == "stoat" else "error"
    note(f"{prefix}: {message}")


def _refuse_action(arguments: argparse.Namespace, flavour: Flavour) -> int:
    supported = ", ".join(flavour.actions)
    if arguments.action in flavour.actions:
        _complain(flavour, arguments.action, f"unexpected argument {arguments.session_id!r}")
    elif flavour.family == "stoat":
        _complain(flavour, "", f"unknown action {arguments.action!r} (supported: {supported})")
    else:
        _complain(flavour, "", f"unknown {flavour.verb!r} action: {arguments.action!r} (supported: {supported})")
    return EXIT_USAGE


def _refuse_missing_id(flavour: Flavour) -> int:
    command = f"{flavour.name} {flavour.verb}".strip()
    words = WORDS.get(flavour.family, SESSION_WORDS)
    if flavour.family == "stoat":
        _complain(flavour, "show", "missing session id")
    else:
        see = "" if flavour.family == "badger" else f" (see '{command} list' for available ids)"
        _complain(flavour, "show", f"'{command} show' requires a {words.placeholder} argument{see}.")
    return EXIT_USAGE


def _refuse_session(flavour: Flavour, session_id: str, error: ChimeraError, root: str) -> int:
    """Why a session cannot be shown, as the family says it; a path trick or a torn summary as we say it."""
    words = WORDS.get(flavour.family, SESSION_WORDS)
    quoted = f"'{session_id}'" if flavour.family in ("mink", "stoat") else session_id
    if isinstance(error, SessionNotFound):
        message = f"{words.noun} not found: {session_id}"
    elif isinstance(error, NoSummary):
        aborted = " (did the run abort early?)" if flavour.family == "mink" else ""
        message = f"{words.noun} {quoted} has no summary.json{aborted}"
    else:
        message = error.message
    _complain(flavour, "show", message)
    if flavour.family not in ("stoat", "badger"):
        command = " ".join(part for part in ("chimera", flavour.name, flavour.verb, "list") if part)
        note(f"hint: list available {words.heading} with '{command}' (eventlog root: {root})")
    return error.exit_code

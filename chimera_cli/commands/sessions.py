"""``chimera sessions``, ``chimera <flavour> sessions`` and ``chimera mink runs``: list the sessions, show one.

Parses, asks (session_source) and prints (tables, detail); the texts of errors are those each family has always had.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from typing import Any, NamedTuple

from chimera.errors import EXIT_OK, EXIT_USAGE, ChimeraError, InvalidId, MalformedSummary, NoSummary, SessionNotFound
from chimera.flavours import FLAVOURS, Flavour
from chimera.sessions.since import since_microseconds
from chimera_cli.detail import EVENTS_SHOWN, session_text
from chimera_cli.listing import ALL_LIMIT, print_list
from chimera_cli.output import note, write
from chimera_cli.session_source import SessionSource

__all__ = ["add_arguments", "run"]

GAPS_NAMED = 20

EVERYTHING = Flavour("", "", "sessions", "all", ("list", "show"), ALL_LIMIT, 0)
"""What ``chimera sessions`` is, seen as one more flavour: all of them."""


class _Words(NamedTuple):
    """How a family speaks of its sessions."""

    noun: str
    placeholder: str
    heading: str


WORDS = {"mink": _Words("run", "RUN_ID", "runs")}
SESSION_WORDS = _Words("session", "SESSION_ID", "sessions")


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
    if arguments.action == "list" and arguments.session_id is None:
        return _list(arguments, flavour)
    if arguments.action == "show":
        return _show(arguments, flavour)
    return _refuse_action(arguments, flavour)


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
    try:
        if arguments.since is not None:
            since_microseconds(arguments.since)
    except ValueError as error:
        return _refuse(flavour, "list", str(error))
    return print_list(
        SessionSource(arguments.home, arguments.socket),
        family=flavour.family,
        flavour=flavour.name,
        all_clis=not flavour.name or arguments.all_clis,
        since=arguments.since,
        model=arguments.model,
        success=True if arguments.success_only else False if arguments.failed_only else None,
        limit=arguments.limit,
        default_limit=flavour.list_limit,
        as_json=_wants_json(arguments),
        no_color=arguments.no_color,
    )


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
    if events.gaps:
        numbers = ", ".join(events.gaps[:GAPS_NAMED]) + (", …" if len(events.gaps) > GAPS_NAMED else "")
        note(f"warning: events are missing from the log of {session_id}: {numbers}")
    return EXIT_OK


class _WatchedEvents:
    """The events as they come, and the numbers between them that did not: ``4``, ``7-9``."""

    def __init__(self, events: Iterator[dict[str, Any]]) -> None:
        self._events = events
        self.gaps: list[str] = []

    def __iter__(self) -> Iterator[dict[str, Any]]:
        expected = 1
        for event in self._events:
            last_missing = event["seq"] - 1
            if expected <= last_missing:
                self.gaps.append(str(expected) if expected == last_missing else f"{expected}-{last_missing}")
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


def _refuse(flavour: Flavour, action: str, message: str) -> int:
    """Say what is wrong, with the prefix of the family."""
    prefix = f"{flavour.name} sessions {action}".rstrip() if flavour.family == "stoat" else "error"
    note(f"{prefix}: {message}")
    return EXIT_USAGE


def _refuse_action(arguments: argparse.Namespace, flavour: Flavour) -> int:
    supported = ", ".join(flavour.actions)
    if arguments.action in flavour.actions:
        return _refuse(flavour, arguments.action, f"unexpected argument {arguments.session_id!r}")
    if flavour.family == "stoat":
        return _refuse(flavour, "", f"unknown action {arguments.action!r} (supported: {supported})")
    return _refuse(flavour, "", f"unknown {flavour.verb!r} action: {arguments.action!r} (supported: {supported})")


def _refuse_missing_id(flavour: Flavour) -> int:
    if flavour.family == "stoat":
        return _refuse(flavour, "show", "missing session id")
    command = f"{flavour.name} {flavour.verb}".strip()
    placeholder = WORDS.get(flavour.family, SESSION_WORDS).placeholder
    see = "" if flavour.family == "badger" else f" (see '{command} list' for available ids)"
    return _refuse(flavour, "show", f"'{command} show' requires a {placeholder} argument{see}.")


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
    _refuse(flavour, "show", message)
    if flavour.family not in ("stoat", "badger"):
        command = " ".join(part for part in ("chimera", flavour.name, flavour.verb, "list") if part)
        note(f"hint: list available {words.heading} with '{command}' (eventlog root: {root})")
    return error.exit_code

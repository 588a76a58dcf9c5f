"""The seven command lines of the family as one table. They differ by data, never by copied code."""

from __future__ import annotations

from typing import NamedTuple

from chimera.errors import InvalidParams

__all__ = ["FLAVOURS", "FLAVOUR_NAMES", "Flavour", "flavour_named", "origin_of"]


class Flavour(NamedTuple):
    """What sets one command line of the family apart.

    Attributes:
        name: the prefix of its session ids.
        layout: what its new sessions are written in: ``typed``, ``ids`` or ``jsonl``.
        verb: the word between the flavour and its actions: ``sessions``, or ``runs`` for mink.
        family: whose tables, errors and flags it has: ``mink``, ``otter``, ``ferret``, ``badger`` or ``stoat``.
        actions: what the documents offer after the verb.
        list_limit: how many rows its list shows unasked (0: all).
        default_steps: how many model calls a turn may take unless told otherwise.
    """

    name: str
    layout: str
    verb: str
    family: str
    actions: tuple[str, ...]
    list_limit: int
    default_steps: int


FLAVOURS: dict[str, Flavour] = {
    flavour.name: flavour
    for flavour in (
        Flavour("mink", "jsonl", "runs", "mink", ("list", "show"), 20, 50),
        Flavour("otter", "ids", "sessions", "otter", ("list", "show"), 50, 50),
        Flavour("ferret", "ids", "sessions", "ferret", ("list", "show"), 50, 50),
        Flavour("weasel", "ids", "sessions", "stoat", ("list", "show"), 0, 50),
        Flavour("shrew", "ids", "sessions", "stoat", ("list", "show"), 0, 30),
        Flavour("stoat", "typed", "sessions", "stoat", ("list", "show"), 0, 50),
        Flavour("badger", "ids", "sessions", "badger", ("list", "show"), 50, 25),
    )
}
FLAVOUR_NAMES: tuple[str, ...] = tuple(FLAVOURS)


def flavour_named(name: str) -> Flavour:
    """The flavour of that name; raises InvalidParams that lists the seven."""
    try:
        return FLAVOURS[name]
    except KeyError:
        raise InvalidParams(f"unknown flavour {name!r}; it must be one of {', '.join(FLAVOUR_NAMES)}") from None


def origin_of(session_id: str) -> str:
    """The flavour that a session id names before its first ``-``; "" when it names none of the seven."""
    prefix = session_id.split("-", 1)[0]
    return prefix if prefix in FLAVOURS else ""

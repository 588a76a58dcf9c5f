"""Print a list of sessions: ask, then a table or JSON. What ``sessions list`` does in every flavour.

The short way of the command line (hot) comes here without argparse, so nothing heavy may be loaded.
"""

from __future__ import annotations

import json

from chimera_cli.output import can_colour, terminal_width, write
from chimera_cli.session_source import SessionSource
from chimera_cli.tables import session_table

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["ALL_LIMIT", "print_list", "run_all"]

ALL_LIMIT = 20
"""How many rows ``chimera sessions list`` shows unasked."""


def run_all(arguments: Any) -> int:
    """``chimera sessions list`` with the options that hot understands: limit, model, json."""
    return print_list(
        SessionSource(arguments.home, arguments.socket),
        model=arguments.model,
        limit=arguments.limit,
        as_json=arguments.json,
    )


def print_list(
    source: SessionSource,
    *,
    family: str = "all",
    flavour: str = "",
    all_clis: bool = True,
    since: str | None = None,
    model: str | None = None,
    success: bool | None = None,
    limit: int | None = None,
    default_limit: int = ALL_LIMIT,
    as_json: bool = False,
    no_color: bool = False,
) -> int:
    """Print the list of one flavour, or of ``all_clis`` with a column for the origin; 0."""
    records = source.records(
        flavour=None if all_clis else flavour,
        since=since,
        model=model,
        success=success,
        limit=default_limit if limit is None else max(limit, 0),
    )
    if as_json:
        write(json.dumps(records, indent=2) + "\n")
        return 0
    width = terminal_width()
    colour = can_colour() and not no_color
    write(session_table(records, family=family, flavour=flavour, origin=all_clis, width=width, colour=colour))
    return 0

"""The tables of the family's lists, as text. Knows records as ``sessions.list`` gives them, and nothing else.

The commonest command prints one of these, so nothing heavy may be loaded here: no ``re``, ``datetime`` or ``typing``.
In a pipe a table always has its documented widths. On a terminal that is narrower its text columns shrink and the
least needed ones go, so that a line stays a line.
"""

from __future__ import annotations

from chimera_cli.text import cut, display_width, one_line, pad

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    Record = dict[str, Any]
    Columns = list[tuple[str, int]]

__all__ = ["cost", "date", "session_table"]

GAP = "  "
RULE_WIDTH = 80

COLUMNS: dict[str, tuple[tuple[str, int], ...]] = {
    "mink": (("RUN_ID", 36), ("DATE", 16), ("MODEL", 18), ("STEPS", 5), ("COST", 8), ("OK", 3), ("PROMPT", 60)),
    "otter": (
        ("SESSION_ID", 38), ("DATE", 16), ("MODEL", 18), ("STEPS", 5), ("COST", 8), ("OK", 3), ("TITLE", 40),
        ("PROMPT", 60),
    ),
    "stoat": (("STARTED", 16), ("ID", 36), ("OK", 3), ("STEPS", 5), ("PROMPT", 40)),
}  # fmt: skip
IDS = ("RUN_ID", "SESSION_ID", "ID")
TEXTS = ("TITLE", "PROMPT")
RIGHT = ("STEPS", "COST")
ORIGIN = ("ORIGIN", 7)

NARROWER: dict[str, tuple[tuple[str, int], ...]] = {
    "mink": (
        ("PROMPT", 16), ("ID", 0), ("MODEL", 10), ("MODEL", 0), ("ORIGIN", 0), ("STEPS", 0), ("PROMPT", 8), ("COST", 0),
        ("PROMPT", 0), ("DATE", 0), ("OK", 0),
    ),
    "otter": (
        ("PROMPT", 16), ("ID", 0), ("PROMPT", 0), ("TITLE", 20), ("MODEL", 10), ("MODEL", 0), ("ORIGIN", 0),
        ("STEPS", 0), ("TITLE", 8), ("COST", 0), ("TITLE", 0), ("DATE", 0), ("OK", 0),
    ),
    "stoat": (
        ("PROMPT", 16), ("ID", 0), ("ORIGIN", 0), ("STEPS", 0), ("PROMPT", 8), ("PROMPT", 0), ("STARTED", 0), ("OK", 0),
    ),
}  # fmt: skip
"""What gives way on a narrow terminal, in this order, and down to which width; 0: the column goes, the id never."""

BOLD, GREEN, RED, PLAIN = "\x1b[1m", "\x1b[32m", "\x1b[31m", "\x1b[0m"


def session_table(
    records: list[Record],
    *,
    family: str = "otter",
    flavour: str = "",
    origin: bool = False,
    width: int = 0,
    colour: bool = False,
) -> str:
    """The list of a family (``mink``, ``otter``, ``ferret``, ``badger``, ``stoat``), ending in a newline.

    ``flavour`` is named where the list is empty; ``origin`` adds the ORIGIN column; ``width`` is the terminal's
    (0: there is none).
    """
    shape = family if family in COLUMNS else "otter"
    if shape == "stoat" and not records:
        return f"(no {flavour} sessions found)\n"
    columns = _fitted(shape, _columns(shape, origin), records, width)
    if width and _width_of(columns) > width:
        colour = False  # lines will be cut, and half an escape sequence is none
    lines = [_heading(columns, colour)]
    if shape == "stoat":
        lines.append("-" * (min(RULE_WIDTH, width) if width else RULE_WIDTH))
    lines += [_line(columns, record, colour) for record in records]
    if shape == "stoat":
        lines += ["", f"{len(records)} session(s)"]
    elif not records:
        lines.append(_nothing(family))
    return "\n".join(cut(line, width) if width and not colour else line for line in lines) + "\n"


def date(timestamp: str) -> str:
    """``YYYY-MM-DD HH:MM`` in UTC; a time that cannot be read is shown as it is."""
    if timestamp[10:11] not in ("T", " ") or len(timestamp) < 16:
        return one_line(timestamp)
    if timestamp[-1] in "Zz" or ("+" not in timestamp and "-" not in timestamp[10:]):
        return one_line(f"{timestamp[:10]} {timestamp[11:16]}")
    return _from_another_zone(timestamp)


def cost(record: Record, decimals: int = 4) -> str:
    """The cost in dollars; ``unpriced`` where the writer said that it has no price."""
    if record.get("cost_source") == "unpriced":
        return "unpriced"
    return f"${record.get('cost_usd') or 0.0:.{decimals}f}"


def _from_another_zone(timestamp: str) -> str:
    from time import gmtime, strftime

    from chimera.identifiers import EPOCH_UNKNOWN, epoch_microseconds

    moment = epoch_microseconds(timestamp)
    if moment == EPOCH_UNKNOWN:
        return one_line(timestamp)
    return strftime("%Y-%m-%d %H:%M", gmtime(moment // 1_000_000))


def _title(record: Record) -> str:
    return record.get("title") or record.get("prompt") or ""


CELLS: dict[str, Callable[[Record], str]] = {
    "RUN_ID": lambda record: record["session_id"],
    "SESSION_ID": lambda record: record["session_id"],
    "ID": lambda record: record["session_id"],
    "ORIGIN": lambda record: record.get("cli_origin") or "?",
    "DATE": lambda record: date(record.get("started_at") or ""),
    "STARTED": lambda record: date(record.get("started_at") or ""),
    "MODEL": lambda record: record.get("model") or "",
    "STEPS": lambda record: str(record.get("steps") or 0),
    "COST": cost,
    "OK": lambda record: "yes" if record.get("success") else "no",
    "TITLE": _title,
    "PROMPT": lambda record: record.get("prompt") or "",
}


def _columns(shape: str, origin: bool) -> Columns:
    columns: Columns = []
    for heading, width in COLUMNS[shape]:
        columns.append((heading, width))
        if origin and heading in IDS:
            columns.append(ORIGIN)
    return columns


def _fitted(shape: str, columns: Columns, records: list[Record], width: int) -> Columns:
    """The columns that fit a terminal of ``width``, each as wide as there is room for."""
    longest_id = max((display_width(record["session_id"]) for record in records), default=0)
    for name, least in NARROWER[shape]:
        surplus = _width_of(columns) - width
        if not width or surplus <= 0:
            break
        fitted: Columns = []
        for heading, each in columns:
            if heading in IDS and name == "ID":
                fitted.append((heading, max(longest_id, len(heading), each - surplus)))
            elif heading != name:
                fitted.append((heading, each))
            elif least:
                fitted.append((heading, max(least, each - surplus)))
        columns = fitted
    heading, each = columns[-1]
    spare = width - _width_of(columns)
    if heading in TEXTS and spare > 0:  # what a column that went left over
        columns[-1] = (heading, min(each + spare, dict(COLUMNS[shape])[heading]))
    return columns


def _width_of(columns: Columns) -> int:
    return sum(width for _, width in columns) + len(GAP) * (len(columns) - 1)


def _heading(columns: Columns, colour: bool) -> str:
    line = GAP.join(heading.ljust(width) for heading, width in columns).rstrip()
    return f"{BOLD}{line}{PLAIN}" if colour else line


def _line(columns: Columns, record: Record, colour: bool) -> str:
    cells = []
    for heading, width in columns:
        text = one_line(CELLS[heading](record))
        if heading not in IDS and heading != "COST":  # a cut id or sum would be a wrong one
            text = cut(text, width)
        cell = pad(text, width, right=heading in RIGHT)
        if colour and heading == "OK":
            cell = f"{GREEN if record.get('success') else RED}{cell}{PLAIN}"
        cells.append(cell)
    return GAP.join(cells).rstrip()


def _nothing(family: str) -> str:
    what = {"mink": "runs", "badger": "badger sessions"}.get(family, "sessions")
    return f"(no persisted {what} found)"

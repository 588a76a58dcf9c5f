"""The text of a summary: lines under six headings, read back, joined with a newer one and kept within a size. Pure.

Knows neither messages nor who wrote the lines.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

import msgspec

from chimera.context.agent_memory import defuse_memory_tags

__all__ = ["HEADINGS", "Outline", "as_items", "clip", "items_of", "joined", "parse_outline", "render_outline"]

HEADINGS = {
    "goal": "Goal",
    "decisions": "Decisions",
    "open_questions": "Open questions",
    "read_files": "Files read",
    "modified_files": "Files modified",
    "commands": "Commands run",
}
"""The member of an ``Outline`` and its heading, in the order of the text."""

FILE_LISTS = ("read_files", "modified_files")

_SHARES = {
    "goal": 25,
    "decisions": 25,
    "open_questions": 10,
    "read_files": 10,
    "modified_files": 15,
    "commands": 15,
}
"""Percent of the size that each gets when not all fit; what one does not need goes to the others."""

_HEADING = re.compile(
    rf"\s*(?:#{{1,6}}\s*)?\**({'|'.join(HEADINGS.values())})\**\s*(?::\**\s*(.*))?", re.IGNORECASE | re.DOTALL
)
_LEFT_OUT = re.compile(r"- \((\d{1,9}) earlier left out\)")
_SHORTEST_LINE = 16


class Outline(msgspec.Struct, frozen=True, kw_only=True):
    """A summary by its headings; each a list of lines, without line ends."""

    goal: list[str] = []
    decisions: list[str] = []
    open_questions: list[str] = []
    read_files: list[str] = []
    modified_files: list[str] = []
    commands: list[str] = []


def parse_outline(text: str) -> Outline:
    """Read a summary back. What stands before the first heading is taken for the goal."""
    found: dict[str, list[str]] = {member: [] for member in HEADINGS}
    members = {heading.lower(): member for member, heading in HEADINGS.items()}
    member = "goal"
    for line in text.splitlines():
        heading = _HEADING.fullmatch(line)
        if heading is not None:
            member = members[heading[1].lower()]
            line = heading[2] or ""
        if line.strip():
            found[member].append(line.rstrip())
    return Outline(**found)


def joined(earlier: Outline, newer: Outline) -> Outline:
    """Both, the earlier lines first, each line once."""
    lists = {member: getattr(earlier, member) + getattr(newer, member) for member in HEADINGS}
    return Outline(**{member: list(dict.fromkeys(lines)) for member, lines in lists.items()})


def as_items(texts: Iterable[str]) -> list[str]:
    """A line for each text."""
    return ["- " + " ".join(text.splitlines()) for text in texts]


def items_of(lines: Iterable[str]) -> list[str]:
    """The texts of the lines that ``as_items`` made."""
    return [line.removeprefix("- ") for line in lines if line.startswith("- ") and not _LEFT_OUT.fullmatch(line)]


def render_outline(outline: Outline, max_bytes: int, *, whole_file_lists: bool = False) -> str:
    """The summary's text, all headings in it; memory tags are defused, so that it can be put into any message.

    The lines under them take ``max_bytes``; what does not fit is left out, oldest first, and a line says how much. The
    first line of the goal stays. ``whole_file_lists``: the two lists of files stay whole and are not counted.
    """
    free = set(FILE_LISTS) if whole_file_lists else set()
    sizes = {member: _size(getattr(outline, member)) for member in HEADINGS if member not in free}
    limits = _limits(sizes, max_bytes)
    parts = []
    for member, heading in HEADINGS.items():
        lines = getattr(outline, member)
        if member in limits:
            lines = _bounded(lines, limits[member], pinned=1 if member == "goal" else 0)
        parts += [f"## {heading}", *lines]
    return defuse_memory_tags("\n".join(parts))


def clip(text: str, max_bytes: int) -> str:
    """The beginning of a text, with "…" where something is missing; longer than ``max_bytes`` by that sign alone."""
    if len(text) <= max_bytes and len(text.encode(errors="replace")) <= max_bytes:
        return text
    return text[:max_bytes].encode(errors="replace")[:max_bytes].decode(errors="ignore") + "…"


def _limits(sizes: dict[str, int], max_bytes: int) -> dict[str, int]:
    """What each list may take: its share of what those that need less than theirs have left over."""
    limits = {}
    room = max(max_bytes, 0)
    shares = sum(_SHARES[member] for member in sizes)
    for member in sorted(sizes, key=lambda member: sizes[member] / _SHARES[member]):
        limits[member] = min(sizes[member], room * _SHARES[member] // shares)
        room -= limits[member]
        shares -= _SHARES[member]
    return limits


def _bounded(lines: list[str], limit: int, pinned: int) -> list[str]:
    """The first ``pinned`` lines and the newest of the others that fit, and a line that counts those left out."""
    if _size(lines) <= limit:
        return lines
    left_out = sum(int(mark[1]) for mark in map(_LEFT_OUT.fullmatch, lines) if mark)
    lines = [clip(line, max(limit // 3, _SHORTEST_LINE)) for line in lines if not _LEFT_OUT.fullmatch(line)]
    first, others = lines[:pinned], lines[pinned:]
    room = limit - _size(first) - len("- (000000000 earlier left out)\n")
    kept: list[str] = []
    for line in reversed(others):
        room -= _size([line])
        if room < 0:
            break
        kept.insert(0, line)
    left_out += len(others) - len(kept)
    return [*first, *([f"- ({left_out} earlier left out)"] if left_out else []), *kept]


def _size(lines: list[str]) -> int:
    return sum(len(line.encode(errors="replace")) + 1 for line in lines)

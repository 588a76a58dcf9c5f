"""Text that somebody else wrote, made safe and measured for a line of a terminal. Loads nothing heavy."""

from __future__ import annotations

__all__ = ["cut", "display_width", "one_line", "pad", "printable"]

ELLIPSIS = "…"
REPLACEMENT = "\ufffd"
LAST_CONTROL = "\x9f"
JOINERS = "\u200c\u200d"
"""Not printable by themselves, harmless, and needed by emoji and by several scripts."""
KEPT = "\n\t" + JOINERS
MOST_OF_A_LINE = 4096
"""No line shows more; a prompt may be megabytes."""


def printable(text: str) -> str:
    """The text without what could drive a terminal: escape sequences, control and bidirectional characters.

    Line breaks and tabs stay; whoever needs one line takes :func:`one_line`.
    """
    if text.isprintable():
        return text
    return "".join(map(_safe, text.replace("\r\n", "\n").replace("\r", "\n")))


def one_line(text: str) -> str:
    """The beginning of the text on one line: every line break and tab is a space."""
    start = text[:MOST_OF_A_LINE]
    if start.isprintable():
        return start
    return "".join(map(_safe, start.replace("\n", " ").replace("\r", " ").replace("\t", " ")))


def display_width(text: str) -> int:
    """How many columns a terminal gives the text."""
    if text.isascii():
        return len(text)
    from unicodedata import combining, east_asian_width  # half a millisecond that English never pays

    return sum(
        0 if combining(character) or character in JOINERS else 2 if east_asian_width(character) in "WF" else 1
        for character in text
    )


def cut(text: str, width: int) -> str:
    """The text in at most ``width`` columns; where something is left out, the last one shows ``…``."""
    if display_width(text) <= width:
        return text
    if text.isascii():
        return text[: max(width - 1, 0)] + ELLIPSIS
    kept = 0
    room = width - 1
    for character in text:
        room -= display_width(character)
        if room < 0:
            break
        kept += 1
    return text[:kept] + ELLIPSIS


def pad(text: str, width: int, *, right: bool = False) -> str:
    """The text with spaces up to ``width`` columns; ``right``: at its right edge."""
    space = " " * (width - display_width(text))
    return space + text if right else text + space


def _safe(character: str) -> str:
    if character.isprintable() or character in KEPT:
        return character
    return " " if character.isspace() and character > LAST_CONTROL else REPLACEMENT

"""Lines out of the chunks of a stream: each byte is looked at once, and what is not yet a line is bounded."""

from __future__ import annotations

from chimerad.rpc.replies import MAX_LINE_BYTES

__all__ = ["LineSplitter"]


class LineSplitter:
    """Collects what comes until a newline ends it.

    Attributes:
        overflown: a line is longer than a line may be; nothing behind it can be told apart any more.
    """

    __slots__ = ("_unfinished", "overflown")

    def __init__(self) -> None:
        self.overflown = False
        self._unfinished = bytearray()

    def feed(self, chunk: bytes) -> list[bytes]:
        """The lines that ``chunk`` ends, without their newlines. A chunk is shorter than the longest line."""
        lines = chunk.split(b"\n")
        rest = lines.pop()
        if lines and self._unfinished:
            if len(self._unfinished) + len(lines[0]) > MAX_LINE_BYTES:
                self.overflown = True
                self._unfinished += chunk
                return []
            lines[0] = bytes(self._unfinished + lines[0])
            self._unfinished.clear()
        if rest:
            self._unfinished += rest
            self.overflown = len(self._unfinished) > MAX_LINE_BYTES
        return lines

    @property
    def unfinished_bytes(self) -> int:
        """What was fed and is not in a line yet, or never will be."""
        return len(self._unfinished)

    def clear(self) -> None:
        self._unfinished.clear()

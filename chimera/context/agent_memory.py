"""Memory files: the CLAUDE.md and AGENTS.md of a working folder and of the folders above it, with what they import.

Folders are walked from ``cwd`` up to the user's home folder, which is the last one where ``cwd`` lies inside it, else
up to the root of the file system. The outermost file comes first, the nearest last, each file once. ``@path`` in a
file, outside of code, imports another one: relative to the file, ``~/`` or absolute. Nothing is read from outside the
folder of the memory file that it began with, unless the caller allows it: a project must not be able to put a private
key into a prompt.

A block goes into the context between ``<memory source="...">`` tags, by which compaction knows it. Knows no session.
"""

from __future__ import annotations

import html
import os
import re
import stat
from collections.abc import Iterator, Sequence

import msgspec

__all__ = ["AgentMemory", "MemoryBlock", "MemoryProblem", "defuse_memory_tags", "load_agent_memory", "wrap"]

FILE_NAMES = ("CLAUDE.md", "AGENTS.md")
MAX_FILE_BYTES = 64 * 1024
MAX_TOTAL_BYTES = 256 * 1024
MAX_FILES = 100
MAX_IMPORT_DEPTH = 5

_TAG = re.compile(r"<(?=\s*/?\s*memory)", re.IGNORECASE)
_FENCE = re.compile(r"\s{0,3}(```+|~~~+)")
_CODE_SPAN = re.compile(r"(`+).*?\1")
_IMPORT = re.compile(r"(?<!\S)@([^\s\0]+)")
_ALONE = re.compile(r"\s*(?:[-*+]\s+)?@[^\s\0]+\s*")


class MemoryBlock(msgspec.Struct, frozen=True):
    """One memory file.

    Attributes:
        source: its path, relative to the working folder where it lies in it.
        text: what it says; where that was too much, the end of the text says what was cut.
    """

    source: str
    text: str


class MemoryProblem(msgspec.Struct, frozen=True):
    """A memory file that could not be taken, and why."""

    path: str
    reason: str


class AgentMemory(msgspec.Struct, frozen=True):
    """The memory of a working folder, outermost file first."""

    blocks: list[MemoryBlock]
    problems: list[MemoryProblem]


def load_agent_memory(
    cwd: str,
    *,
    allowed_folders: Sequence[str] = (),
    max_file_bytes: int = MAX_FILE_BYTES,
    max_total_bytes: int = MAX_TOTAL_BYTES,
) -> AgentMemory:
    """Read the memory of a working folder. What cannot be read is reported, never raised.

    Args:
        allowed_folders: where files may be imported from, beside the folder of the memory file itself.
        max_total_bytes: of all files; the nearest are served first.
    """
    reader = _Reader(allowed_folders, max_file_bytes)
    groups = []  # the places of the files that belong to each folder
    for folder in _folders(cwd):
        first = len(reader.files)
        for name in FILE_NAMES:
            path = os.path.join(folder, name)
            if os.path.lexists(path):
                reader.take(path, folder, depth=0)
        groups.append(range(first, len(reader.files)))
    here = os.path.realpath(cwd)
    blocks: dict[int, MemoryBlock] = {}
    room = max_total_bytes
    for place in (place for group in reversed(groups) for place in group):
        file = reader.files[place]
        shown = file.body[: _character_start(file.body, room)]
        room -= len(shown)
        blocks[place] = MemoryBlock(_source(file.path, here), _text(shown, file.size))
    in_order = [blocks[place] for place in sorted(blocks)]
    return AgentMemory([block for block in in_order if block.text.strip()], reader.problems)


def wrap(block: MemoryBlock) -> str:
    """The block as it stands in a context. Tags inside it are defused, so that the last one ends it."""
    source = html.escape(block.source).replace("\n", "&#10;")
    return f'<memory source="{source}">\n{defuse_memory_tags(block.text)}\n</memory>'


def defuse_memory_tags(text: str) -> str:
    """The text with every memory tag in it made plain text: ``&lt;memory``."""
    return _TAG.sub("&lt;", text)


class _File(msgspec.Struct, frozen=True):
    """What was read: the real path, at most the limit's bytes, and how many the file has."""

    path: str
    body: bytes
    size: int


class _Reader:
    """Reads files and what they import, each once; an importing file stands before what it imports."""

    def __init__(self, allowed_folders: Sequence[str], max_file_bytes: int) -> None:
        self.files: list[_File] = []
        self.problems: list[MemoryProblem] = []
        self._allowed = [os.path.realpath(os.path.expanduser(folder)) for folder in allowed_folders]
        self._max_file_bytes = max_file_bytes
        self._seen: set[str] = set()

    def take(self, path: str, folder: str, depth: int) -> None:
        """``folder`` is the real path of the one that the memory file it began with lies in."""
        real_path = os.path.realpath(path)
        if real_path in self._seen:
            return
        reason = self._refusal(real_path, folder, depth)
        if reason is None:
            self._seen.add(real_path)
            reason = self._read(real_path)
        if reason is not None:
            self.problems.append(MemoryProblem(_readable(path), reason))
            return
        text = self.files[-1].body.decode(errors="replace")
        for target, alone in _imports(text):
            named = os.path.join(os.path.dirname(real_path), os.path.expanduser(target))
            if alone or os.path.isfile(named):  # "@name" inside a sentence is seldom meant for us
                self.take(named, folder, depth + 1)

    def _refusal(self, real_path: str, folder: str, depth: int) -> str | None:
        if depth > MAX_IMPORT_DEPTH:
            return f"imported more than {MAX_IMPORT_DEPTH} files deep; import it from a file further out"
        if len(self._seen) >= MAX_FILES:
            return f"there are more than {MAX_FILES} memory files; import fewer"
        if not any(_is_inside(real_path, allowed) for allowed in [folder, *self._allowed]):
            return (
                f"lies outside of {_readable(folder)} and of the folders that are allowed; allow its folder to use it"
            )
        return None

    def _read(self, real_path: str) -> str | None:
        """Read a file; a sentence when it cannot be."""
        try:
            descriptor = os.open(real_path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a pipe must not hold us
            try:
                found = os.fstat(descriptor)
                if not stat.S_ISREG(found.st_mode):
                    return "is not a plain file"
                with open(descriptor, "rb", closefd=False) as file:
                    body = file.read(self._max_file_bytes + 1)
            finally:
                os.close(descriptor)
        except OSError as error:
            return f"cannot be read ({error.strerror})"
        cut = _character_start(body, self._max_file_bytes)
        self.files.append(_File(real_path, body[:cut], max(found.st_size, len(body))))
        return None


def _folders(cwd: str) -> list[str]:
    """From the outermost to ``cwd``."""
    home = os.path.realpath(os.path.expanduser("~"))
    folder = os.path.realpath(cwd)
    found = [folder]
    while folder != home and os.path.dirname(folder) != folder:
        folder = os.path.dirname(folder)
        found.append(folder)
    found.reverse()
    return found


def _imports(text: str) -> Iterator[tuple[str, bool]]:
    """Paths after an @, and whether each has its line for itself; not those in code."""
    fence = ""
    for line in text.splitlines():
        mark = _FENCE.match(line)
        if mark is not None and (not fence or mark[1].startswith(fence)):
            fence = "" if fence else mark[1]
        elif not fence:
            alone = _ALONE.fullmatch(line) is not None
            for mention in _IMPORT.finditer(_CODE_SPAN.sub("", line)):
                yield (mention[1] if alone else mention[1].rstrip(".,;:!?)\"'")), alone


def _is_inside(path: str, folder: str) -> bool:
    return os.path.commonpath([path, folder]) == folder


def _character_start(body: bytes, limit: int) -> int:
    """Where to cut so that ``limit`` bytes at most remain and no character is split."""
    if len(body) <= limit:
        return len(body)
    at = max(limit, 0)
    while at > max(limit - 3, 0) and body[at] & 0xC0 == 0x80:
        at -= 1
    return at


def _text(shown: bytes, size: int) -> str:
    text = shown.decode(errors="replace").removeprefix("\ufeff")
    if len(shown) == size:
        return text
    notice = f"[cut: the last {size - len(shown)} of {size} bytes of this memory file are not shown]"
    return f"{text}\n{notice}" if text else notice


def _source(path: str, here: str) -> str:
    return _readable(os.path.relpath(path, here) if _is_inside(path, here) else path)


def _readable(path: str) -> str:
    """A path as text that can be written anywhere: a name need not be UTF-8."""
    return os.fsencode(path).decode(errors="replace")

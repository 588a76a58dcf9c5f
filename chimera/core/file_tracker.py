"""``FileTracker``: which files a session's own tools read and wrote, and what the written ones were before and after.

    with tracker.writing(path) as accesses:
        ...                                  # the tool writes, removes or changes the file
    for access in accesses:                  # one ``file_access`` event each
        record("file_access", access.to_metadata())

The bytes before are durable before the tool writes, those after before anybody can name them (store rule 17). What
foreign hands do is not seen here. Knows neither events nor who undoes.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal

import msgspec

from chimera.blobs import BlobStore
from chimera.core.file_images import (
    FOLDER,
    MAX_CAPTURED_BYTES,
    Absent,
    Image,
    NotCaptured,
    RegularFile,
    Symlink,
    capture,
    name_problem,
)
from chimera.errors import ChimeraError, InvalidParams

__all__ = [
    "MAX_CAPTURED_BYTES",
    "Absent",
    "FileAccess",
    "FileTracker",
    "Image",
    "NotCaptured",
    "RegularFile",
    "Symlink",
]


class FileAccess(msgspec.Struct, frozen=True, omit_defaults=True):
    """One read or write of one file by a tool: the metadata of a ``file_access`` event.

    Attributes:
        path: absolute. Bytes of a name that are not UTF-8 stand as backslash escapes; such a path is never captured.
        before, after: of a write, what was there; None where nobody looked, as for a read.
    """

    path: str
    mode: Literal["read", "write"]
    before: Image | None = None
    after: Image | None = None

    def to_metadata(self) -> dict[str, Any]:
        """Plain values for JSON; images that there are not are left out."""
        metadata: dict[str, Any] = msgspec.to_builtins(self)
        return metadata

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, Any]) -> FileAccess:
        """The inverse of :meth:`to_metadata`; further keys are passed over.

        Raises:
            InvalidParams: the metadata is not that of a ``file_access`` event.
        """
        try:
            return msgspec.convert(metadata, cls)
        except msgspec.ValidationError as error:
            raise InvalidParams(f"the file_access event cannot be read: {error}") from None


class FileTracker:
    """The files of one session. Reads and writes of different files may overlap, writes of one file may not.

    Args:
        blobs: keeps what files were.
        cwd: what relative paths begin at.
        max_bytes: a larger file is not captured.
    """

    def __init__(self, blobs: BlobStore, cwd: str, *, max_bytes: int = MAX_CAPTURED_BYTES) -> None:
        self._blobs = blobs
        self._cwd = os.path.abspath(cwd)
        self._max_bytes = max_bytes
        self._read: dict[str, None] = {}
        self._modified: dict[str, None] = {}

    @property
    def files_read(self) -> list[str]:
        """Absolute paths, each once, in the order of the first time."""
        return list(self._read)

    @property
    def files_modified(self) -> list[str]:
        """Absolute paths, each once, in the order of the first time."""
        return list(self._modified)

    def restore_lists(self, read: Iterable[str], modified: Iterable[str]) -> None:
        """Carry on from these lists, as a resume finds them."""
        self._read, self._modified = dict.fromkeys(read), dict.fromkeys(modified)

    def read(self, path: str | os.PathLike[str]) -> FileAccess | None:
        """Note that a tool has read the file; None when that is noted already."""
        shown = _shown(self._absolute(path))
        if shown in self._read:
            return None
        self._read[shown] = None
        return FileAccess(shown, "read")

    @contextlib.contextmanager
    def writing(self, path: str | os.PathLike[str]) -> Iterator[list[FileAccess]]:
        """Around a tool's write, removal or change of mode. The list that it gives is filled when the block ends.

        It then has one access; two when the path was a symlink and both the link and the file it leads to have changed;
        none when the block raised and has changed nothing. What a block that raised has changed is in it.

        Raises:
            NoSpace, StorageError: what the file is cannot be kept, so the tool must not write. What it is afterwards
                is then "not captured" instead, for it has happened.
        """
        accesses: list[FileAccess] = []
        before = {name: capture(name, self._blobs, self._max_bytes) for name in _led_to(self._absolute(path))}
        done = False
        try:
            yield accesses
            done = True
        finally:
            accesses += self._written(before, done)
            self._modified.update(dict.fromkeys(access.path for access in accesses))

    def _written(self, before: dict[str, Image], done: bool) -> list[FileAccess]:
        """What has changed; if nothing, the path that was named, for a tool that was done with it."""
        accesses = [FileAccess(_shown(name), "write", was, self._after(name)) for name, was in before.items()]
        changed = [access for access in accesses if _has_changed(access)]
        return changed or (accesses[:1] if done else [])

    def _after(self, name: str) -> Image:
        try:
            return capture(name, self._blobs, self._max_bytes)
        except ChimeraError as error:
            return NotCaptured(f"its content could not be kept: {error.message}")

    def _absolute(self, path: str | os.PathLike[str]) -> str:
        """Symlinks on the way are followed, the last component is not: a link is a file of its own."""
        joined = os.path.join(self._cwd, os.fspath(path))
        if name_problem(joined):
            return os.path.normpath(joined)
        folder, name = os.path.split(joined.rstrip("/"))
        return os.path.realpath(joined) if name in ("", ".", "..") else os.path.join(os.path.realpath(folder), name)


def _led_to(path: str) -> list[str]:
    """The path, and if it is a symlink what that leads to: a tool may replace the one or write through to the other."""
    return list(dict.fromkeys([path, os.path.realpath(path)])) if os.path.islink(path) else [path]


def _has_changed(access: FileAccess) -> bool:
    """What was not captured may have; a folder is none of a tool's files."""
    return access.before != access.after or (isinstance(access.after, NotCaptured) and access.after != FOLDER)


def _shown(path: str) -> str:
    return path.encode("utf-8", "backslashreplace").decode()

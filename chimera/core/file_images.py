"""What a file is at one moment, and how that is found out.

A path whose name cannot be written as JSON (bytes that are not UTF-8), a file over the limit, an unreadable one and
anything that is no regular file and no symlink are "not captured", with the reason. Nobody may take that for "absent".
Owner, times, links and extended attributes are no part of an image. Knows neither tools nor sessions.
"""

from __future__ import annotations

import os
import stat
from typing import Annotated

import msgspec

from chimera.blobs import DIGEST_PATTERN, MAX_BLOB_BYTES, BlobStore, digest_of

__all__ = [
    "FOLDER",
    "MAX_CAPTURED_BYTES",
    "Absent",
    "Image",
    "NotCaptured",
    "RegularFile",
    "Symlink",
    "capture",
    "look",
    "name_problem",
]

MAX_CAPTURED_BYTES = 25 * 1024 * 1024
"""A larger file is not captured."""

_ATTEMPTS = 4
"""So many times a file that changes while it is read is read again."""


class Absent(msgspec.Struct, frozen=True, tag_field="kind", tag="absent"):
    """There was nothing at the path."""


class RegularFile(msgspec.Struct, frozen=True, tag_field="kind", tag="file"):
    """A regular file: the digest of its bytes, how many they are, and its permission bits (``0o755``)."""

    blob: Annotated[str, msgspec.Meta(pattern=DIGEST_PATTERN)]
    size: Annotated[int, msgspec.Meta(ge=0)]
    permissions: Annotated[int, msgspec.Meta(ge=0, le=0o7777)]


class Symlink(msgspec.Struct, frozen=True, tag_field="kind", tag="symlink"):
    """A symbolic link, and what it says."""

    target: str


class NotCaptured(msgspec.Struct, frozen=True, tag_field="kind", tag="not_captured"):
    """Something was there, and its content is not kept; the reason begins with "it" or "its"."""

    reason: str


Image = Absent | RegularFile | Symlink | NotCaptured

FOLDER = NotCaptured("it is a folder")


def capture(path: str, blobs: BlobStore, max_bytes: int = MAX_CAPTURED_BYTES) -> Image:
    """What is at an absolute path now; the bytes of a regular file are kept as a blob.

    Raises:
        NoSpace, StorageError: the blob could not be kept.
    """
    image, body = look(path, max_bytes)
    if isinstance(image, RegularFile):
        blobs.put(body)
    return image


def look(path: str, max_bytes: int = MAX_CAPTURED_BYTES) -> tuple[Image, bytes]:
    """What is at an absolute path now, and the bytes of a regular file. Keeps nothing and never raises OSError.

    Whatever ``max_bytes`` says, a file that no blob can hold is not captured.
    """
    max_bytes = min(max_bytes, MAX_BLOB_BYTES)
    problem = name_problem(path)
    if problem:
        return NotCaptured(problem), b""
    try:
        for _ in range(_ATTEMPTS):
            seen = _look_once(path, max_bytes)
            if seen is not None:
                return seen
    except (FileNotFoundError, NotADirectoryError):
        return Absent(), b""
    except OSError as error:
        return NotCaptured(f"it cannot be read ({error.strerror or error})"), b""
    return NotCaptured("it changes while it is read"), b""


def name_problem(path: str) -> str:
    """Why an event cannot name this path; "" when it can."""
    if "\0" in path:
        return "its name is not one that a file can have"
    return "" if _is_utf8(path) else "its name is not UTF-8"


def _look_once(path: str, max_bytes: int) -> tuple[Image, bytes] | None:
    """None when the file changed while it was read."""
    mode = os.lstat(path).st_mode
    if stat.S_ISLNK(mode):
        target = os.readlink(path)
        return (Symlink(target) if _is_utf8(target) else NotCaptured("its target is not UTF-8")), b""
    if stat.S_ISDIR(mode):
        return FOLDER, b""
    if not stat.S_ISREG(mode):
        return NotCaptured("it is not a regular file"), b""
    # Without blocking, and through no link: it may have become a pipe or a link since.
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(descriptor, "rb") as file:
        before = os.fstat(descriptor)
        if not stat.S_ISREG(before.st_mode):
            return None
        if before.st_size > max_bytes:
            return NotCaptured(f"it is larger than {max_bytes} bytes"), b""
        body = file.read(before.st_size + 1)
        after = os.fstat(descriptor)
    if len(body) != before.st_size or _stamp(before) != _stamp(after):
        return None
    return RegularFile(digest_of(body), len(body), stat.S_IMODE(after.st_mode)), body


def _stamp(status: os.stat_result) -> tuple[int, ...]:
    return (status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_mode)


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True

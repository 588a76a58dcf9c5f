"""Make a path be what an image says, in one step and durably: whoever looks sees what was there or the whole image.

Bytes, permission bits and the owner of what is replaced are put in place under another name before; other hard links
keep what they are, extended attributes are lost. Knows no plan and judges nothing: whether it may be done, its caller
says at the last moment.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable

from chimera import durable
from chimera.blobs import BlobStore
from chimera.core.file_images import Absent, Image, RegularFile, Symlink

__all__ = ["place"]


def place(path: str, image: Image, blobs: BlobStore, last_check: Callable[[], None]) -> None:
    """Put the image at an absolute path; ``last_check`` runs right before what is there goes, and may raise.

    What was made under another name is removed when anything fails. Folders that are missing are made.

    Raises:
        OSError: the disk refused.
        StorageError: the blob of the image is missing or damaged.
    """
    if isinstance(image, Absent):
        last_check()
        durable.remove_file(path)
        return
    folder = os.path.dirname(path)
    _make_folders(folder)
    beside = os.path.join(folder, f".chimera-restore-{os.urandom(8).hex()}")
    try:
        _make_beside(beside, image, blobs, path)
        last_check()
        durable.move(beside, path)
    except BaseException:
        with contextlib.suppress(OSError):  # the error that brought us here is the one to tell
            os.unlink(beside)
        raise


def _make_beside(beside: str, image: Image, blobs: BlobStore, path: str) -> None:
    """The image under another name; readable by nobody else before it is whole."""
    if isinstance(image, Symlink):
        os.symlink(image.target, beside)
    elif isinstance(image, RegularFile):
        durable.create_file(beside, blobs.get(image.blob))
        _keep_owner(beside, path)
        os.chmod(beside, image.permissions)
    else:
        raise TypeError(f"nothing can be made of {image!r}")


def _keep_owner(beside: str, path: str) -> None:
    try:
        owner = os.lstat(path)
    except FileNotFoundError:
        return
    own = os.lstat(beside)
    if (own.st_uid, own.st_gid) != (owner.st_uid, owner.st_gid):
        os.chown(beside, owner.st_uid, owner.st_gid)


def _make_folders(folder: str) -> None:
    """With the permissions that the user's programs give: these are folders of the user's, not ours."""
    missing = []
    while not os.path.isdir(folder):
        missing.append(folder)
        folder = os.path.dirname(folder)
    for name in reversed(missing):
        os.mkdir(name)
        durable.sync_folder(os.path.dirname(name))

"""The only place in the tree that syncs: replace a file, append to one, make many durable.

Every function returns only when what it promises is on the disk, and raises OSError when it is not.
A failed sync is never tried again here: after it the page cache proves nothing (store rule 7).
Knows neither sessions nor events.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
from collections.abc import Collection, Iterable

from chimera.paths import FILE_MODE, FOLDER_MODE

__all__ = [
    "append_file",
    "create_file",
    "file_system_magic",
    "make_durable",
    "make_folder",
    "move",
    "preallocate",
    "remove_file",
    "remove_files",
    "replace_file",
    "sync_data",
    "sync_file",
    "sync_folder",
    "truncate_file",
    "write_all",
    "write_at",
]

SYNCFS_FROM = 64
"""More dirty files than this on a file system known to answer errors: one ``syncfs`` (measured 24x faster)."""

PREALLOCATION_BYTES = 256 * 1024

MAX_PIECES = 1024
"""IOV_MAX: the kernel takes no more in one call."""

_SYNCFS_FILE_SYSTEMS = {0xEF53, 0x58465342, 0x9123683E}
"""ext4, XFS, btrfs: magic numbers of statfs(2). Since Linux 5.8 their ``syncfs`` reports write-back errors."""

_F_FULLFSYNC = 51
"""fcntl(2) on macOS: flush the drive's own cache too, which ``fsync`` there does not."""


def sync_data(descriptor: int) -> None:
    """Make the bytes of an open file durable, and its size where that changed."""
    if sys.platform == "darwin":  # pragma: no cover - exercised on macOS only
        import fcntl

        fcntl.fcntl(descriptor, _F_FULLFSYNC)
    else:
        os.fdatasync(descriptor)


def sync_file(path: str) -> None:
    """Make the bytes of a file durable that was written through another descriptor."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        sync_data(descriptor)
    finally:
        os.close(descriptor)


def sync_folder(path: str) -> None:
    """Make the entries of a folder durable: files created, renamed or removed in it."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folder(path: str) -> None:
    """Create a folder (0700) and its missing parents, each durable in its parent."""
    if os.path.isdir(path):
        return
    parent = os.path.dirname(path)
    if parent and not os.path.isdir(parent):
        make_folder(parent)
    try:
        os.mkdir(path, FOLDER_MODE)
    except FileExistsError:
        if not os.path.isdir(path):
            raise
    sync_folder(parent)


def create_file(path: str, body: bytes) -> None:
    """Create a file that must not exist yet, with its bytes; the folder's entry is synced too."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, FILE_MODE)
    try:
        write_all(descriptor, body)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    sync_folder(os.path.dirname(path))


def replace_file(path: str, body: bytes) -> None:
    """Give a file new contents in one step: whoever reads sees the old bytes or the new, never a part."""
    beside = f"{path}.new-{os.getpid()}-{os.urandom(4).hex()}"
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, FILE_MODE)
    try:
        try:
            write_all(descriptor, body)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        os.rename(beside, path)
    except BaseException:
        _remove_quietly(beside)
        raise
    sync_folder(os.path.dirname(path))


def append_file(path: str, body: bytes) -> None:
    """Append to a file, creating it where it is missing, and sync; one write call for readers that follow."""
    existed = os.path.exists(path)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, FILE_MODE)
    try:
        write_all(descriptor, body)
        sync_data(descriptor)
    finally:
        os.close(descriptor)
    if not existed:
        sync_folder(os.path.dirname(path))


def move(source: str, target: str) -> None:
    """Rename, and sync both folders."""
    os.rename(source, target)
    sync_folder(os.path.dirname(target))
    if os.path.dirname(source) != os.path.dirname(target):
        sync_folder(os.path.dirname(source))


def remove_file(path: str) -> None:
    """Remove a file durably; a file that is not there is already removed."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        return
    sync_folder(os.path.dirname(path))


def truncate_file(path: str, size: int) -> None:
    """Cut a file to ``size`` bytes, durably."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.ftruncate(descriptor, size)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_files(names: Iterable[str]) -> None:
    """Remove several files durably; their folders are synced once."""
    folders: set[str] = set()
    for path in names:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        folders.add(os.path.dirname(path))
    for folder in sorted(folders):
        sync_folder(folder)


def preallocate(path: str, size: int) -> None:
    """Create a zero-filled file of ``size`` bytes, durable with its folder entry.

    Written zeros, not ``fallocate``: only a block that has been written once spares the later ``fdatasync`` the
    file system's own journal (1.67x against 1.46x, docs/architecture.md). Synced bit by bit: somebody else's sync
    meanwhile waits behind one bit rather than behind all of it.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, FILE_MODE)
    try:
        chunk = bytes(PREALLOCATION_BYTES)
        left = size
        while left > 0:
            left -= os.write(descriptor, chunk[: min(left, len(chunk))])
            sync_data(descriptor)
        os.fsync(descriptor)
    except BaseException:
        _remove_quietly(path)
        raise
    finally:
        os.close(descriptor)
    sync_folder(os.path.dirname(path))


def make_durable(paths: Iterable[str], folders: Collection[str] | None = None) -> list[tuple[str, OSError]]:
    """Make many files and the folders that hold them durable; of the folders only ``folders``, where those are given.

    Returns the paths that cannot be reached any more (``ENOENT``, ``EACCES``, ``ENOTDIR``), each with its
    error: these concern one session alone. Any other error is raised, for it concerns the disk.
    """
    files = sorted(set(paths))
    holders = sorted({os.path.dirname(path) for path in files})
    if len(files) > SYNCFS_FROM and _syncfs_of(holders):
        return []
    unreachable: list[tuple[str, OSError]] = []
    for sync, names in ((sync_file, files), (sync_folder, holders if folders is None else sorted(folders))):
        for name in names:
            try:
                sync(name)
            except (FileNotFoundError, PermissionError, NotADirectoryError) as error:
                unreachable.append((name, error))
    return unreachable


def write_all(descriptor: int, body: bytes | memoryview) -> None:
    """Write every byte; a short write (a full disk, a limit) goes on until the error itself is seen."""
    view = memoryview(body)
    while view:
        view = view[os.write(descriptor, view) :]


def write_at(descriptor: int, pieces: list[bytes], offset: int) -> int:
    """Write pieces one behind the other from ``offset`` on, in one call; returns how many bytes they have."""
    if len(pieces) > MAX_PIECES:
        pieces = [b"".join(pieces)]
    size = sum(map(len, pieces))
    written = os.pwritev(descriptor, pieces, offset)
    if written < size:
        rest = memoryview(b"".join(pieces))
        while written < size:
            written += os.pwrite(descriptor, rest[written:], offset + written)
    return size


def _remove_quietly(path: str) -> None:
    with contextlib.suppress(OSError):  # the error that brought us here is the one to tell
        os.unlink(path)


def _syncfs_of(folders: list[str]) -> bool:
    """One ``syncfs`` for all folders if they lie on one file system that is known to report its errors."""
    if sys.platform != "linux" or not _kernel_reports_syncfs_errors():
        return False
    reachable = next((folder for folder in folders if os.path.isdir(folder)), None)
    if reachable is None or file_system_magic(reachable) not in _SYNCFS_FILE_SYSTEMS:
        return False
    devices: set[int] = set()
    for folder in folders:
        try:
            devices.add(os.stat(folder).st_dev)
        except (FileNotFoundError, PermissionError, NotADirectoryError):
            return False  # the slow way says which
    if len(devices) != 1:
        return False
    descriptor = os.open(reachable, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if _libc().syncfs(descriptor) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), reachable)
    finally:
        os.close(descriptor)
    return True


def _kernel_reports_syncfs_errors() -> bool:
    numbers = os.uname().release.split("-")[0].split(".")
    try:
        return (int(numbers[0]), int(numbers[1])) >= (5, 8)
    except (ValueError, IndexError):
        return False


def file_system_magic(path: str) -> int:
    """``f_type`` of statfs(2): the first machine word of the structure on Linux."""
    buffer = ctypes.create_string_buffer(256)
    if _libc().statfs(os.fsencode(path), buffer) != 0:
        return 0
    return int.from_bytes(buffer.raw[: ctypes.sizeof(ctypes.c_long)], sys.byteorder) & 0xFFFFFFFF


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)

"""The socket file: a folder that is ours alone, a stale file taken over, modes, who may connect, and its removal.

The caller holds the owner lock of the event log. Knows no message.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import socket
import stat
import struct

from chimera import durable
from chimera.errors import NotPermitted, OwnerRunning
from chimera.paths import FILE_MODE, FOLDER_MODE

__all__ = ["SocketFile", "peer_is_ours"]

log = logging.getLogger(__name__)

BACKLOG = 1024
_PEER = struct.Struct("3i")  # pid, uid, gid: struct ucred of unix(7)


class SocketFile:
    """A listening Unix socket at a path, removed on close only while the path still is the socket we made."""

    def __init__(self, path: str) -> None:
        """Bind and listen.

        Raises:
            NotPermitted: the folder is not ours alone, or something else lies at the path.
            OwnerRunning: somebody answers there.
            OSError: the system refuses.
        """
        self.path = path
        _prepare_folder(os.path.dirname(path))
        _remove_stale(path)
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self.socket.bind(path)
            os.chmod(path, FILE_MODE)
            self.socket.listen(BACKLOG)
            self.socket.setblocking(False)
            self._identity = _identity(path)
        except BaseException:
            self.socket.close()
            raise

    def close(self) -> None:
        self.socket.close()
        with contextlib.suppress(FileNotFoundError):
            if _identity(self.path) == self._identity:
                os.unlink(self.path)


def peer_is_ours(connection: socket.socket) -> bool:
    """Whether the process at the other end has our user id; others are logged."""
    if not hasattr(socket, "SO_PEERCRED"):
        return True  # the modes of folder and socket keep others out
    pid, uid, _ = _PEER.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size))
    if uid == os.geteuid():
        return True
    log.warning("process %d of user %d was turned away: the socket is for user %d alone", pid, uid, os.geteuid())
    return False


def _prepare_folder(folder: str) -> None:
    """Create the socket's folder, or accept it when nobody else can put or reach anything in it."""
    durable.make_folder(folder)
    status = os.lstat(folder)
    if stat.S_ISLNK(status.st_mode):
        raise NotPermitted(f"the socket's folder {folder} is a symbolic link; set CHIMERA_SOCKET to a path without one")
    if status.st_uid != os.geteuid():
        raise NotPermitted(
            f"the socket's folder {folder} belongs to user {status.st_uid}; set CHIMERA_SOCKET elsewhere"
        )
    if status.st_mode & 0o077:
        raise NotPermitted(
            f"the socket's folder {folder} has mode {stat.S_IMODE(status.st_mode):04o}, open to others; "
            f"run chmod {FOLDER_MODE:o} on it, or set CHIMERA_SOCKET elsewhere"
        )


def _remove_stale(path: str) -> None:
    """Clear the path of a socket that nobody listens on any more."""
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise NotPermitted(f"{path} is in the way and is no socket; move it, or set CHIMERA_SOCKET elsewhere")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)  # a listener whose backlog is full answers EAGAIN, and lives
        result = probe.connect_ex(path)
    if result in (0, errno.EAGAIN):
        raise OwnerRunning(f"another process listens on {path}; stop it, or set CHIMERA_SOCKET elsewhere")
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)


def _identity(path: str) -> tuple[int, int]:
    status = os.lstat(path)
    return status.st_dev, status.st_ino

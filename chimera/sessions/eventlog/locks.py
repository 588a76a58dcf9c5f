"""Who may write: the lock of a session and the lock of a whole event-log root (store rule 10).

Both are ``flock`` through filelock, so writers of the family that flock the same file keep out. A lock counts
only while its path still is the locked inode. Knows nothing of events.
"""

from __future__ import annotations

import fcntl
import os
import time

import msgspec
from filelock import FileLock, Timeout

from chimera import durable, paths
from chimera.errors import Locked, OwnerRunning, ReadOnly

__all__ = ["Owner", "OwnerLock", "SessionLock", "living_owner", "require_local_disk", "wait_for_owner"]

WAIT_FOR_OWNER_SECONDS = 1.0
"""A client that asks whether anybody owns the root holds its lock for an instant; a daemon waits that out."""

POLL_SECONDS = 0.01
MARK_BYTES = 16

_NETWORK_FILE_SYSTEMS = {0x6969: "NFS", 0x517B: "SMB", 0xFF534D42: "CIFS", 0xFE534D42: "SMB2", 0x01021997: "9P"}
"""statfs(2) magic numbers of file systems on which flock and fsync do not promise enough."""


class _PathLock:
    """A ``flock`` that counts only while its path names the inode that is locked."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._inode: tuple[int, int] | None = None
        self._descriptor = -1
        self._lock = FileLock(
            path,
            mode=paths.FILE_MODE,
            thread_local=False,
            fallback_to_soft=False,
            is_singleton=False,
            on_acquired=self._note_inode,
        )

    def take(self, seconds: float) -> None:
        """Take the lock, waiting at most ``seconds``.

        Raises:
            Timeout: somebody else holds it. OSError: the file cannot be opened.
        """
        deadline = time.monotonic() + seconds
        while True:
            self._lock.acquire(timeout=max(deadline - time.monotonic(), 0.0), poll_interval=POLL_SECONDS)
            if self.still_held():
                return
            self.release()  # the file was replaced between our opening and our locking it

    def still_held(self) -> bool:
        """Whether the path still names the inode that we hold."""
        try:
            status = os.stat(self.path)
        except OSError:
            return False
        return self._inode == (status.st_dev, status.st_ino)

    def release(self) -> None:
        self._inode, self._descriptor = None, -1
        self._lock.release(force=True)

    def _note_inode(self, descriptor: int) -> None:
        status = os.fstat(descriptor)
        self._inode, self._descriptor = (status.st_dev, status.st_ino), descriptor


class SessionLock(_PathLock):
    """The ``.lock`` in a session's folder. One object a holder; not re-entrant; usable from any thread.

    ``mark``: what the last holder left in the file for the next. Two files may come into a folder within one tick of
    the clock that stamps it, so its time alone does not tell whether somebody else has appended.
    """

    def __init__(self, folder: str) -> None:
        super().__init__(paths.session_lock_path(folder))

    @property
    def mark(self) -> bytes:
        return os.pread(self._descriptor, MARK_BYTES, 0)

    @mark.setter
    def mark(self, mark: bytes) -> None:
        os.pwrite(self._descriptor, mark, 0)

    def acquire(self, seconds: float = 0.0) -> None:
        """Take the lock, waiting at most ``seconds``.

        Raises:
            Locked: another process writes this session; names it where the system tells.
            OSError: the lock file cannot be opened.
        """
        try:
            self.take(seconds)
        except Timeout:
            holder = holder_of(self.path)
            who = f"process {holder}" if holder else "another process"
            raise Locked(
                f"{who} is writing the session {os.path.basename(os.path.dirname(self.path))!r}; "
                "read it, or append again when that process is done",
                **({"holder": holder} if holder else {}),
            ) from None


class Owner(msgspec.Struct, frozen=True):
    """The daemon that owns an event-log root, as its lock file tells."""

    pid: int
    socket: str
    version: str
    started_at: str


class OwnerLock(_PathLock):
    """The ``.owner.lock`` of an event-log root, held by a daemon for its life, or by a recovery for its length."""

    def __init__(self, root: str) -> None:
        super().__init__(paths.owner_lock_path(root))

    def acquire(self, seconds: float = WAIT_FOR_OWNER_SECONDS) -> None:
        """Take the root. What the file said of an earlier owner is gone: nobody is sent to a dead daemon's socket.

        Raises:
            OwnerRunning: another daemon has it; its pid and socket are in the message and the details.
        """
        try:
            self.take(seconds)
        except Timeout:
            owner = _read_owner(self.path)
            if owner is None:
                raise OwnerRunning(f"another process holds {self.path}; stop it first") from None
            raise OwnerRunning(
                f"a daemon (process {owner.pid}) already owns this event log and listens on {owner.socket}; "
                "use it, or stop it with 'chimera daemon stop'",
                pid=owner.pid,
                socket=owner.socket,
            ) from None
        self._unsay()

    def announce(self, owner: Owner) -> None:
        """Write who owns the root into the lock file, for clients that look for the socket."""
        self._write(msgspec.json.encode(owner) + b"\n")

    def _unsay(self) -> None:
        """Overwritten rather than cut off: on a full disk there would be no room to say it again."""
        size = os.path.getsize(self.path)
        if size:
            self._write(b" " * size)

    def _write(self, body: bytes) -> None:
        descriptor = os.open(self.path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            durable.write_all(descriptor, body)
            os.ftruncate(descriptor, len(body))
        finally:
            os.close(descriptor)


def living_owner(root: str) -> Owner | None:
    """The daemon that holds the root now and has said so, or None; asks the lock, never a pid."""
    return _read_owner(paths.owner_lock_path(root)) if _is_owned(root) else None


def wait_for_owner(root: str, seconds: float) -> Owner | None:
    """As :func:`living_owner`, but waits while somebody holds the root who has not said who: a daemon that starts, or
    a recovery.

    Raises:
        OwnerRunning: that goes on for longer than ``seconds``.
    """
    deadline = time.monotonic() + seconds
    while _is_owned(root):
        owner = _read_owner(paths.owner_lock_path(root))
        if owner is not None:
            return owner
        if time.monotonic() > deadline:
            raise OwnerRunning(
                f"another process has been recovering {root} for {seconds:g} s; try again when it has ended"
            )
        time.sleep(POLL_SECONDS)
    return None


def _is_owned(root: str) -> bool:
    try:
        descriptor = os.open(paths.owner_lock_path(root), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(descriptor)
    return False


def holder_of(path: str) -> int | None:
    """The pid that holds a ``flock`` on this file, where ``/proc/locks`` tells (Linux)."""
    try:
        status = os.stat(path)
        with open("/proc/locks", encoding="ascii") as table:
            lines = table.read().splitlines()
    except OSError:
        return None
    wanted = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino}"
    for line in lines:
        fields = line.split()
        if len(fields) >= 6 and fields[1] == "FLOCK" and fields[5] == wanted and int(fields[4]) > 0:
            return int(fields[4])
    return None


def require_local_disk(root: str, allowed: bool) -> None:
    """Refuse to write on a network file system unless the configuration says that it is trusted.

    Raises:
        ReadOnly: the root lies on NFS, SMB or the like.
    """
    name = _NETWORK_FILE_SYSTEMS.get(durable.file_system_magic(root))
    if name and not allowed:
        raise ReadOnly(
            f"{root} lies on {name}, where locks and syncs promise too little; the event log is read-only there "
            "unless config.toml says [store] allow_network_file_system = true"
        )


def _read_owner(path: str) -> Owner | None:
    try:
        with open(path, "rb") as file:
            return msgspec.json.decode(file.read(), type=Owner)
    except (OSError, msgspec.DecodeError):
        return None

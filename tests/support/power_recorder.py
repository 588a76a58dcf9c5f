"""Records every change a process makes below one folder, in order, with what it tells and hears.

Loaded into the process under test by `recording` (same process) or as a command prefix
(``python -m tests.support.power_recorder TRACE WATCH python -m chimerad ...``). It wraps what Python offers for
changing files; that nothing goes past it is proved by tests.support.power_strace. Judges nothing.

An operation is a tuple, its kind first:

    ("folder", path, inode) ("file", path, inode, runs, size)       what stood there before, taken as durable
    ("create", path, inode) ("mkdir", path, inode) ("link", source, path)
    ("unlink", path) ("rmdir", path) ("rename", source, target)
    ("write", inode, offset, bytes) ("zeros", inode, offset, length) ("truncate", inode, size) ("extend", inode, size)
    ("sync_begin", token, inode) ("sync_end", token)                 inode None: the whole file system
    ("received", connection, bytes) ("sent", connection, bytes) ("mark", payload)

Only a sync has two ends: what was written while it ran is not covered by it. Everything else happens under one lock,
so that the order of the record is the order of the kernel.
"""

from __future__ import annotations

import builtins
import contextlib
import ctypes
import fcntl
import importlib
import io
import marshal
import os
import runpy
import socket
import stat
import struct
import sys
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

Operation = tuple[Any, ...]

EXCLUDED = ("home/state", "home/run", "home-chimerad.log")
"""Below the watched folder: SQLite's cache, which may vanish at any time, sockets, and what a daemon says of itself."""

SEGMENT_BYTES_VARIABLE = "POWER_SEGMENT_BYTES"
"""Set for a recorded process: small journal segments, so that a short run fills several and states are read fast."""

SKIP_VARIABLE = "POWER_SKIP"
"""Set for a recorded process: ``package.module:Class.function`` that does nothing, to see that this is noticed."""

_LENGTH = struct.Struct("<I")
_installed: Recorder | None = None


class Recorder:
    """One recording: the wrappers, the inode numbers given out, the sink of operations."""

    def __init__(self, watch: str, sink: Callable[[Operation], None]) -> None:
        self.watch = os.path.abspath(watch)
        self.excluded = tuple(os.path.join(self.watch, name) for name in EXCLUDED)
        self.sink = sink
        self.lock = threading.RLock()
        self.inodes: dict[tuple[int, int], int] = {}
        self.next_inode = 1
        self.next_token = 1
        self.connections: weakref.WeakKeyDictionary[socket.socket, int | None] = weakref.WeakKeyDictionary()
        self.next_connection = 1
        self.real: list[tuple[Any, str, Any]] = []

    def install(self) -> None:
        """Note what stands there, then wrap everything."""
        self._note_existing()
        _wrap_descriptors(self)
        _wrap_names(self)
        _wrap_syncs(self)
        _wrap_sockets(self)

    def uninstall(self) -> None:
        for owner, name, value in reversed(self.real):
            if value is None:
                delattr(owner, name)
            else:
                setattr(owner, name, value)
        self.real.clear()

    def patch(self, owner: Any, name: str, make: Callable[[Any], Any]) -> None:
        """Replace ``owner.name`` by ``make(what it was)``; an inherited one is shadowed."""
        self.real.append((owner, name, vars(owner).get(name)))
        setattr(owner, name, make(getattr(owner, name)))

    def path_of(self, path: Any, folder_descriptor: int | None = None) -> str | None:
        """The absolute path, if it is below the watched folder and not excluded."""
        if isinstance(path, int):
            return None
        text = os.fsdecode(path)
        if folder_descriptor is not None and not os.path.isabs(text):
            text = os.path.join(os.readlink(f"/proc/self/fd/{folder_descriptor}"), text)
        text = os.path.abspath(text)
        if not text.startswith(self.watch + "/") or text.startswith(self.excluded):
            return None
        return text

    def inode_of(self, descriptor: int) -> int | None:
        status = os.fstat(descriptor)
        return self.inodes.get((status.st_dev, status.st_ino))

    def new_inode(self, status: os.stat_result) -> int:
        number = self.inodes[status.st_dev, status.st_ino] = self.next_inode
        self.next_inode += 1
        return number

    def written(self, inode: int, offset: int, body: bytes) -> None:
        if body.count(0) == len(body):
            self.sink(("zeros", inode, offset, len(body)))
        else:
            self.sink(("write", inode, offset, body))

    @contextlib.contextmanager
    def syncing(self, inode: int | None) -> Iterator[None]:
        """Two operations around a sync; none at the end when it fails, for then nothing is promised."""
        with self.lock:
            token = self.next_token
            self.next_token += 1
            self.sink(("sync_begin", token, inode))
        yield
        with self.lock:
            self.sink(("sync_end", token))

    def connection_of(self, connection: socket.socket) -> int | None:
        """The number of an accepted Unix connection; None for anything else (asyncio's own pair, a client's)."""
        if connection not in self.connections:
            number = None
            if connection.family == socket.AF_UNIX and connection.getsockname():
                number = self.next_connection
                self.next_connection += 1
            self.connections[connection] = number
        return self.connections[connection]

    def _note_existing(self) -> None:
        self.sink(("folder", self.watch, self.new_inode(os.stat(self.watch))))
        for folder, folders, files in os.walk(self.watch):
            folders[:] = [name for name in sorted(folders) if self.path_of(os.path.join(folder, name))]
            for name in folders:
                path = os.path.join(folder, name)
                self.sink(("folder", path, self.new_inode(os.stat(path))))
            for name in sorted(files):
                path = os.path.join(folder, name)
                status = os.lstat(path)
                if stat.S_ISREG(status.st_mode) and self.path_of(path):
                    self.sink(("file", path, self.new_inode(status), list(read_runs(path)), status.st_size))


def read_runs(path: str, block: int = 1 << 16) -> Iterator[tuple[int, bytes]]:
    """The parts of a file that are not zero, as (offset, bytes); holes are skipped, not read."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        size, offset = os.fstat(descriptor).st_size, 0
        while offset < size:
            try:
                offset = os.lseek(descriptor, offset, os.SEEK_DATA) // block * block
            except OSError:  # ENXIO: only a hole is left
                return
            body = os.pread(descriptor, block, offset)
            if body.count(0) != len(body):
                yield offset, body
            offset += block
    finally:
        os.close(descriptor)


def acknowledge(payload: Any) -> None:
    """Says in the record that ``payload`` (marshal-able) was promised to somebody; nothing when nobody records."""
    if _installed is not None:
        with _installed.lock:
            _installed.sink(("mark", payload))


def _wrap_descriptors(recorder: Recorder) -> None:
    """What takes an open descriptor: write, pwrite, writev, pwritev, truncation, allocation, copies."""
    for name in ("write", "writev"):
        recorder.patch(os, name, partial(_at_position, recorder))
    for name in ("pwrite", "pwritev"):
        recorder.patch(os, name, partial(_at_offset, recorder))
    recorder.patch(os, "ftruncate", partial(_sizing, recorder, "truncate"))
    recorder.patch(os, "posix_fallocate", partial(_sizing, recorder, "extend"))
    recorder.patch(os, "sendfile", partial(_copying, recorder, 0))
    recorder.patch(os, "copy_file_range", partial(_copying, recorder, 1))


def _at_position(recorder: Recorder, real: Callable[..., int]) -> Callable[..., int]:
    def wrapper(descriptor: int, buffers: Any) -> int:
        inode = recorder.inode_of(descriptor)
        if inode is None:
            return real(descriptor, buffers)
        with recorder.lock:
            count = real(descriptor, buffers)
            recorder.written(inode, os.lseek(descriptor, 0, os.SEEK_CUR) - count, _joined(buffers)[:count])
        return count

    return wrapper


def _at_offset(recorder: Recorder, real: Callable[..., int]) -> Callable[..., int]:
    def wrapper(descriptor: int, buffers: Any, offset: int, *flags: int) -> int:
        inode = recorder.inode_of(descriptor)
        if inode is None:
            return real(descriptor, buffers, offset, *flags)
        with recorder.lock:
            appends = fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_APPEND  # pwrite(2), BUGS: the offset is ignored
            end = os.fstat(descriptor).st_size
            count = real(descriptor, buffers, offset, *flags)
            recorder.written(inode, end if appends else offset, _joined(buffers)[:count])
        return count

    return wrapper


def _sizing(recorder: Recorder, kind: str, real: Callable[..., None]) -> Callable[..., None]:
    def wrapper(descriptor: int, *arguments: int) -> None:
        inode = recorder.inode_of(descriptor)
        with recorder.lock:
            real(descriptor, *arguments)
            if inode is not None:
                recorder.sink((kind, inode, sum(arguments)))

    return wrapper


def _copying(recorder: Recorder, out: int, real: Callable[..., int]) -> Callable[..., int]:
    def wrapper(*arguments: Any, **options: Any) -> int:
        inode = recorder.inode_of(arguments[out])
        if inode is None:
            return real(*arguments, **options)
        with recorder.lock:
            count = real(*arguments, **options)
            offset = os.lseek(arguments[out], 0, os.SEEK_CUR) - count
            with io.FileIO(f"/proc/self/fd/{arguments[out]}") as copy:
                copy.seek(offset)
                recorder.written(inode, offset, copy.read(count) or b"")
        return count

    return wrapper


def _wrap_names(recorder: Recorder) -> None:
    """What changes a folder: open with O_CREAT, mkdir, rename, link, unlink, rmdir; and open() for writing."""
    recorder.patch(os, "open", partial(_opening, recorder))
    recorder.patch(os, "truncate", partial(_truncating, recorder))
    for name, kind in (("unlink", "unlink"), ("remove", "unlink"), ("rmdir", "rmdir"), ("mkdir", "mkdir")):
        recorder.patch(os, name, partial(_naming, recorder, kind))
    for name, kind in (("rename", "rename"), ("replace", "rename"), ("link", "link"), ("symlink", "symlink")):
        recorder.patch(os, name, partial(_moving, recorder, kind))
    recorder.patch(io, "open", partial(_opening_object, recorder))
    recorder.patch(builtins, "open", lambda _: io.open)


def _opening(recorder: Recorder, real: Callable[..., int]) -> Callable[..., int]:
    def wrapper(path: Any, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        below = recorder.path_of(path, dir_fd)
        if below is None or not flags & (os.O_CREAT | os.O_TRUNC):
            return real(path, flags, mode, dir_fd=dir_fd)
        with recorder.lock:
            existed = os.path.exists(below)
            descriptor = real(path, flags, mode, dir_fd=dir_fd)
            if not existed:
                recorder.sink(("create", below, recorder.new_inode(os.fstat(descriptor))))
            elif flags & os.O_TRUNC and (inode := recorder.inode_of(descriptor)) is not None:
                recorder.sink(("truncate", inode, 0))
        return descriptor

    return wrapper


def _naming(recorder: Recorder, kind: str, real: Callable[..., None]) -> Callable[..., None]:
    def wrapper(path: Any, *arguments: Any, dir_fd: int | None = None, **options: Any) -> None:
        below = recorder.path_of(path, dir_fd)
        with recorder.lock:
            real(path, *arguments, dir_fd=dir_fd, **options)
            if below is not None:
                made = (recorder.new_inode(os.stat(below)),) if kind == "mkdir" else ()
                recorder.sink((kind, below, *made))

    return wrapper


def _moving(recorder: Recorder, kind: str, real: Callable[..., None]) -> Callable[..., None]:
    def wrapper(source: Any, target: Any, **options: Any) -> None:
        names = (
            recorder.path_of(source, options.get("src_dir_fd")),
            recorder.path_of(target, options.get("dst_dir_fd")),
        )
        with recorder.lock:
            real(source, target, **options)
            if names != (None, None):
                recorder.sink((kind, *names))

    return wrapper


def _truncating(recorder: Recorder, real: Callable[..., None]) -> Callable[..., None]:
    def wrapper(path: Any, length: int) -> None:
        below = recorder.path_of(path)
        with recorder.lock:
            real(path, length)
            if below is not None:
                status = os.stat(below)
                recorder.sink(("truncate", recorder.inodes[status.st_dev, status.st_ino], length))

    return wrapper


def _opening_object(recorder: Recorder, real: Callable[..., Any]) -> Callable[..., Any]:
    def wrapper(file: Any, mode: str = "r", *arguments: Any, **options: Any) -> Any:
        changes = any(letter in mode for letter in "wax+")
        ours = recorder.inode_of(file) is not None if isinstance(file, int) else recorder.path_of(file)
        if not changes or not ours or options.get("opener"):
            return real(file, mode, *arguments, **options)
        return _open_recorded(file, mode, *arguments, **options)

    return wrapper


def _wrap_syncs(recorder: Recorder) -> None:
    """fsync, fdatasync, sync, and syncfs of the C library, whoever loads it."""

    def of_descriptor(real: Callable[[int], None]) -> Callable[[int], None]:
        def wrapper(descriptor: int) -> None:
            number = descriptor if isinstance(descriptor, int) else descriptor.fileno()
            inode = recorder.inode_of(number)
            if inode is None:
                return real(number)
            with recorder.syncing(inode):
                real(number)
            return None

        return wrapper

    def of_everything(real: Callable[[], None]) -> Callable[[], None]:
        def wrapper() -> None:
            with recorder.syncing(None):
                real()

        return wrapper

    def of_library(real: Callable[[Any, str], Any]) -> Callable[[Any, str], Any]:
        def wrapper(library: ctypes.CDLL, name: str) -> Any:
            function = real(library, name)
            if name not in ("syncfs", "fsync", "fdatasync"):
                return function

            def synced(descriptor: int) -> int:
                inode = None if name == "syncfs" else recorder.inode_of(descriptor)
                try:
                    with recorder.syncing(inode):
                        if (answer := int(function(descriptor))) != 0:
                            raise _SyncRefused
                except _SyncRefused:
                    return answer
                return 0

            setattr(library, name, synced)  # ctypes keeps a function on the library once it was asked for
            return synced

        return wrapper

    recorder.patch(os, "fsync", of_descriptor)
    recorder.patch(os, "fdatasync", of_descriptor)
    recorder.patch(os, "sync", of_everything)
    recorder.patch(ctypes.CDLL, "__getattr__", of_library)


class _SyncRefused(Exception):
    pass


def _wrap_sockets(recorder: Recorder) -> None:
    """What accepted connections hear and say. Said is recorded with the call: a client may know it from then on."""

    def saying(real: Callable[..., Any]) -> Callable[..., Any]:
        def wrapper(connection: socket.socket, body: Any, *arguments: Any) -> Any:
            number = recorder.connection_of(connection)
            if number is None:
                return real(connection, body, *arguments)
            body = body if isinstance(body, bytes | bytearray | memoryview) else list(body)
            with recorder.lock:
                count = real(connection, body, *arguments)
                recorder.sink(("sent", number, _joined(body)[:count]))  # sendall answers None: all of it
            return count

        return wrapper

    def hearing(real: Callable[..., Any]) -> Callable[..., Any]:
        def wrapper(connection: socket.socket, what: Any, *arguments: Any) -> Any:
            number = recorder.connection_of(connection)
            with recorder.lock if number is not None else contextlib.nullcontext():
                answer = real(connection, what, *arguments)
                if number is not None:
                    heard = answer if isinstance(answer, bytes) else bytes(memoryview(what)[:answer])
                    recorder.sink(("received", number, heard))
            return answer

        return wrapper

    for name in ("send", "sendall", "sendmsg"):
        recorder.patch(socket.socket, name, saying)
    for name in ("recv", "recv_into"):
        recorder.patch(socket.socket, name, hearing)


def _joined(buffers: Any) -> bytes:
    """The bytes of one buffer or of a sequence of them."""
    if isinstance(buffers, list | tuple):
        return b"".join(bytes(memoryview(buffer).cast("B")) for buffer in buffers)
    return bytes(memoryview(buffers).cast("B"))


class _RecordedFile(io.RawIOBase):
    """A raw file whose every call goes through ``os``, where the wrappers are; C code inside ``io`` does not."""

    def __init__(self, descriptor: int, mode: str) -> None:
        self.descriptor, self.mode, self.name = descriptor, mode, f"<recorded {descriptor}>"

    def fileno(self) -> int:
        return self.descriptor

    def readable(self) -> bool:
        return "r" in self.mode or "+" in self.mode

    def writable(self) -> bool:
        return self.mode.strip("bt") != "r"

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        body = os.read(self.descriptor, len(buffer))
        buffer[: len(body)] = body
        return len(body)

    def write(self, body: Any) -> int:
        return os.write(self.descriptor, body)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return os.lseek(self.descriptor, offset, whence)

    def truncate(self, size: int | None = None) -> int:
        end = self.tell() if size is None else size
        os.ftruncate(self.descriptor, end)
        return end

    def close(self) -> None:
        if not self.closed:
            super().close()
            os.close(self.descriptor)


_FLAGS = {"w": os.O_CREAT | os.O_TRUNC, "x": os.O_CREAT | os.O_EXCL, "a": os.O_CREAT | os.O_APPEND, "r": 0}


def _open_recorded(
    file: Any,
    mode: str,
    buffering: int = -1,
    encoding: str | None = None,
    errors: str | None = None,
    newline: str | None = None,
    closefd: bool = True,
) -> Any:
    """What ``open`` does, over :class:`_RecordedFile`."""
    plain = next(letter for letter in mode if letter in _FLAGS)
    access = os.O_RDWR if "+" in mode else os.O_WRONLY
    if isinstance(file, int):
        descriptor = file if closefd else os.dup(file)
    else:
        descriptor = os.open(file, _FLAGS[plain] | access | os.O_CLOEXEC, 0o666)
    raw = _RecordedFile(descriptor, mode)
    if buffering == 0:
        return raw
    buffered = io.BufferedRandom(raw) if "+" in mode else io.BufferedWriter(raw)  # type: ignore[type-var]
    return buffered if "b" in mode else io.TextIOWrapper(buffered, encoding, errors, newline)


@contextlib.contextmanager
def recording(watch: str) -> Iterator[list[Operation]]:
    """Record this process while the block runs."""
    global _installed
    operations: list[Operation] = []
    recorder = Recorder(watch, operations.append)
    recorder.install()
    _installed = recorder
    try:
        yield operations
    finally:
        _installed = None
        recorder.uninstall()


def read_trace(path: str) -> list[Operation]:
    """The operations of a recorded process; a last one cut off by its death is left out."""
    operations = []
    with open(path, "rb") as trace:
        while len(head := trace.read(_LENGTH.size)) == _LENGTH.size:
            body = trace.read(_LENGTH.unpack(head)[0])
            try:
                operations.append(marshal.loads(body))
            except (EOFError, ValueError):
                break
    return operations


def trace_sink(path: str) -> Callable[[Operation], None]:
    """Writes each operation to a file at once, so that a killed process leaves all it did."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o600)
    write = os.write

    def sink(operation: Operation) -> None:
        body = marshal.dumps(operation)
        write(descriptor, _LENGTH.pack(len(body)) + body)

    return sink


def change_program() -> None:
    """What the environment asks to be different in the program; after the wrappers, before it runs."""
    if SEGMENT_BYTES_VARIABLE in os.environ:
        journal: Any = importlib.import_module("chimera.sessions.eventlog.journal")
        journal.SEGMENT_BYTES = int(os.environ[SEGMENT_BYTES_VARIABLE])
    if SKIP_VARIABLE in os.environ:
        owner, name = locate(os.environ[SKIP_VARIABLE])
        setattr(owner, name, lambda *_: [])


def locate(target: str) -> tuple[Any, str]:
    """The module or class that holds ``package.module:Class.function``, and the last name."""
    module_name, _, path = target.partition(":")
    owner: Any = importlib.import_module(module_name)
    *parents, name = path.split(".")
    for parent in parents:
        owner = getattr(owner, parent)
    return owner, name


def run_recorded(trace: str, watch: str, command: Sequence[str]) -> None:
    """Record this process into a file from here to its end, running ``command`` (``python -m module ...``) in it."""
    global _installed
    _installed = Recorder(watch, trace_sink(trace))
    _installed.install()
    change_program()
    _, flag, module, *arguments = command
    if flag != "-m":
        raise ValueError(f"only 'python -m module' can be recorded, not {command}")
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def prefix(trace: str, watch: str) -> tuple[str, ...]:
    """What to put before ``python -m module ...`` so that the process records itself."""
    return (sys.executable, "-m", "tests.support.power_recorder", trace, watch)


if __name__ == "__main__":
    from tests.support import power_recorder

    power_recorder.run_recorded(sys.argv[1], sys.argv[2], sys.argv[3:])

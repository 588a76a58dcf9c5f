"""The JSONL file behind a session tree: its records, its lock, and every older shape of it. Knows no graph.

    every record    type, id (12 lower hex where we make it), parent_id (null: a root), timestamp (epoch seconds)
    session, fork   {name}: a session begins, as a root or behind its parent, and with it a branch
    switch          {}: the position moves to the parent
    message         {message: {role, content, [tool_calls], [call_id]}}
    compaction      {summary, first_kept_entry_id, ...}
    label           {target_id, label}
    header, state_change and whatever else another writer adds are entries without a message

A change is one line, appended under a lock and synced; nothing is ever rewritten. Readers take no lock: they take
every line that has its end, and say what is wrong with it in place of an error.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
from collections.abc import Iterator
from typing import Any

import msgspec
from filelock import FileLock, Timeout

from chimera import durable, paths
from chimera.errors import InvalidParams, Locked, NoSpace, StorageError
from chimera.events.check import encode_metadata
from chimera.sessions.eventlog.locks import POLL_SECONDS, holder_of
from chimera.sessions.eventlog.older_shapes import decode_object
from chimera.sessions.messages import Message, ToolCall, text_of

__all__ = ["WAIT_SECONDS", "TreeFile", "TreeLine", "TreeProblem", "TreeRecord", "default_tree_path"]

WAIT_SECONDS = 30.0
"""An append waits so long for another process that appends."""

_LATEST_TIMESTAMP = 2.0**53


class TreeProblem(msgspec.Struct, frozen=True):
    """What is wrong with a line of the file, the first being 1; reading went on around it."""

    line: int
    message: str


class TreeRecord(msgspec.Struct, kw_only=True):
    """One change of the tree, as it is written; the further members belong to some types alone.

    Attributes:
        timestamp: seconds since the epoch.
        name: of a ``session`` or ``fork``, its branch.
    """

    type: str
    id: str
    parent_id: str | None
    timestamp: float
    name: str | msgspec.UnsetType = msgspec.UNSET
    message: Message | msgspec.UnsetType = msgspec.UNSET
    summary: str | msgspec.UnsetType = msgspec.UNSET
    first_kept_entry_id: str | msgspec.UnsetType = msgspec.UNSET
    target_id: str | msgspec.UnsetType = msgspec.UNSET
    label: str | msgspec.UnsetType = msgspec.UNSET


class TreeLine(msgspec.Struct):
    """A line as it was read: its number, the record unless there is none in it, and what is wrong with it."""

    number: int
    record: TreeRecord | None
    problems: list[str]


class TreeFile:
    """The file at ``path``, read from where the last reading ended.

    Attributes:
        unended: the last line, while it has no end: somebody is writing it, or died over it. It is no part of the
            tree until the next append ends it.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.unended: TreeProblem | None = None
        self._inode: tuple[int, int] | None = None
        self._offset = 0
        self._lines = 0
        self._entry_is_durable = False

    def was_replaced(self) -> bool:
        """Whether the path names another file by now, a shorter one or none: what was read no longer holds."""
        if self._inode is None:
            return False
        try:
            status = os.stat(self.path)
        except FileNotFoundError:
            return True
        except OSError as error:
            raise _cannot_read(self.path, error) from error
        return self._inode != (status.st_dev, status.st_ino) or status.st_size < self._offset

    def read_new(self) -> Iterator[TreeLine]:
        """The lines that were appended since the last reading; blank ones are passed over.

        Raises:
            StorageError: the file is there and cannot be read.
        """
        try:
            with open(self.path, "rb") as file:
                status = os.fstat(file.fileno())
                inode = (status.st_dev, status.st_ino)
                if self._inode not in (None, inode):
                    return  # replaced in this instant; the next reading begins anew
                self._inode = inode
                self.unended = None
                if status.st_size != self._offset:
                    file.seek(self._offset)
                    yield from self._take(file)
        except FileNotFoundError:
            return
        except OSError as error:
            raise _cannot_read(self.path, error) from error

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other writers out; the folder is made where it is missing.

        Raises:
            Locked: another process has held the lock for 30 s.
            StorageError: the folder or the lock file cannot be made.
        """
        lock = FileLock(
            f"{self.path}.lock", mode=paths.FILE_MODE, thread_local=False, fallback_to_soft=False, is_singleton=False
        )
        try:
            durable.make_folder(os.path.dirname(self.path))
            lock.acquire(timeout=WAIT_SECONDS, poll_interval=POLL_SECONDS)
        except Timeout:
            raise _held(self.path) from None
        except OSError as error:
            raise _refused(self.path, error) from error
        try:
            yield
        finally:
            lock.release(force=True)

    def end_last_line(self) -> None:
        """Give a last line without an end its newline, whatever it holds: nothing is destroyed. Needs the lock."""
        try:
            if self._lacks_end():
                durable.append_file(self.path, b"\n")
        except OSError as error:
            raise _refused(self.path, error) from error

    def append(self, record: TreeRecord) -> None:
        """Append one line, durably. Needs the lock.

        Raises:
            InvalidParams, EventTooLarge: the record cannot be written as JSON; nothing was written.
            NoSpace, StorageError: the disk refused; what became of the line is not known.
        """
        body = _encode(record)
        try:
            durable.append_file(self.path, body)
            if not self._entry_is_durable:  # who made the file may have died before its folder was synced
                durable.sync_folder(os.path.dirname(self.path))
                self._entry_is_durable = True
        except OSError as error:
            raise _refused(self.path, error) from error

    def _take(self, lines: Iterator[bytes]) -> Iterator[TreeLine]:
        for raw in lines:
            if not raw.endswith(b"\n"):
                self.unended = TreeProblem(
                    self._lines + 1, f"its {len(raw)} bytes have no end yet; the next append gives them one"
                )
                return
            self._offset += len(raw)
            self._lines += 1
            if not raw.isspace():
                yield _line_of(self._lines, raw)

    def _lacks_end(self) -> bool:
        try:
            with open(self.path, "rb") as file:
                size = os.fstat(file.fileno()).st_size
                return size > 0 and os.pread(file.fileno(), 1, size - 1) != b"\n"
        except FileNotFoundError:
            return False


def default_tree_path() -> str:
    """``<home>/sessions/<12 hex of the working directory's SHA-256>.jsonl``: each working directory has a tree."""
    name = hashlib.sha256(os.fsencode(os.getcwd())).hexdigest()[:12]
    return os.path.join(paths.home(), "sessions", f"{name}.jsonl")


def _encode(record: TreeRecord) -> bytes:
    try:
        members = msgspec.to_builtins(record)
    except (TypeError, RecursionError) as error:
        raise InvalidParams(f"the {record.type} cannot be written as JSON: {error}") from None
    return encode_metadata(members) + b"\n"


def _line_of(number: int, raw: bytes) -> TreeLine:
    """What a line holds. Zero bytes around a record are what a power cut leaves of a write."""
    problems = ["it holds NUL bytes, as a power cut leaves them"] if b"\0" in raw else []
    body = raw.strip(b"\0 \t\r\n")
    line = TreeLine(number, None, problems)
    if not body:
        return line
    try:
        members = decode_object(body)
        if members is None:
            problems.append("it is no JSON object")
        else:
            line.record = _record_of(members, problems)
    except RecursionError:
        problems.append("it is nested too deeply")
    return line


def _record_of(members: dict[str, Any], problems: list[str]) -> TreeRecord | None:
    kind, record_id = members.get("type"), members.get("id")
    if not isinstance(kind, str) or not kind or not isinstance(record_id, str) or not record_id:
        problems.append("it has no id or no type, and is passed over")
        return None
    record = TreeRecord(
        type=kind, id=record_id, parent_id=_parent_of(members, problems), timestamp=_time_of(members, problems)
    )
    if kind == "message":
        message = _message_of(members.get("message"), problems)
        record.message = message if message is not None else msgspec.UNSET
    elif kind == "compaction":
        record.summary = text_of(members.get("summary"))
        record.first_kept_entry_id = text_of(members.get("first_kept_entry_id"))
    elif kind == "label":
        record.target_id, record.label = text_of(members.get("target_id")), text_of(members.get("label"))
    elif kind in ("session", "fork"):
        record.name = text_of(members.get("name"))
    return record


def _parent_of(members: dict[str, Any], problems: list[str]) -> str | None:
    parent_id = members.get("parent_id")
    if isinstance(parent_id, str) or (parent_id is None and "parent_id" in members):
        return parent_id
    problems.append("it has no parent_id that is text or null, and is taken as a root")
    return None


def _time_of(members: dict[str, Any], problems: list[str]) -> float:
    value = members.get("timestamp")
    if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= _LATEST_TIMESTAMP:
        return float(value)
    problems.append("it has no timestamp in seconds")
    return 0.0


def _message_of(value: object, problems: list[str]) -> Message | None:
    if not isinstance(value, dict) or not isinstance(value.get("role"), str):
        problems.append("it holds no message with a role")
        return None
    calls = value.get("tool_calls") or []
    if not isinstance(calls, list) or not all(isinstance(call, dict) for call in calls):
        problems.append("its tool_calls are no list of objects, and are left out")
        calls = []
    call_id = value.get("call_id")
    return Message(
        role=value["role"],
        content=text_of(value.get("content")),
        tool_calls=tuple(_call_of(call, problems) for call in calls),
        call_id=None if call_id is None else text_of(call_id),
        event_id=text_of(value.get("event_id")),
        synthetic=value.get("synthetic") is True,
    )


def _call_of(call: dict[str, Any], problems: list[str]) -> ToolCall:
    arguments = call.get("arguments")
    if not isinstance(arguments, dict):
        problems.append("the arguments of a tool call in it are no object, and are left out")
        arguments = {}
    return ToolCall(text_of(call.get("id")), text_of(call.get("name")), arguments)


def _held(path: str) -> Locked:
    holder = holder_of(f"{path}.lock")
    who = f"process {holder}" if holder else "another process"
    details = {"holder": holder} if holder else {}
    return Locked(
        f"{who} has been writing the session tree {path!r} for {WAIT_SECONDS:g} s; try again when it is done", **details
    )


def _refused(path: str, error: OSError) -> NoSpace | StorageError:
    reason = error.strerror or str(error)
    kind = NoSpace if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) else StorageError
    return kind(f"the disk refused the append to {path!r} ({reason}); read the tree to see whether it is there")


def _cannot_read(path: str, error: OSError) -> StorageError:
    return StorageError(
        f"the session tree {path!r} cannot be read ({error.strerror or error}); see to it and try again"
    )

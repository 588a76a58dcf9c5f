"""One tree of errors; each knows its JSON-RPC code, its kind and its exit code.

Used by the library, the daemon, the clients and the command line alike, so it imports nothing:
neither a socket nor a data library may be loaded by somebody who only wants to catch an error.

    ChimeraError
    |-- InvalidRequest, ParseError, MethodNotFound, InvalidParams, InternalError   the standard codes
    |-- SessionNotFound, NoSummary, MalformedSummary, SessionExists, InvalidId     which session
    |-- SeqConflict, IdConflict, TurnRunning, Locked, LogGapError, CompactionFailed   its state
    |-- TooLarge, EventTooLarge, Overloaded, NotPermitted                          limits
    |-- ReadOnly, NoSpace, StorageError                                            the disk
    |-- ConfigError, OwnerRunning                                                  the daemon's start
    `-- DaemonUnreachable -- DaemonWedged, WrongVersion, ConnectionLost            seen by clients alone
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:  # a name of our own: ``typing`` costs the command line half an interpreter's start
    from typing import Any

EXIT_OK = 0
EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130


class ChimeraError(Exception):
    """Base of every error of ours.

    ``message`` is one sentence that says what was wrong and what to do. ``details`` are further
    members of the JSON-RPC ``error.data`` object beside ``kind``.
    """

    code = -32603
    kind = "internal_error"
    exit_code = EXIT_FAILED

    def __init__(self, message: str, **details: Any) -> None:
        super().__init__(message)
        self.message = message
        self.details = details

    def to_rpc(self) -> dict[str, Any]:
        """The JSON-RPC ``error`` member: code, message, data with its kind."""
        return {"code": self.code, "message": self.message, "data": {"kind": self.kind, **self.details}}


class ParseError(ChimeraError):
    code, kind = -32700, "parse_error"


class InvalidRequest(ChimeraError):
    code, kind = -32600, "invalid_request"


class MethodNotFound(ChimeraError):
    code, kind, exit_code = -32601, "method_not_found", EXIT_USAGE


class InvalidParams(ChimeraError):
    code, kind, exit_code = -32602, "invalid_params", EXIT_USAGE


class InternalError(ChimeraError):
    """A bug of ours. Its message never carries the text of the cause, which may hold a secret."""


class SessionNotFound(ChimeraError):
    code, kind, exit_code = -32004, "session_not_found", EXIT_USAGE


class NoSummary(ChimeraError):
    code, kind, exit_code = -32005, "no_summary", EXIT_USAGE


class InvalidId(ChimeraError):
    code, kind, exit_code = -32006, "invalid_id", EXIT_USAGE


class SeqConflict(ChimeraError):
    """``expect_seq`` was not the head; ``details["head_seq"]`` is."""

    code, kind = -32009, "seq_conflict"


class TurnRunning(ChimeraError):
    code, kind = -32010, "turn_running"


class LogGapError(ChimeraError):
    """Events are missing from a log; ``missing`` holds their numbers (``seq``, from 1)."""

    code, kind = -32011, "log_gap"

    @property
    def missing(self) -> list[int]:
        return list(self.details.get("missing", []))


class ReadOnly(ChimeraError):
    code, kind = -32012, "read_only"


class Overloaded(ChimeraError):
    code, kind = -32001, "overloaded"


class NoSpace(ChimeraError):
    code, kind = -32013, "no_space"


class NotPermitted(ChimeraError):
    code, kind = -32014, "not_permitted"


class TooLarge(ChimeraError):
    code, kind = -32015, "too_large"


class EventTooLarge(ChimeraError):
    code, kind = -32016, "event_too_large"


class IdConflict(ChimeraError):
    code, kind = -32017, "id_conflict"


class Locked(ChimeraError):
    code, kind = -32018, "locked"


class MalformedSummary(ChimeraError):
    code, kind, exit_code = -32019, "malformed_summary", EXIT_USAGE


class CompactionFailed(ChimeraError):
    """No summary could be had; the context is as it was."""

    code, kind = -32022, "compaction_failed"


class SessionExists(ChimeraError):
    code, kind = -32020, "session_exists"


class StorageError(ChimeraError):
    """The disk refused a read, a write or a sync."""

    code, kind = -32021, "io_error"


class ConfigError(ChimeraError):
    code, kind, exit_code = -32602, "invalid_config", EXIT_USAGE


class OwnerRunning(ChimeraError):
    """Another daemon owns this event-log root."""

    code, kind = -32018, "owner_running"


class DaemonUnreachable(ChimeraError):
    """No daemon answers and none could be started."""

    code, kind = -32000, "daemon_unreachable"


class DaemonWedged(DaemonUnreachable):
    """Something listens and does not answer."""

    kind = "daemon_wedged"


class WrongVersion(DaemonUnreachable):
    """The daemon speaks another protocol than this client."""

    kind = "wrong_version"


class ConnectionLost(DaemonUnreachable):
    """The connection ended before the answer came; what became of the call is not known."""

    kind = "connection_lost"


class RemoteError(ChimeraError):
    """An error of a kind that this version does not know; code and kind are the daemon's."""

    def __init__(self, message: str, code: int, kind: str, **details: Any) -> None:
        super().__init__(message, **details)
        self.code = code
        self.kind = kind


def _tree(root: type[ChimeraError]) -> list[type[ChimeraError]]:
    return [root, *(leaf for branch in root.__subclasses__() for leaf in _tree(branch))]


def error_from_rpc(error: dict[str, Any]) -> ChimeraError:
    """The inverse of :meth:`ChimeraError.to_rpc`: the class is found by ``data.kind``, else by code."""
    message = str(error.get("message", "the daemon gave no message"))
    code = int(error.get("code", InternalError.code))
    data = error.get("data")
    details = dict(data) if isinstance(data, dict) else {}
    kind = str(details.pop("kind", ""))
    for known in _tree(ChimeraError):
        if known is not RemoteError and (known.kind == kind or (not kind and known.code == code)):
            return known(message, **details)
    return RemoteError(message, code, kind or "unknown", **details)

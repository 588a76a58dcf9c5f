"""Every path under ``CHIMERA_HOME`` and the socket's, with their modes. Opens and creates nothing.

Paths are plain ``str``: the command line must not pay for ``pathlib``, and the store joins a great many.
"""

from __future__ import annotations

import os

from chimera.errors import NotPermitted

__all__ = [
    "FILE_MODE",
    "FOLDER_MODE",
    "blobs_folder",
    "config_path",
    "eventlog_root",
    "home",
    "index_path",
    "journal_folder",
    "ledger_path",
    "lost_folder",
    "owner_lock_path",
    "quarantine_folder",
    "session_folder",
    "session_lock_path",
    "socket_path",
    "start_lock_path",
    "summary_path",
    "trash_folder",
]

FOLDER_MODE = 0o700
FILE_MODE = 0o600
MAX_SOCKET_PATH_BYTES = 107
"""``sun_path`` holds 108 bytes with its NUL on Linux (unix(7))."""


def home(override: str | None = None) -> str:
    """The state home: ``override``, else ``$CHIMERA_HOME``, else ``~/.chimera``; absolute."""
    chosen = override or os.environ.get("CHIMERA_HOME") or "~/.chimera"
    return os.path.abspath(os.path.expanduser(chosen))


def eventlog_root(home_folder: str) -> str:
    return os.path.join(home_folder, "eventlog")


def config_path(home_folder: str) -> str:
    return os.path.join(home_folder, "config.toml")


def index_path(home_folder: str) -> str:
    return os.path.join(home_folder, "state", "index.db")


def start_lock_path(home_folder: str) -> str:
    """Held by a client while it starts a daemon, so that ten clients start one."""
    return os.path.join(home_folder, "run", "start.lock")


def daemon_log_path(home_folder: str) -> str:
    """Where a daemon that a client started writes its log lines."""
    return os.path.join(home_folder, "run", "chimerad.log")


def journal_folder(root: str) -> str:
    return os.path.join(root, ".journal")


def trash_folder(root: str) -> str:
    return os.path.join(root, ".trash")


def lost_folder(root: str) -> str:
    return os.path.join(root, ".lost")


def ledger_path(root: str) -> str:
    return os.path.join(root, ".ledger.jsonl")


def owner_lock_path(root: str) -> str:
    return os.path.join(root, ".owner.lock")


def session_folder(root: str, session_id: str) -> str:
    """The folder of a session; the id must have been checked (chimera.identifiers)."""
    return os.path.join(root, session_id)


def session_lock_path(folder: str) -> str:
    return os.path.join(folder, ".lock")


def summary_path(folder: str) -> str:
    return os.path.join(folder, "summary.json")


def blobs_folder(folder: str) -> str:
    """Where a session keeps what files were before and after its tools wrote them."""
    return os.path.join(folder, "blobs")


def quarantine_folder(folder: str) -> str:
    """Where a session keeps what was set aside from its log."""
    return os.path.join(folder, "quarantine")


def socket_path(home_folder: str | None = None, override: str | None = None) -> str:
    """``override``, else ``<home>/run/chimerad.sock`` of a home that was given, else ``$CHIMERA_SOCKET``, else that of
    ``$CHIMERA_HOME``, else ``$XDG_RUNTIME_DIR/chimera/chimerad.sock``, else ``~/.chimera/run/chimerad.sock``.

    Raises:
        NotPermitted: the path is longer than the system allows.
    """
    chosen = override or ("" if home_folder else os.environ.get("CHIMERA_SOCKET"))
    if not chosen and not home_folder and not os.environ.get("CHIMERA_HOME") and os.environ.get("XDG_RUNTIME_DIR"):
        chosen = os.path.join(os.environ["XDG_RUNTIME_DIR"], "chimera", "chimerad.sock")
    if not chosen:
        chosen = os.path.join(home(home_folder), "run", "chimerad.sock")
    chosen = os.path.abspath(os.path.expanduser(chosen))
    if len(os.fsencode(chosen)) > MAX_SOCKET_PATH_BYTES:
        raise NotPermitted(
            f"the socket path {chosen!r} is longer than the system's {MAX_SOCKET_PATH_BYTES} bytes; "
            "set CHIMERA_SOCKET to a shorter one"
        )
    return chosen

"""Sessions as files, one JSON document each: ``<CHIMERA_HOME>/sessions/<session id>.json``.

Older programs of the family keep trees of sessions in the same folder, as ``<12 hex>.jsonl``: these are not touched.
Knows the shape of a session through :mod:`chimera.sessions.storage.form` alone.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager

import msgspec
from filelock import FileLock, Timeout

from chimera import durable, paths
from chimera.errors import InvalidId, Locked
from chimera.identifiers import check_session_id
from chimera.sessions.eventlog.older_shapes import decode_object
from chimera.sessions.storage.base import SessionStorage, Storable, StoredSession
from chimera.sessions.storage.form import SessionForm, encode_form, form_of, read_form, session_of
from chimera.sessions.storage.refusals import refused_by_disk

__all__ = ["FileSessionStorage", "write_session_file"]

SUFFIX = ".json"
LOCK_FILE = ".lock"
LOCK_SECONDS = 30.0
POLL_SECONDS = 0.01

_LEFT_BEHIND = re.compile(r"\.json\.new-\d+-[0-9a-f]{8}\Z")
"""What :func:`chimera.durable.replace_file` writes before it renames."""


class FileSessionStorage(SessionStorage):
    """One file a session, replaced in one step at each save and durable when ``save`` returns.

    Who saves or deletes holds a lock on the folder, so that ``created_at`` stays the first one whoever saves; who
    loads waits for nobody.

    Args:
        directory: where the files lie; a leading ``~`` is expanded. It is made at the first save.
    """

    def __init__(self, directory: str | os.PathLike[str] | None = None) -> None:
        chosen = os.path.join(paths.home(), "sessions") if directory is None else os.fspath(directory)
        self.directory = os.path.abspath(os.path.expanduser(chosen))
        self._swept = False

    def save(self, session: StoredSession | Storable) -> None:
        form = form_of(session)
        path = self._path(form.session_id)
        with refused_by_disk(path):
            durable.make_folder(self.directory)
            with self._locked():
                self._sweep()
                kept = _read(path)
                if kept is not None:
                    form.created_at = kept.created_at
                _write(path, form)

    def load(self, session_id: str) -> StoredSession | None:
        path = self._path(session_id)
        with refused_by_disk(path):
            form = _read(path)
        if form is None:
            return None
        form.session_id = session_id  # a copied file still says its original's
        return session_of(form)

    def list_sessions(self) -> list[str]:
        """The ids, sorted: the stems of the folder's ``*.json`` files that can be ids."""
        with refused_by_disk(self.directory):
            try:
                with os.scandir(self.directory) as entries:
                    stems = [entry.name.removesuffix(SUFFIX) for entry in entries if _is_session_file(entry)]
            except FileNotFoundError:
                return []
        return sorted(stems)

    def delete(self, session_id: str) -> None:
        path = self._path(session_id)
        with refused_by_disk(path):
            if os.path.lexists(path):
                with self._locked():
                    durable.remove_file(path)

    def _path(self, session_id: str) -> str:
        return os.path.join(self.directory, check_session_id(session_id) + SUFFIX)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """A lock object for each holder: one that threads share would let them all in."""
        path = os.path.join(self.directory, LOCK_FILE)
        lock = FileLock(path, mode=paths.FILE_MODE, fallback_to_soft=False, is_singleton=False)
        try:
            lock.acquire(timeout=LOCK_SECONDS, poll_interval=POLL_SECONDS)
        except Timeout:
            raise Locked(
                f"another process has been writing in {self.directory} for {LOCK_SECONDS:g} s; "
                "try again when it has ended"
            ) from None
        try:
            yield
        finally:
            lock.release()

    def _sweep(self) -> None:
        """Remove what writers left that were killed: under the lock nobody else writes, so the rest is theirs."""
        if not self._swept:
            names = [name for name in os.listdir(self.directory) if _LEFT_BEHIND.search(name)]
            durable.remove_files(os.path.join(self.directory, name) for name in names)
            self._swept = True


def write_session_file(path: str, session: StoredSession | Storable) -> None:
    """Write the session, just as it is given, in the place of whatever lies at ``path``, in one step.

    Raises:
        InvalidId, InvalidParams: the session cannot be stored.
        NoSpace, ReadOnly, StorageError: it was not written; what was there before still is.
    """
    form = form_of(session)
    with refused_by_disk(path):
        durable.make_folder(os.path.dirname(os.path.abspath(path)))
        _write(os.path.abspath(path), form)


def _write(path: str, form: SessionForm) -> None:
    durable.replace_file(path, msgspec.json.format(encode_form(form), indent=2))


def _read(path: str) -> SessionForm | None:
    try:
        with open(path, "rb") as file:
            body = file.read()
    except FileNotFoundError:
        return None
    return read_form(decode_object(body), f"the file {path}")


def _is_session_file(entry: os.DirEntry[str]) -> bool:
    if not entry.name.endswith(SUFFIX) or not entry.is_file():
        return False
    try:
        check_session_id(entry.name.removesuffix(SUFFIX))
    except InvalidId:
        return False
    return True

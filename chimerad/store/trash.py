"""The trash of an event-log root: a session is moved there whole, with a manifest, and can be moved back (rule 17).

    .trash/<trash id>.json    the manifest, durable before the one rename
    .trash/<trash id>/        the session's folder as it was

Blocking: runs in a thread, under the lane. Knows no index and no open session.
"""

from __future__ import annotations

import logging
import os
import shutil
import time

import msgspec

from chimera import durable, paths
from chimera.errors import InvalidId, LogGapError, MalformedSummary, NoSummary, SessionExists, SessionNotFound
from chimera.identifiers import MAX_SESSION_ID_BYTES, check_session_id, epoch_microseconds, format_timestamp
from chimera.sessions.summary import read_summary
from chimerad.store import ledger
from chimerad.store.open_sessions import session_not_found

log = logging.getLogger(__name__)

_PURGING = ".purging-"

__all__ = ["TrashItem", "clean_trash", "list_trash", "move_to_trash", "purge", "restore", "session_of"]


class TrashItem(msgspec.Struct, kw_only=True):
    """A manifest, as it lies beside the folder and as ``trash.list`` gives it."""

    trash_id: str
    session_id: str
    deleted_at: str
    bytes: int = 0
    title: str | None = None
    prompt: str = ""


def move_to_trash(root: str, session_id: str) -> str:
    """Move a session's folder to the trash; returns the trash id.

    Raises:
        SessionNotFound; OSError: nothing has moved.
    """
    folder = paths.session_folder(root, session_id)
    if not os.path.isdir(folder):
        raise session_not_found(session_id)
    trash_id = _new_trash_id(session_id)
    item = TrashItem(
        trash_id=trash_id,
        session_id=session_id,
        deleted_at=format_timestamp(time.time_ns()),
        bytes=_bytes_in(folder),
    )
    try:
        _, view = read_summary(folder)
        item.title, item.prompt = view.title, view.prompt[:200]
    except (NoSummary, MalformedSummary):
        pass  # the manifest names the session all the same
    durable.make_folder(paths.trash_folder(root))
    ledger.note(root, "delete", session_id, trash_id=trash_id)
    durable.create_file(_manifest_path(root, trash_id), msgspec.json.encode(item))
    durable.move(folder, _folder_path(root, trash_id))
    return trash_id


def session_of(root: str, trash_id: str) -> str:
    """The id of the session that lies in the trash under ``trash_id``.

    Raises:
        SessionNotFound: no such item.
    """
    return _item(root, trash_id).session_id


def restore(root: str, trash_id: str) -> str:
    """Move a session back; returns its path.

    Raises:
        SessionNotFound: no such item. SessionExists: a session of that id is there now.
    """
    item = _item(root, trash_id)
    folder = paths.session_folder(root, item.session_id)
    if os.path.lexists(folder):
        raise SessionExists(
            f"a session {item.session_id!r} is there already; rename or delete it before you restore {trash_id!r}"
        )
    ledger.note(root, "restore", item.session_id, trash_id=trash_id)
    durable.move(_folder_path(root, trash_id), folder)
    durable.remove_file(_manifest_path(root, trash_id))
    return folder


def list_trash(root: str) -> list[TrashItem]:
    """What can be restored, newest first."""
    try:
        names = os.listdir(paths.trash_folder(root))
    except FileNotFoundError:
        return []
    manifests = (name[: -len(".json")] for name in names if name.endswith(".json"))
    items = [_read_manifest(root, trash_id) for trash_id in manifests if os.path.isdir(_folder_path(root, trash_id))]
    return sorted(items, key=lambda item: (item.deleted_at, item.trash_id), reverse=True)


def purge(root: str, older_than_seconds: float | None, trash_id: str | None) -> tuple[list[str], int]:
    """Remove items from the trash for good; their costs stay in the ledger. Returns the ids and the bytes freed.

    Raises:
        SessionNotFound: ``trash_id`` names nothing.
    """
    items = list_trash(root) if trash_id is None else [_item(root, trash_id)]
    if older_than_seconds is not None:
        newest = (time.time() - older_than_seconds) * 1e6
        items = [item for item in items if epoch_microseconds(item.deleted_at) <= newest]
    _let_children_keep(root, {item.session_id for item in items})
    for item in items:
        folder = _folder_path(root, item.trash_id)
        ledger.note(root, "purge", item.session_id, trash_id=item.trash_id, summary=_cost_facts(folder))
        doomed = os.path.join(paths.trash_folder(root), f"{_PURGING}{item.trash_id}")
        durable.move(folder, doomed)
        durable.remove_file(_manifest_path(root, item.trash_id))
        shutil.rmtree(doomed)
    return [item.trash_id for item in items], sum(item.bytes for item in items)


def _let_children_keep(root: str, parents: set[str]) -> None:
    """Before parents are no more, each child takes what it inherits into its own folder."""
    from chimera.sessions.lineage import forks_by_parent, keep_inherited  # a daemon starts sooner without it

    children = [child for parent, forks in forks_by_parent(root).items() if parent in parents for child in forks]
    for child in children:
        try:
            keep_inherited(child)
        except LogGapError as error:  # it has lost its parent already, or was forked from one of the same name
            log.warning("a forked session cannot take what it inherits: %s", error.message)


def clean_trash(root: str) -> None:
    """Finish what a crash cut short: manifests whose folder never arrived, and purges that had begun."""
    try:
        names = os.listdir(paths.trash_folder(root))
    except FileNotFoundError:
        return
    for name in names:
        path = os.path.join(paths.trash_folder(root), name)
        if name.startswith(_PURGING):
            shutil.rmtree(path, ignore_errors=True)
        elif name.endswith(".json") and not os.path.lexists(path[: -len(".json")]):
            durable.remove_file(path)


def _new_trash_id(session_id: str) -> str:
    """The session's id, cut where it is so long that nothing would fit behind it, and what makes it unique."""
    room = MAX_SESSION_ID_BYTES - 9
    start = session_id.encode()[:room].decode(errors="ignore")
    return f"{start}.{os.urandom(4).hex()}"


def _item(root: str, trash_id: str) -> TrashItem:
    check_session_id(trash_id)
    try:
        item = _read_manifest(root, trash_id)
    except FileNotFoundError:
        raise _not_in_trash(trash_id) from None
    if not os.path.isdir(_folder_path(root, trash_id)):
        raise _not_in_trash(trash_id)
    return item


def _read_manifest(root: str, trash_id: str) -> TrashItem:
    """The manifest; one that somebody damaged still names its session, for the id begins with it.

    Nothing in it leads out of the root: its id is the file's name, and the session's is checked.
    """
    with open(_manifest_path(root, trash_id), "rb") as file:
        body = file.read()
    try:
        item = msgspec.json.decode(body, type=TrashItem)
        check_session_id(item.session_id)
    except (msgspec.DecodeError, UnicodeDecodeError, InvalidId):
        return TrashItem(trash_id=trash_id, session_id=trash_id.rpartition(".")[0], deleted_at="")
    item.trash_id = trash_id
    return item


def _not_in_trash(trash_id: str) -> SessionNotFound:
    return SessionNotFound(f"nothing in the trash is called {trash_id!r}; 'chimera rpc trash.list' shows what is there")


def _manifest_path(root: str, trash_id: str) -> str:
    return os.path.join(paths.trash_folder(root), f"{trash_id}.json")


def _folder_path(root: str, trash_id: str) -> str:
    return os.path.join(paths.trash_folder(root), trash_id)


def _bytes_in(folder: str) -> int:
    return sum(entry.stat(follow_symlinks=False).st_size for entry in os.scandir(folder))


def _cost_facts(folder: str) -> dict[str, object]:
    """What a rollup needs of a session that is no more (store rule 15)."""
    try:
        _, view = read_summary(folder)
    except (NoSummary, MalformedSummary):
        return {}
    return {
        "started_at": view.started_at,
        "model": view.model,
        "cwd": view.cwd,
        "cli_origin": view.cli_origin,
        "success": view.success,
        "steps": view.steps,
        "cost_microdollars": view.cost_microdollars,
        "cost_source": view.cost_source,
        "total_tokens": view.total_tokens,
        "input_tokens": view.input_tokens,
        "output_tokens": view.output_tokens,
        "cache_tokens": view.cache_tokens,
    }

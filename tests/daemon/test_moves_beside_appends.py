"""Moves of a session while others append to it: every move lands, every append lands, no undo loses the way back."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from chimera import paths
from chimera.blobs import BlobStore
from chimera.core.file_tracker import FileTracker
from chimera.sessions.eventlog.locks import SessionLock
from tests.support.daemon import Connection, RpcError, RunningDaemon
from tests.support.store import create

MOVES = 40


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningDaemon]:
    running = RunningDaemon(tmp_path_factory.mktemp("moves") / "home").wait_ready()
    yield running
    running.kill()


class Appending:
    """A client that appends to a session without a pause, until it is left."""

    def __init__(self, daemon: RunningDaemon, session_id: str) -> None:
        self.ids: list[str] = []
        self.refused: list[str] = []
        self._daemon = daemon
        self._session_id = session_id
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._append)

    def __enter__(self) -> Appending:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _append(self) -> None:
        with self._daemon.connect() as connection:
            while not self._stop.is_set():
                try:
                    events = [{"type": "note", "metadata": {}}]
                    outcome = connection.call("sessions.append", session_id=self._session_id, events=events)
                    self.ids += outcome["ids"]
                except RpcError as error:
                    self.refused.append(error.kind)


def written(daemon: RunningDaemon, connection: Connection, session_id: str, file: Path, text: str) -> None:
    """A turn in which a tool writes a file."""
    blobs = BlobStore(paths.blobs_folder(str(daemon.root / session_id)))
    with FileTracker(blobs, str(file.parent)).writing(file.name) as accesses:
        file.write_text(text)
    events = [{"type": "user_message", "metadata": {"content": text}}]
    events += [{"type": "file_access", "metadata": one.to_metadata()} for one in accesses]
    connection.call("sessions.append", session_id=session_id, events=events)


def test_every_move_and_every_append_lands(daemon: RunningDaemon, connection: Connection) -> None:
    session_id = create(connection)
    with Appending(daemon, session_id) as one, Appending(daemon, session_id) as other:
        for number in range(MOVES):
            connection.call("tree.branch", session_id=session_id, name=f"branch {number}")
    assert (one.refused, other.refused) == ([], [])
    shown = connection.call("tree.show", session_id=session_id)
    there = {node["id"] for node in shown["nodes"]}
    assert there >= {*one.ids, *other.ids}
    assert set(shown["branches"]) == {"main", *(f"branch {number}" for number in range(MOVES))}
    assert connection.call("sessions.verify", session_id=session_id)["problems"] == []


def test_an_undo_beside_appends_can_be_redone(daemon: RunningDaemon, connection: Connection, tmp_path: Path) -> None:
    session_id = create(connection)
    file = tmp_path / "f"
    with Appending(daemon, session_id):
        for number in range(MOVES):
            written(daemon, connection, session_id, file, f"text {number}")
            undone = connection.call("context.undo", session_id=session_id)["files"]
            assert (undone["restored"], undone["conflicts"]) == ([str(file)], []), number
            written(daemon, connection, session_id, file, f"text {number}")


def test_a_session_that_another_process_writes_is_left_alone_with_its_files(
    daemon: RunningDaemon, connection: Connection, tmp_path: Path
) -> None:
    session_id = create(connection)
    file = tmp_path / "f"
    written(daemon, connection, session_id, file, "one")
    trash_id = connection.call("sessions.delete", session_id=session_id)["trash_id"]
    connection.call("sessions.restore", trash_id=trash_id)  # so that the daemon holds it no more
    lock = SessionLock(str(daemon.root / session_id))
    lock.acquire()
    try:
        with pytest.raises(RpcError) as refused:
            connection.call("context.undo", session_id=session_id)
    finally:
        lock.release()
    assert refused.value.kind == "locked"
    assert file.read_text() == "one"
    assert connection.call("context.undo", session_id=session_id)["files"]["restored"] == [str(file)]

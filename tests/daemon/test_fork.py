"""``sessions.fork``: a session that goes on from an event of another, refers to it, and outlives it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from chimera import paths
from chimera.blobs import BlobStore
from chimera.core.file_tracker import FileTracker
from chimera.sessions.eventlog import EventSourcedSession
from tests.support.daemon import Connection, RpcError, RunningDaemon


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningDaemon]:
    running = RunningDaemon(tmp_path_factory.mktemp("fork") / "home").wait_ready()
    yield running
    running.kill()


def say(connection: Connection, session_id: str, *texts: str) -> Any:
    events = [{"type": "user_message", "metadata": {"content": text}} for text in texts]
    return connection.call("sessions.append", session_id=session_id, events=events)


def said(connection: Connection, session_id: str) -> list[str]:
    return [one["content"] for one in connection.call("context.messages", session_id=session_id)["messages"]]


def new(connection: Connection, *texts: str, flavour: str = "mink") -> str:
    session_id = str(connection.call("sessions.create", flavour=flavour, prompt="p", model="m")["session_id"])
    if texts:
        say(connection, session_id, *texts)
    return session_id


def fork(connection: Connection, session_id: str, **params: Any) -> str:
    forked = connection.call("sessions.fork", session_id=session_id, **params)
    assert forked["parent_session"] == session_id
    return str(forked["session_id"])


@pytest.mark.parametrize("flavour", ["mink", "otter", "stoat"])
def test_a_fork_begins_with_the_conversation_and_goes_its_own_way(connection: Connection, flavour: str) -> None:
    parent = new(connection, "one", "two", flavour=flavour)
    child = fork(connection, parent, title="try")
    assert child.startswith(flavour)
    say(connection, child, "mine")
    say(connection, parent, "theirs")
    assert said(connection, child) == ["one", "two", "mine"]
    assert said(connection, parent) == ["one", "two", "theirs"]
    assert connection.call("sessions.get", session_id=child)["summary"]["title"] == "try"
    assert connection.call("sessions.verify", session_id=child)["problems"] == []


def test_a_fork_copies_nothing(connection: Connection, daemon: RunningDaemon) -> None:
    parent = new(connection, *["x" * 5000] * 50)
    child = fork(connection, parent)
    assert sum(path.stat().st_size for path in (daemon.root / child).iterdir()) < 2000


def test_a_fork_at_a_number_or_an_id_has_what_came_before_alone(connection: Connection) -> None:
    parent = new(connection)
    ids = say(connection, parent, "one", "two", "three")["ids"]
    assert said(connection, fork(connection, parent, at=2)) == ["one", "two"]
    assert said(connection, fork(connection, parent, at=ids[0])) == ["one"]
    for wrong in (4, 0, "evt-none"):
        with pytest.raises(RpcError) as refused:
            connection.call("sessions.fork", session_id=parent, at=wrong)
        assert refused.value.kind == "invalid_params"
    with pytest.raises(RpcError) as refused:
        connection.call("sessions.fork", session_id=new(connection))
    assert refused.value.kind == "invalid_params"


def test_a_fork_of_a_fork_and_one_at_an_inherited_event(connection: Connection) -> None:
    first = new(connection)
    ids = say(connection, first, "one", "two")["ids"]
    second = fork(connection, first)
    say(connection, second, "three")
    third = fork(connection, second)
    say(connection, third, "four")
    assert said(connection, third) == ["one", "two", "three", "four"]
    assert said(connection, fork(connection, third, at=ids[0])) == ["one"]


def test_a_fork_can_go_back_into_what_it_inherited(connection: Connection) -> None:
    parent = new(connection)
    ids = say(connection, parent, "one", "two")["ids"]
    child = fork(connection, parent)
    say(connection, child, "three")
    connection.call("tree.switch", session_id=child, to=ids[0])
    say(connection, child, "other")
    assert said(connection, child) == ["one", "other"]
    for _ in range(2):
        connection.call("context.undo", session_id=child)
    assert said(connection, child) == ["one", "two", "three"]
    for _ in range(2):
        connection.call("context.undo", session_id=child)
    assert said(connection, child) == ["one"]
    shown = connection.call("tree.show", session_id=child)
    assert [node["text"] for node in shown["nodes"]][:4] == ["one", "two", "three", ids[0]]


def test_a_fork_survives_restarts_and_its_parents_deletion_and_purge(tmp_path: Path) -> None:
    daemon = RunningDaemon(tmp_path / "home").wait_ready()
    with daemon.connect() as connection:
        parent = new(connection, "one", "two")
        child = fork(connection, parent)
        grandchild = fork(connection, child)
        say(connection, child, "mine")
        trash_id = connection.call("sessions.delete", session_id=parent)["trash_id"]
        assert said(connection, child) == ["one", "two", "mine"]
    daemon.kill()
    daemon = RunningDaemon(tmp_path / "home").wait_ready()
    with daemon.connect() as connection:
        say(connection, child, "after the restart")
        connection.call("trash.purge", trash_id=trash_id)
    assert daemon.stop() == 0
    daemon = RunningDaemon(tmp_path / "home").wait_ready()
    with daemon.connect() as connection:
        assert said(connection, child) == ["one", "two", "mine", "after the restart"]
        assert said(connection, grandchild) == ["one", "two"]
        assert connection.call("sessions.verify")["problems"] == []
    assert daemon.stop() == 0
    resumed = EventSourcedSession.resume(daemon.root, child)
    assert [one.content for one in resumed.messages] == ["one", "two", "mine", "after the restart"]
    resumed.branch("aside")
    assert resumed.state.branch == "aside"


def test_a_parent_removed_by_hand_is_named_and_what_is_there_still_opens(
    connection: Connection, daemon: RunningDaemon
) -> None:
    parent = new(connection, "one")
    child = fork(connection, parent)
    say(connection, child, "mine")
    shutil.rmtree(daemon.root / parent)
    with pytest.raises(RpcError) as refused:
        connection.call("context.messages", session_id=child)
    assert (refused.value.kind, refused.value.data["parent_missing"]) == ("log_gap", parent)
    assert len(connection.call("sessions.read", session_id=child)["events"]) == 1
    say(connection, child, "goes on")


def test_a_session_of_the_same_name_is_not_taken_for_the_parent(connection: Connection, daemon: RunningDaemon) -> None:
    parent = new(connection, "one", "two")
    child = fork(connection, parent)
    shutil.rmtree(daemon.root / parent)
    connection.call("sessions.create", session_id=parent)
    say(connection, parent, "somebody", "else")
    with pytest.raises(RpcError) as refused:
        connection.call("context.messages", session_id=child)
    assert refused.value.kind == "log_gap"


def test_a_fork_can_undo_the_writes_that_it_inherited(
    connection: Connection, daemon: RunningDaemon, tmp_path: Path
) -> None:
    parent = new(connection, "begin")
    file = tmp_path / "notes"
    file.write_text("before")
    tracker = FileTracker(BlobStore(paths.blobs_folder(str(daemon.root / parent))), str(tmp_path))
    with tracker.writing("notes") as accesses:
        file.write_text("after")
    events = [{"type": "user_message", "metadata": {"content": "write"}}]
    events += [{"type": "file_access", "metadata": one.to_metadata()} for one in accesses]
    connection.call("sessions.append", session_id=parent, events=events)
    child = fork(connection, parent)
    shutil.rmtree(daemon.root / parent / "blobs")
    assert connection.call("context.undo", session_id=child)["files"] == {"restored": [str(file)], "conflicts": []}
    assert file.read_text() == "before"
    assert said(connection, child) == ["begin"]

"""Where going back meets what is kept elsewhere: failed records, files put back alone, storages, forks, redo."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest

from chimera.agent.loop_events import FileAccessed, StepStarted
from chimera.core.todos import TodoTool
from chimera.errors import InvalidParams, SessionNotFound, StorageError
from chimera.events.event import Event
from chimera.sessions import Session, SessionTree
from chimera.sessions.eventlog import EventLog, EventSourcedSession
from chimera.sessions.proposals import Proposal
from chimera.sessions.recorder import LogRecorder
from chimera.sessions.storage import MemorySessionStorage
from tests.support.scripted_agent import ScriptedAgent, says

SESSION_ID = "mink-20260425T091200-0a1b2c3d"


class RefusingRecorder(LogRecorder):
    """A log whose disk refuses as long as ``refuses``."""

    refuses = False

    def record(self, proposals: Sequence[Proposal]) -> list[Event]:
        if self.refuses:
            raise StorageError("the disk failed; try again")
        return super().record(proposals)


def writes(session: Session, folder: Path, name: str, text: str) -> None:
    with session.file_tracker(str(folder)).writing(name) as accesses:
        (folder / name).write_text(text)
    session.agent = ScriptedAgent([StepStarted(1), *(FileAccessed(one.to_metadata()) for one in accesses)])
    session.chat(f"write {name}")


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CHIMERA_HOME", str(tmp_path / "home"))
    folder = tmp_path / "work"
    folder.mkdir()
    return folder


def test_an_undo_whose_record_failed_can_be_undone_and_redone_all_the_same(work: Path, tmp_path: Path) -> None:
    recorder = RefusingRecorder(EventLog(tmp_path / "eventlog" / SESSION_ID))
    session = Session(ScriptedAgent([]), recorder=recorder)
    writes(session, work, "f", "one")
    recorder.refuses = True
    with pytest.raises(StorageError):
        session.undo()
    recorder.refuses = False
    session.undo()
    assert not (work / "f").exists()
    session.redo()
    assert (work / "f").read_text() == "one"


def test_files_that_were_put_back_alone_are_part_of_the_story(work: Path, tmp_path: Path) -> None:
    session = EventSourcedSession(ScriptedAgent([]), tmp_path, SESSION_ID)
    writes(session, work, "f", "a1")
    session.checkpoint("good")
    for text in ("a2", "a3"):
        writes(session, work, "f", text)
        assert session.restore("good", conversation=False).conflicts == []
        assert (work / "f").read_text() == "a1"
    writes(session, work, "f", "a4")
    for expected in ("a1", "a3", "a1", "a2", "a1"):
        assert session.undo().conflicts == []
        assert (work / "f").read_text() == expected
    session.undo()
    assert not (work / "f").exists()


def test_what_a_storage_gave_back_is_not_undone_with_the_last_turn(work: Path) -> None:
    todos, storage = TodoTool(persist=True), MemorySessionStorage()
    agent = ScriptedAgent([StepStarted(1), lambda: todos.add("one"), *says("x")[1:]], tools=[todos])
    session = Session(agent, storage, SESSION_ID)
    session.chat("a")
    writes(session, work, "f", "1")
    resumed = Session.resume(SESSION_ID, ScriptedAgent(says("y"), tools=[TodoTool(persist=True)]), storage)
    assert resumed.undo().conflicts == []
    assert [todo.task for todo in resumed.state.todos] == ["one"]
    assert resumed.state.files_modified == [str(work / "f")]
    assert (work / "f").read_text() == "1"


def test_a_summary_comes_back_from_a_storage_as_what_it_is() -> None:
    storage = MemorySessionStorage()
    session = Session(ScriptedAgent(says("x" * 3000)), storage, SESSION_ID, auto_compact=False)
    for _ in range(5):
        session.chat("q")
    session.compact()
    session.save()
    resumed = Session.resume(SESSION_ID, None, storage)
    assert resumed.messages[0].synthetic
    assert [one.content for one in resumed.messages] == [one.content for one in session.messages]


def test_after_a_fork_each_turn_has_the_list_of_its_own_session() -> None:
    todos = TodoTool(persist=True)
    parent = Session(ScriptedAgent([StepStarted(1), lambda: todos.add("mine"), *says("x")[1:]], tools=[todos]))
    child = parent.fork()
    parent.chat("go")
    assert [todo.task for todo in parent.state.todos] == ["mine"]
    assert child.state.todos == []


def test_nothing_is_redone_over_something_new() -> None:
    todos = TodoTool(persist=True)
    session = Session(ScriptedAgent(says("y"), tools=[todos]))
    session.chat("a")
    session.undo()
    session.checkpoint("a name is nothing new")
    assert session.redo(1).conflicts == []
    session.undo()
    todos.add("new")
    with pytest.raises(InvalidParams, match="nothing to redo"):
        session.redo()


def test_a_task_number_is_never_given_twice(tmp_path: Path) -> None:
    todos = TodoTool(persist=True)
    EventSourcedSession(ScriptedAgent([], tools=[todos]), tmp_path, SESSION_ID)
    todos.add("a")
    todos.remove(todos.add("b").id)
    again = TodoTool(persist=True)
    EventSourcedSession.resume(tmp_path, SESSION_ID, ScriptedAgent([], tools=[again]))
    assert again.add("c").id == 3
    with pytest.raises(InvalidParams):
        again.set(["d", " "])


def test_a_copy_of_a_journalled_session_is_not_taken_for_it_unasked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CHIMERA_HOME", str(tmp_path))
    storage = MemorySessionStorage()
    session = EventSourcedSession(ScriptedAgent(says("yes")), None, SESSION_ID, storage=storage)
    session.chat("one")
    shutil.rmtree(tmp_path / "eventlog" / SESSION_ID)
    with pytest.raises(SessionNotFound, match="use_copy=True"):
        Session.resume(SESSION_ID, None, storage)
    resumed = Session.resume(SESSION_ID, None, storage, use_copy=True)
    assert [one.content for one in resumed.messages] == ["one", "yes"]


def test_model_and_permissions_come_back_and_follow_the_branch(tmp_path: Path) -> None:
    session = EventSourcedSession(ScriptedAgent(says("yes")), tmp_path, SESSION_ID)
    session.change_state("model", "opus-4")
    session.chat("one")
    session.branch("aside")
    session.change_state("model", "glm-5")
    session.change_state("permission_mode", "full")
    resumed = EventSourcedSession.resume(tmp_path, SESSION_ID)
    assert (resumed.state.model, resumed.state.permission_mode) == ("glm-5", "full")
    resumed.switch("main")
    assert (resumed.state.model, resumed.state.permission_mode) == ("opus-4", "")
    with pytest.raises(InvalidParams, match="permission_mode"):
        resumed.change_state("mood", "good")


def test_forks_are_noted_in_the_graph_of_sessions(tmp_path: Path) -> None:
    tree = SessionTree(tmp_path / "tree.jsonl")
    session = EventSourcedSession(ScriptedAgent(says("yes")), tmp_path / "eventlog", SESSION_ID, tree=tree)
    session.chat("one")
    child = session.fork("try")
    grandchild = child.fork()
    again = SessionTree(tmp_path / "tree.jsonl")
    history = [node.session_id for node in again.iter_history(grandchild.session_id)]
    assert history == [grandchild.session_id, child.session_id, SESSION_ID]
    EventSourcedSession.resume(tmp_path / "eventlog", SESSION_ID, tree=again)

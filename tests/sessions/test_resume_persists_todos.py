"""``TodoTool(persist=True)``: the list of tasks comes back with its session, whatever happened to it in between."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from chimera.agent.loop_events import StepStarted, ToolCalled
from chimera.core.todos import TodoTool
from chimera.errors import InvalidParams
from chimera.sessions import Session
from chimera.sessions.eventlog import EventLog, EventSourcedSession
from chimera.sessions.state import Todo
from chimera.sessions.storage import FileSessionStorage, MemorySessionStorage, SessionStorage, SQLiteSessionStorage
from chimera.sessions.turn import TurnJournal
from tests.support.scripted_agent import ScriptedAgent, says

SESSION_ID = "mink-20260425T091200-0a1b2c3d"

LONG = "x" * 3000
"""A reply that is worth compacting."""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "eventlog"


@pytest.fixture
def tool() -> TodoTool:
    return TodoTool(persist=True)


@pytest.fixture
def session(root: Path, tool: TodoTool) -> EventSourcedSession:
    return EventSourcedSession(ScriptedAgent(says(LONG), tools=[tool]), root, SESSION_ID)


def resumed(root: Path) -> TodoTool:
    """The tool of a fresh agent after a resume from the log."""
    tool = TodoTool(persist=True)
    EventSourcedSession.resume(root / SESSION_ID, SESSION_ID, ScriptedAgent(says("yes"), tools=[tool]))
    return tool


def acts(session: Session, *deeds: Callable[[], Any]) -> None:
    """A turn in which the agent changes the list."""
    session.agent = ScriptedAgent([StepStarted(1), *deeds, *says(LONG)[1:]], tools=session.agent.tools)
    session.chat("go on")


def test_the_list_comes_back_as_it_was_with_what_is_done_and_in_its_order(
    session: EventSourcedSession, tool: TodoTool, root: Path
) -> None:
    acts(session, lambda: tool.add("read"), lambda: tool.add("write ü\n2"), lambda: tool.add("test"))
    tool.complete(2)
    tool.remove(1)
    assert resumed(root).todos == tool.todos == [Todo(2, "write ü\n2", True), Todo(3, "test")]


def test_what_a_resumed_session_does_with_its_list_is_kept_too(
    session: EventSourcedSession, tool: TodoTool, root: Path
) -> None:
    tool.set(["one", "two"])
    again = resumed(root)
    again.complete(1)
    again.add("three")
    assert resumed(root).todos == [Todo(1, "one", True), Todo(2, "two"), Todo(3, "three")]
    again.set([])
    assert resumed(root).todos == []


def test_every_change_is_one_event_with_the_whole_list(
    session: EventSourcedSession, tool: TodoTool, root: Path
) -> None:
    tool.add("one")
    tool.complete(1)
    written = [event.metadata for event in EventLog(root / SESSION_ID).replay() if event.type == "todo_write"]
    assert [(one["op"], one["todos"]) for one in written] == [
        ("add", [{"id": 1, "task": "one", "done": False}]),
        ("complete", [{"id": 1, "task": "one", "done": True}]),
    ]


def test_a_tool_that_is_not_to_persist_keeps_its_list_to_itself(root: Path) -> None:
    tool = TodoTool()
    EventSourcedSession(ScriptedAgent(says("yes"), tools=[tool]), root, SESSION_ID)
    tool.add("mine alone")
    assert resumed(root).todos == []
    other = TodoTool()
    EventSourcedSession.resume(root, SESSION_ID, ScriptedAgent(says("yes"), tools=[other]))
    assert other.todos == []


def test_a_list_survives_a_program_that_died_in_the_middle_of_a_turn(
    session: EventSourcedSession, tool: TodoTool, root: Path
) -> None:
    journal = TurnJournal(session._history, "go")
    journal.take(StepStarted(1))
    journal.take(ToolCalled("c1", "Todo", {"task": "half done"}))
    tool.add("half done")
    again = resumed(root)
    assert again.todos == [Todo(1, "half done")]


@pytest.fixture(params=["memory", "file", "sqlite"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> SessionStorage:
    if request.param == "memory":
        return MemorySessionStorage()
    if request.param == "file":
        return FileSessionStorage(str(tmp_path / "sessions"))
    return SQLiteSessionStorage(str(tmp_path / "sessions.db"))


def test_a_list_comes_back_from_a_storage(storage: SessionStorage, tool: TodoTool) -> None:
    session = Session(ScriptedAgent(says("yes"), tools=[tool]), storage, SESSION_ID)
    acts(session, lambda: tool.add("one"), lambda: tool.add("two"), lambda: tool.complete(1))
    again = TodoTool(persist=True)
    Session.resume(SESSION_ID, ScriptedAgent(says("yes"), tools=[again]), storage)
    assert again.todos == tool.todos == [Todo(1, "one", True), Todo(2, "two")]


def test_no_compaction_loses_the_list(session: EventSourcedSession, tool: TodoTool, root: Path) -> None:
    acts(session, lambda: tool.add("one"), lambda: tool.add("two"))
    kept = tool.todos
    for _ in range(3):
        for _ in range(4):
            acts(session)
        assert session.compact() is not None
        assert tool.todos == session.state.todos == resumed(root).todos == kept
    assert session.undo(1000).undone
    assert tool.todos == resumed(root).todos == []


def test_undo_takes_the_list_back_and_redo_brings_it_again(
    session: EventSourcedSession, tool: TodoTool, root: Path
) -> None:
    stages = [tool.todos]
    for task in ("one", "two", "three"):
        acts(session, lambda task=task: tool.add(task))  # type: ignore[misc]
        stages.append(tool.todos)
    for stage in reversed(stages[:-1]):
        session.undo()
        assert tool.todos == resumed(root).todos == stage
    for stage in stages[1:]:
        session.redo()
        assert tool.todos == resumed(root).todos == stage


def test_each_branch_has_a_list_of_its_own(session: EventSourcedSession, tool: TodoTool, root: Path) -> None:
    acts(session, lambda: tool.add("for all"))
    session.branch("aside")
    acts(session, lambda: tool.add("aside"), lambda: tool.complete(1))
    aside = tool.todos
    session.switch("main")
    assert tool.todos == resumed(root).todos == [Todo(1, "for all")]
    session.switch("aside")
    assert tool.todos == resumed(root).todos == aside


def test_a_checkpoint_brings_its_list_back(session: EventSourcedSession, tool: TodoTool, root: Path) -> None:
    acts(session, lambda: tool.add("one"))
    session.checkpoint("good")
    acts(session, lambda: tool.set([]))
    session.restore("good")
    assert tool.todos == resumed(root).todos == [Todo(1, "one")]


def test_a_fork_has_a_list_of_its_own(root: Path, tool: TodoTool) -> None:
    parent = Session(ScriptedAgent(says("yes"), tools=[tool]))
    tool.add("one")
    before = parent.state.todos
    child = parent.fork()
    assert child.state.todos == before
    tool.add("the child's")
    assert parent.state.todos == before
    assert [todo.task for todo in child.state.todos] == ["one", "the child's"]


def test_two_tools_of_one_agent_show_the_same_list_after_a_resume(
    session: EventSourcedSession, tool: TodoTool, root: Path
) -> None:
    tool.add("one")
    pair = [TodoTool(persist=True), TodoTool()]
    EventSourcedSession.resume(root, SESSION_ID, ScriptedAgent(says("yes"), tools=pair))
    assert [each.todos for each in pair] == [[Todo(1, "one")], []]


def test_an_agent_without_the_tool_leaves_the_list_to_the_next_one(
    session: EventSourcedSession, tool: TodoTool, root: Path
) -> None:
    tool.add("one")
    plain = EventSourcedSession.resume(root, SESSION_ID, ScriptedAgent(says("yes")))
    plain.chat("hello")
    assert plain.state.todos == [Todo(1, "one")]
    assert resumed(root).todos == [Todo(1, "one")]


def test_tasks_of_a_foreign_writer_without_numbers_are_counted(root: Path) -> None:
    folder = root / SESSION_ID
    tasks = [{"task": "one"}, "no task", {"task": "three", "done": True}]
    EventLog(folder).append("todo_write", {"todos": tasks, "op": "set"})
    tool = resumed(root)
    assert tool.todos == [Todo(1, "one"), Todo(3, "three", True)]
    assert tool.add("four").id == 4


def test_what_cannot_be_recorded_is_not_on_the_list(session: EventSourcedSession, tool: TodoTool, root: Path) -> None:
    tool.add("one")

    async def interrupt() -> None:
        turn = session.iter_chat("go")
        await anext(turn)
        with pytest.raises(InvalidParams):
            tool.complete(7)
        await turn.aclose()

    asyncio.run(interrupt())
    assert tool.todos == resumed(root).todos == [Todo(1, "one")]

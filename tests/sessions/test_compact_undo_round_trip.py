"""``/compact`` then ``/undo`` is a no-op on messages, todos and lists of files: in memory and in the log, also across
several compactions, branches and resumes, and with memory blocks, which no compaction drops."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chimera.agent.loop_events import FileAccessed, StepStarted
from chimera.compaction import CompactionStrategy, FileAwareCompaction, SummaryCompaction
from chimera.core.file_tracker import FileAccess
from chimera.core.todos import TodoTool
from chimera.errors import CompactionFailed
from chimera.sessions import Session
from chimera.sessions.context import SUMMARY_HEAD, memory_blocks
from chimera.sessions.eventlog import EventLog, EventSourcedSession
from chimera.sessions.messages import Message
from chimera.sessions.state import Todo
from tests.support.scripted_agent import ScriptedAgent, says, uses

SESSION_ID = "mink-20260425T091200-0a1b2c3d"

MEMORY = '<memory source="CLAUDE.md">\nAlways  run the tests, \u00fc.\n</memory>'


class Seen(NamedTuple):
    """What the round trip must not change."""

    messages: list[Message]
    context: list[Message]
    todos: list[Todo]
    listed: list[Todo]
    files_read: list[str]
    files_modified: list[str]
    branch: str


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "eventlog"


@pytest.fixture(params=["memory", "log"])
def session(request: pytest.FixtureRequest, root: Path) -> Session:
    agent = ScriptedAgent(says("yes"), tools=[TodoTool(persist=True)])
    if request.param == "memory":
        return Session(agent, auto_compact=False)
    return EventSourcedSession(agent, root, SESSION_ID, auto_compact=False)


def seen(session: Session) -> Seen:
    state = session.state
    listed = session.agent.tools[0].todos
    return Seen(
        session.messages, session.context, state.todos, listed, state.files_read, state.files_modified, state.branch
    )


def resume(root: Path) -> EventSourcedSession:
    agent = ScriptedAgent(says("yes"), tools=[TodoTool(persist=True)])
    return EventSourcedSession.resume(root, SESSION_ID, agent)


def work(session: Session, number: int, memory: str = "") -> None:
    """A turn with a tool call, files, a task and a long answer."""
    tool = session.agent.tools[0]
    read, wrote = FileAccess(f"/src/{number}.py", "read"), FileAccess(f"/out/{number}.txt", "write")
    session.agent = ScriptedAgent(
        [
            *uses("Read", f"call-{number}", "contents " * 40, path=f"/src/{number}.py"),
            FileAccessed(read.to_metadata()),
            FileAccessed(wrote.to_metadata()),
            lambda: tool.add(f"task {number}"),
            StepStarted(2),
            *says(f"answer {number}. " + "so it is. " * 60, 2)[1:],
        ],
        tools=session.agent.tools,
    )
    session.chat(f"{memory}\nquestion {number}")


def work_through(session: Session, *numbers: int) -> None:
    for number in numbers:
        work(session, number)


def test_compact_then_undo_changes_nothing_and_redo_compacts_again(session: Session) -> None:
    work_through(session, *range(5))
    before = seen(session)
    plan = session.compact()
    assert plan is not None
    short = seen(session)
    assert short.messages != before.messages
    assert short[2:] == before[2:]
    for _ in range(3):
        session.undo(files=False)
        assert seen(session) == before
        session.redo(files=False)
        assert seen(session) == short


def test_a_compaction_is_one_event_and_the_originals_stay(root: Path) -> None:
    session = EventSourcedSession(ScriptedAgent(says("yes"), tools=[TodoTool(persist=True)]), root, SESSION_ID)
    work_through(session, *range(5))
    before = list(EventLog(root / SESSION_ID).replay())
    session.compact()
    after = list(EventLog(root / SESSION_ID).replay())
    assert (after[:-1], after[-1].type) == (before, "compaction")
    session.undo()
    assert list(EventLog(root / SESSION_ID).replay())[: len(after)] == after


def test_a_dry_run_changes_nothing_and_says_what_would_be(session: Session) -> None:
    work_through(session, *range(5))
    before = seen(session)
    planned = session.compact(dry_run=True)
    assert seen(session) == before
    done = session.compact()
    assert planned == done
    assert done is not None
    assert session.messages[-len(done.kept) :] == done.kept


def test_several_compactions_on_top_of_each_other_are_undone_one_by_one(session: Session) -> None:
    stages = []
    for number in range(0, 12, 3):
        work_through(session, *range(number, number + 3))
        stages.append(seen(session))
        assert session.compact() is not None
    shortest = seen(session)
    for stage in reversed(stages):
        session.undo()
        assert seen(session) == stage
        if stage is not stages[0]:
            session.undo(3, files=False)
    session.redo(1000, files=False)
    assert seen(session) == shortest


def test_a_second_compaction_straight_after_the_first_is_taken_back_as_well(session: Session) -> None:
    work_through(session, *range(8))
    whole = seen(session)
    compactions = 0
    while session.compact() is not None:
        compactions += 1
        assert compactions < 20
    assert compactions >= 1
    session.undo(compactions)
    assert seen(session) == whole


def test_memory_blocks_survive_byte_by_byte_and_come_back_where_they_stood(session: Session) -> None:
    work(session, 0, MEMORY)
    work(session, 1, MEMORY.replace("CLAUDE", "OTHER"))
    work_through(session, *range(2, 7))
    before = seen(session)
    blocks = [block for one in before.messages for block in memory_blocks(one.content)]
    for _ in range(3):
        session.compact()
        assert [block for one in session.messages for block in memory_blocks(one.content)] == blocks
    assert MEMORY in session.messages[0].content
    while any(one.content.startswith(SUMMARY_HEAD) for one in session.messages):
        session.undo()
    assert seen(session) == before


def test_the_summary_names_every_file_also_the_second_time(session: Session) -> None:
    for number in range(0, 8, 4):
        work_through(session, *range(number, number + 4))
        plan = session.compact()
        assert plan is not None
        for done in range(number + 4):
            assert f"/src/{done}.py" in plan.summary
            assert f"/out/{done}.txt" in plan.summary


def test_a_resume_in_between_changes_nothing(root: Path) -> None:
    first = EventSourcedSession(
        ScriptedAgent(says("yes"), tools=[TodoTool(persist=True)]), root, SESSION_ID, auto_compact=False
    )
    work_through(first, *range(4))
    whole = seen(first)
    first.compact()
    short = seen(first)
    again = resume(root)
    assert seen(again) == short
    work(again, 4)
    longer = seen(again)
    assert seen(resume(root)) == longer
    again = resume(root)
    again.undo(files=False)
    assert seen(resume(root)) == short
    again = resume(root)
    again.undo()
    assert seen(again) == seen(resume(root)) == whole
    again = resume(root)
    again.redo(2, files=False)
    assert seen(again) == longer


def test_each_branch_is_compacted_and_restored_by_itself(session: Session) -> None:
    work_through(session, *range(4))
    session.branch("aside")
    work(session, 4)
    aside = seen(session)
    session.compact()
    aside_short = seen(session)
    session.switch("main")
    main = seen(session)
    assert len(main.messages) == 16
    session.compact()
    main_short = seen(session)
    session.switch("aside")
    assert seen(session) == aside_short
    session.undo()
    assert seen(session) == main_short
    session.undo()
    assert seen(session) == main
    session.undo()
    assert seen(session) == aside_short
    session.undo()
    assert seen(session) == aside


def test_a_summary_that_cannot_be_had_leaves_everything_as_it_was(root: Path) -> None:
    async def broken(prompt: str) -> str:
        raise OSError("no network")

    session = Session(
        ScriptedAgent(says("yes"), tools=[TodoTool(persist=True)]),
        auto_compact=False,
        compaction=SummaryCompaction(broken),
    )
    work_through(session, *range(4))
    before = seen(session)
    with pytest.raises(CompactionFailed):
        session.compact()
    assert seen(session) == before


@pytest.mark.parametrize("strategy", [FileAwareCompaction(), SummaryCompaction()])
def test_whatever_strategy_wrote_it_it_is_undone_the_same_way(strategy: CompactionStrategy) -> None:
    agent = ScriptedAgent(says("yes"), tools=[TodoTool(persist=True)])
    session = Session(agent, auto_compact=False, compaction=strategy)
    work_through(session, *range(5))
    before = seen(session)
    assert session.compact() is not None
    session.undo()
    assert seen(session) == before


DEEDS = st.lists(st.sampled_from(["turn", "turn", "compact", "branch", "resume", "memory"]), max_size=12)


@settings(max_examples=40, deadline=None)
@given(deeds=DEEDS)
def test_wherever_a_session_stands_compact_then_undo_is_a_no_op(deeds: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        agent: Any = ScriptedAgent(says("yes"), tools=[TodoTool(persist=True)])
        session = EventSourcedSession(agent, root, SESSION_ID, auto_compact=False, fsync="never")
        for number, deed in enumerate(deeds):
            if deed == "compact":
                session.compact()
            elif deed == "branch":
                session.branch(f"branch-{number}")
            elif deed == "resume":
                session = resume(root)
            else:
                work(session, number, MEMORY if deed == "memory" else "")
            before = seen(session)
            if session.compact() is None:
                assert seen(session) == before
                continue
            session.undo()
            assert seen(session) == before
            assert seen(resume(root)) == before

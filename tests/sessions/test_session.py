"""``Session`` and ``EventSourcedSession``: turns, steering, queue, cancel, crash and resume."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from chimera.agent.loop_events import FileAccessed, LoopEvent, StepStarted, TextDelta, ToolCalled, TurnEnded
from chimera.errors import InvalidParams, LogGapError, NotPermitted, SessionNotFound, TurnRunning
from chimera.sessions import Session
from chimera.sessions.eventlog import EventLog, EventSourcedSession
from chimera.sessions.messages import INTERRUPTED_RESULT
from chimera.sessions.storage import MemorySessionStorage
from tests.support.scripted_agent import ScriptedAgent, says, uses

SESSION_ID = "mink-20260425T091200-0a1b2c3d"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "eventlog"


@pytest.fixture(params=["memory", "log"])
def session(request: pytest.FixtureRequest, root: Path) -> Session:
    agent = ScriptedAgent([*uses("Read", "c1", "hello", path="a"), *says("it says hello", 2)])
    return Session(agent) if request.param == "memory" else EventSourcedSession(agent, root, SESSION_ID)


def shown(session: Session) -> list[tuple[Any, ...]]:
    return [(one.role, one.content, [call.id for call in one.tool_calls], one.call_id) for one in session.messages]


TURN = [
    ("user", "what is in a?", [], None),
    ("assistant", "", ["c1"], None),
    ("tool", "hello", [], "c1"),
    ("assistant", "it says hello", [], None),
]


def test_a_turn_leaves_its_messages_calls_and_results(session: Session) -> None:
    assert session.chat("what is in a?") == "it says hello"
    assert shown(session) == TURN
    assert [message.role for message in session.context] == ["system", "user", "assistant", "tool", "assistant"]
    assert session.state.open_turn is None


def test_every_event_is_recorded_before_it_is_given(root: Path) -> None:
    session = EventSourcedSession(ScriptedAgent([*uses("Read", "c1", "hello")]), root, SESSION_ID)

    async def watch() -> None:
        async for event in session.iter_chat("go"):
            if isinstance(event, ToolCalled):
                assert [one.type for one in EventLog(root / SESSION_ID).replay()][-1] == "tool_call"

    asyncio.run(watch())
    assert [event.type for event in EventLog(root / SESSION_ID).replay()] == [
        "state_change", "turn_start", "user_message", "step_start", "tool_call", "step_end", "tool_result",
        "agent_result", "turn_end",
    ]  # fmt: skip


def test_what_is_resumed_is_what_was(root: Path) -> None:
    first = EventSourcedSession(ScriptedAgent([*uses("Read", "c1", "hello"), *says("done", 2)]), root, SESSION_ID)
    first.chat("go")
    first.branch("aside")
    first.queue("later")
    again = EventSourcedSession.resume(root / SESSION_ID, SESSION_ID)
    assert again.state == first.state
    assert again.context == first.context
    assert again.state.branch == "aside"
    assert [one.content for one in again.state.queue] == ["later"]


def test_both_ways_to_name_the_log_reach_the_same_session(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(root.parent))
    EventSourcedSession(ScriptedAgent(says("one")), root, SESSION_ID).chat("go")
    by_root = EventSourcedSession.resume("~/eventlog", SESSION_ID)
    by_folder = EventSourcedSession.resume(f"~/eventlog/{SESSION_ID}", SESSION_ID)
    assert by_root.messages == by_folder.messages
    assert len(by_root.messages) == 2


def test_resume_extends_the_same_id_and_doubles_nothing(root: Path) -> None:
    agent = ScriptedAgent(says("yes"))
    EventSourcedSession(agent, root, SESSION_ID).chat("one")
    again = EventSourcedSession.resume(root, SESSION_ID, agent)
    again.chat("two")
    assert again.session_id == SESSION_ID
    assert [one.content for one in again.messages] == ["one", "yes", "two", "yes"]
    assert [one.content for one in agent.seen[-1]] == ["one", "yes", "two"]


def test_resume_tries_the_event_log_then_the_storage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHIMERA_HOME", str(tmp_path))
    storage = MemorySessionStorage()
    stored = Session(ScriptedAgent(says("from storage")), storage, SESSION_ID)
    stored.chat("hi")
    assert shown(Session.resume(SESSION_ID, None, storage)) == shown(stored)
    EventSourcedSession(ScriptedAgent(says("from the log")), None, SESSION_ID).chat("hi")
    assert Session.resume(SESSION_ID, None, storage).messages[-1].content == "from the log"
    with pytest.raises(SessionNotFound, match="mink-none"):
        Session.resume("mink-none", None, storage)


def test_a_session_that_died_in_the_middle_of_a_turn_goes_on(root: Path) -> None:
    class Died(BaseException):
        pass

    session = EventSourcedSession(ScriptedAgent([]), root, SESSION_ID)
    journal_of = session._history
    from chimera.sessions.turn import TurnJournal

    journal = TurnJournal(journal_of, "go")
    for event in (StepStarted(1), TextDelta("let me "), ToolCalled("c1", "Bash", {"command": "ls"})):
        journal.take(event)
    again = EventSourcedSession.resume(root, SESSION_ID, ScriptedAgent(says("all well")))
    assert again.state.open_turn is None
    assert [one.type for one in again._history.events][-3:] == ["tool_result", "error", "turn_end"]
    assert again.messages[-1].content == INTERRUPTED_RESULT
    assert again.messages[-1].synthetic
    assert again.chat("and now?") == "all well"


def test_steering_is_taken_at_the_next_step(root: Path) -> None:
    session = EventSourcedSession(ScriptedAgent([]), root, SESSION_ID)
    session.agent = ScriptedAgent([*says("one"), lambda: None, StepStarted(2), *says("two", 2)[1:]])

    async def go() -> None:
        async for event in session.iter_chat("begin"):
            if event == StepStarted(1):
                seq = session.steer("not there")
                assert EventLog(root / SESSION_ID).get_by_index(seq - 1).type == "steering"

    asyncio.run(go())
    assert [one.content for one in session.messages] == ["begin", "one", "not there", "two"]
    assert session.state.steering == []


def test_a_queued_message_is_a_turn_of_its_own_after_this_one(session: Session) -> None:
    session.agent = ScriptedAgent(says("first"), says("second"))

    async def go() -> list[LoopEvent]:
        events = []
        async for event in session.iter_chat("one"):
            if isinstance(event, StepStarted) and not session.state.queue and len(session.agent.seen) == 1:
                session.queue("two")
            events.append(event)
        return events

    ended = [event for event in asyncio.run(go()) if isinstance(event, TurnEnded)]
    assert [event.output for event in ended] == ["first", "second"]
    assert [one.content for one in session.messages] == ["one", "first", "two", "second"]
    assert session.state.queue == []


def test_cancel_stops_at_the_next_event_and_closes_the_turn(session: Session) -> None:
    session.agent = ScriptedAgent(
        [StepStarted(1), ToolCalled("c9", "Bash", {}), session.cancel, *says("never", 2)], says("after")
    )
    assert session.chat("go") == ""
    assert session.messages[-1].content == INTERRUPTED_RESULT
    ends = [event.metadata["state"] for event in session._history.events if event.type == "turn_end"]
    assert ends == ["interrupted"]
    assert session.chat("again") == "after"


def test_a_loop_that_fails_closes_its_turn_and_says_why(session: Session) -> None:
    session.agent = ScriptedAgent([StepStarted(1), ToolCalled("c9", "Bash", {}), ValueError("no such model")])
    with pytest.raises(ValueError, match="no such model"):
        session.chat("go")
    kinds = [event.type for event in session._history.events]
    assert kinds[-4:] == ["tool_result", "error", "agent_result", "turn_end"]
    assert session.state.open_turn is None


def test_one_turn_at_a_time(session: Session) -> None:
    async def go() -> None:
        events = session.iter_chat("one")
        await anext(events)
        with pytest.raises(TurnRunning):
            await anext(session.iter_chat("two"))
        with pytest.raises(TurnRunning):
            session.undo()
        await events.aclose()

    asyncio.run(go())
    assert session.state.open_turn is None


def test_an_agent_without_a_loop_can_be_resumed_but_not_chatted_with(root: Path) -> None:
    class Stub:
        prompt = "p"
        tools: tuple[object, ...] = ()

    session = EventSourcedSession(Stub(), root, SESSION_ID)
    assert session.context[0].content == "p"
    with pytest.raises(NotPermitted):
        session.chat("hello")
    with pytest.raises(InvalidParams):
        session.steer("  ")


def test_a_gap_is_refused_by_name(root: Path) -> None:
    EventSourcedSession(ScriptedAgent(says("one")), root, "otter-20260425T091200-0a1b2c3d").chat("go")
    folder = root / "otter-20260425T091200-0a1b2c3d"
    sorted(folder.glob("event-*"))[2].unlink()
    with pytest.raises(LogGapError) as gap:
        EventSourcedSession.resume(folder, folder.name)
    assert gap.value.missing == [3]


def test_resume_from_goes_back_to_an_event_and_keeps_the_rest(root: Path) -> None:
    session = EventSourcedSession(ScriptedAgent(says("one"), says("two")), root, SESSION_ID)
    session.chat("a")
    index = EventLog(root / SESSION_ID).last_index
    session.chat("b")
    back = EventSourcedSession.resume_from(root, SESSION_ID, up_to_index=index)
    assert [one.content for one in back.messages] == ["a", "one"]
    back.switch("main")
    assert [one.content for one in back.messages] == ["a", "one", "b", "two"]
    with pytest.raises(InvalidParams):
        EventSourcedSession.resume_from(root, SESSION_ID, up_to_index=1000)


def test_undo_takes_back_what_a_tool_wrote(root: Path, tmp_path: Path) -> None:
    session = EventSourcedSession(ScriptedAgent([]), root, SESSION_ID)
    file = tmp_path / "notes.txt"
    file.write_text("before")
    tracker = session.file_tracker(str(tmp_path))
    with tracker.writing("notes.txt") as accesses:
        file.write_text("after")
    session.agent = ScriptedAgent([StepStarted(1), *(FileAccessed(one.to_metadata()) for one in accesses)])
    session.chat("write")
    assert session.state.files_modified == [str(file)]
    assert session.undo(dry_run=True).restored == [str(file)]
    assert file.read_text() == "after"
    again = EventSourcedSession.resume(root, SESSION_ID)
    assert again.undo().restored == [str(file)]
    assert (file.read_text(), again.messages) == ("before", [])
    assert again.redo().restored == [str(file)]
    assert (file.read_text(), len(again.messages)) == ("after", 1)
    file.write_text("by somebody else")
    report = again.undo()
    assert (report.restored, [one.path for one in report.conflicts]) == ([], [str(file)])
    assert file.read_text() == "by somebody else"


def writes(session: Session, folder: Path, name: str, text: str | None) -> None:
    """A turn in which a tool writes a file, or with None removes it."""
    with session.file_tracker(str(folder)).writing(name) as accesses:
        if text is None:
            (folder / name).unlink()
        else:
            (folder / name).write_text(text)
    session.agent = ScriptedAgent([StepStarted(1), *(FileAccessed(one.to_metadata()) for one in accesses)])
    session.chat(f"write {name}")


def test_undoing_several_turns_and_redoing_them_walks_the_files_there_and_back(root: Path, tmp_path: Path) -> None:
    def files() -> dict[str, str]:
        return {one.name: one.read_text() for one in sorted(folder.iterdir())}

    folder = tmp_path / "work"
    folder.mkdir()
    (folder / "q").write_text("q0")
    session = EventSourcedSession(ScriptedAgent([]), root, SESSION_ID)
    seen = [files()]
    for name, text in (("q", "q1"), ("p", "p1"), ("q", "q2"), ("p", None)):
        writes(session, folder, name, text)
        seen.append(files())
    for expected in reversed(seen[:-1]):
        assert session.undo().conflicts == []
        assert files() == expected
    session = EventSourcedSession.resume(root, SESSION_ID)
    for expected in seen[1:3]:
        assert session.redo().conflicts == []
        assert files() == expected
    assert session.undo().conflicts == []
    assert files() == seen[1]
    assert session.redo(3).conflicts == []
    assert files() == seen[-1]
    assert session.undo(4, dry_run=True).conflicts == []
    assert files() == seen[-1]


def test_a_checkpoint_brings_files_back_by_themselves_and_undo_takes_that_back(root: Path, tmp_path: Path) -> None:
    folder = tmp_path / "work"
    folder.mkdir()
    session = EventSourcedSession(ScriptedAgent([]), root, SESSION_ID)
    writes(session, folder, "a", "one")
    session.checkpoint("one")
    writes(session, folder, "a", "two")
    before = session.messages
    assert session.restore("one", conversation=False).restored == [str(folder / "a")]
    assert ((folder / "a").read_text(), session.messages) == ("one", before)
    session.undo()
    assert ((folder / "a").read_text(), session.messages) == ("two", before)
    session.restore("one")
    assert ((folder / "a").read_text(), len(session.messages)) == ("one", 1)
    session.undo()
    assert ((folder / "a").read_text(), session.messages) == ("two", before)
    with pytest.raises(InvalidParams):
        session.restore("one", conversation=False, files=False)


def test_checkpoints_survive_a_restart_and_bring_conversation_and_files_back(root: Path, tmp_path: Path) -> None:
    session = EventSourcedSession(ScriptedAgent(says("one"), says("two")), root, SESSION_ID)
    session.chat("a")
    session.checkpoint("good")
    session.chat("b")
    again = EventSourcedSession.resume(root, SESSION_ID)
    assert again.checkpoints == ["good"]
    again.restore("good")
    assert [one.content for one in again.messages] == ["a", "one"]
    again.undo()
    assert [one.content for one in again.messages] == ["a", "one", "b", "two"]
    with pytest.raises(InvalidParams, match="good"):
        again.restore("none")


def test_a_full_window_is_compacted_by_itself(root: Path) -> None:
    agent = ScriptedAgent(says("x" * 4000), window=6000)
    session = EventSourcedSession(agent, root, SESSION_ID)
    for _ in range(8):
        session.chat("y" * 2000)
    kinds = [event.type for event in session._history.events]
    assert "compaction" in kinds
    assert EventSourcedSession.resume(root, SESSION_ID).messages == session.messages
    assert session.messages[0].synthetic


def test_a_fork_has_the_conversation_and_goes_its_own_way(session: Session) -> None:
    session.chat("what is in a?")
    child = session.fork("try")
    assert shown(child) == TURN
    child.agent = ScriptedAgent(says("mine"))
    child.chat("more")
    assert shown(session) == TURN
    assert child.parent_id == session.session_id
    assert child.state.branch == "try"


def test_a_journalled_fork_is_journalled_and_resumes(root: Path, tmp_path: Path) -> None:
    session = EventSourcedSession(ScriptedAgent(says("yes")), root, SESSION_ID)
    session.chat("one")
    child = session.fork("try")
    child.chat("two")
    session.chat("three")
    again = EventSourcedSession.resume(root, child.session_id)
    assert [one.content for one in again.messages] == ["one", "yes", "two", "yes"]
    assert (again.state.branch, again.parent_id) == ("try", SESSION_ID)
    grandchild = again.fork()
    assert [one.content for one in grandchild.messages] == ["one", "yes", "two", "yes"]
    assert len(EventLog(root / grandchild.session_id).get_since(0)) == 0


def test_a_session_without_a_log_keeps_files_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHIMERA_HOME", str(tmp_path / "home"))
    folder = tmp_path / "work"
    folder.mkdir()
    (folder / "a").write_text("before")
    session = Session(ScriptedAgent([]))
    writes(session, folder, "a", "after")
    assert session.undo().restored == [str(folder / "a")]
    assert (folder / "a").read_text() == "before"


def test_a_step_that_is_never_ended_keeps_its_text_to_itself(session: Session) -> None:
    session.agent = ScriptedAgent([StepStarted(1), TextDelta("one"), StepStarted(2), TextDelta("two")])
    assert session.chat("go") == "two"
    assert [one.content for one in session.messages] == ["go", "one", "two"]


def test_taking_back_a_conversation_alone_leaves_nothing_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CHIMERA_HOME", str(tmp_path / "home"))
    session = Session(ScriptedAgent(says("yes")))
    session.chat("go")
    session.undo()
    assert not (tmp_path / "home").exists()

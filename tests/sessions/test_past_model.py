"""A journalled session against a plain model: any sequence of turns, branches, switches, compactions, undos, redos,
crashes and resumes gives the model's messages, todos and branch."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from chimera.agent.loop_events import StepStarted, TextDelta, ToolCalled
from chimera.core.todos import TodoTool
from chimera.errors import InvalidParams
from chimera.sessions.eventlog import EventSourcedSession
from chimera.sessions.messages import Message
from chimera.sessions.turn import TurnJournal
from tests.support.scripted_agent import ScriptedAgent, says, uses

SESSION_ID = "mink-20260425T091200-0a1b2c3d"

Shown = tuple[tuple[str, str, str | None], ...]


@dataclass(frozen=True)
class Place:
    """A point of the model: what is shown there, and how it was come to."""

    messages: Shown = ()
    todos: tuple[str, ...] = ()
    deed: str = ""
    before: Place | None = None
    before_branch: str = "main"


@dataclass
class Model:
    place: Place = field(default_factory=Place)
    branch: str = "main"
    branches: dict[str, Place] = field(default_factory=lambda: {"main": Place()})
    undone: list[tuple[Place, str]] = field(default_factory=list)

    def do(self, place: Place) -> None:
        self.undone.clear()
        self.go(place, self.branch)

    def go(self, place: Place, branch: str) -> None:
        self.place, self.branch = place, branch
        self.branches[branch] = place


def shown(messages: list[Message]) -> Shown:
    return tuple((one.role, one.content, one.call_id) for one in messages)


class PastMachine(RuleBasedStateMachine):
    @initialize()
    def begin(self) -> None:
        self.folder = Path(tempfile.mkdtemp())
        self.model = Model()
        self.number = 0
        self.open()

    def open(self) -> None:
        self.todos = TodoTool(persist=True)
        agent = ScriptedAgent([], tools=[self.todos])
        if (self.folder / SESSION_ID).exists():
            self.session = EventSourcedSession.resume(self.folder, SESSION_ID, agent, fsync="never")
        else:
            self.session = EventSourcedSession(agent, self.folder, SESSION_ID, auto_compact=False, fsync="never")

    def took_place(self, deed: str) -> None:
        """The model takes what a deed has brought from the session, having checked what it may bring."""
        todos = tuple(todo.task for todo in self.session.state.todos)
        place = Place(shown(self.session.messages), todos, deed, self.model.place, self.model.branch)
        self.model.do(place)

    @rule(tool=st.booleans(), size=st.integers(0, 400))
    def turn(self, tool: bool, size: int) -> None:
        self.number += 1
        asked, reply = f"question {self.number} " + "x" * size, f"answer {self.number}"
        call_id = f"call-{self.number}"
        steps = uses("Read", call_id, "contents") if tool else []
        self.session.agent = ScriptedAgent([*steps, *says(reply, 2)], tools=[self.todos])
        assert self.session.chat(asked) == reply
        added: Shown = (("user", asked, None),)
        if tool:
            added += (("assistant", "", None), ("tool", "contents", call_id))
        added += (("assistant", reply, None),)
        assert shown(self.session.messages) == self.model.place.messages + added
        self.took_place("turn")

    @rule()
    def turn_with_a_todo(self) -> None:
        self.number += 1
        task = f"task {self.number}"
        self.session.agent = ScriptedAgent(
            [StepStarted(1), lambda: self.todos.add(task), *says("noted")[1:]], tools=[self.todos]
        )
        self.session.chat(task)
        assert tuple(todo.task for todo in self.session.state.todos) == (*self.model.place.todos, task)
        self.took_place("turn")

    @rule()
    def crash_in_a_turn(self) -> None:
        self.number += 1
        asked = f"crash {self.number}"
        journal = TurnJournal(self.session._history, asked)
        journal.take(StepStarted(1))
        journal.take(TextDelta("half"))
        journal.take(ToolCalled(f"lost-{self.number}", "Bash", {}))
        self.open()
        found = shown(self.session.messages)
        assert found[: len(self.model.place.messages)] == self.model.place.messages
        assert found[len(self.model.place.messages)] == ("user", asked, None)
        assert found[-1][0] == "tool"
        assert found[-1][2] == f"lost-{self.number}"
        self.took_place("turn")

    @rule()
    def branch(self) -> None:
        self.number += 1
        name = f"branch-{self.number}"
        self.session.branch(name)
        self.model.undone.clear()
        self.model.go(self.model.place, name)

    @rule(data=st.data())
    def switch(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.model.branches)))
        target = self.model.branches[name]
        self.session.switch(name)
        moved = Place(target.messages, target.todos, "switch", self.model.place, self.model.branch)
        self.model.undone.clear()
        self.model.go(Place(moved.messages, moved.todos, "switch", self.model.place, self.model.branch), name)

    @rule()
    def compact(self) -> None:
        before = shown(self.session.messages)
        planned = self.session.compact(dry_run=True)
        assert shown(self.session.messages) == before
        plan = self.session.compact()
        assert (plan is None) == (planned is None)
        if plan is None:
            assert shown(self.session.messages) == before
            return
        assert [one.content for one in self.session.messages] == [one.content for one in plan.messages()]
        assert plan.tokens_after < plan.tokens_before
        self.took_place("compaction")

    @rule()
    def undo(self) -> None:
        place, branch = self.model.place, self.model.branch
        if place.before is None:
            try:
                self.session.undo()
            except InvalidParams:
                return
            raise AssertionError("there was nothing to undo")
        self.session.undo()
        back = place.before
        self.model.go(back, place.before_branch if place.deed == "switch" else branch)
        self.model.undone.append((place, branch))

    @rule()
    def redo(self) -> None:
        if not self.model.undone:
            try:
                self.session.redo()
            except InvalidParams:
                return
            raise AssertionError("there was nothing to redo")
        self.session.redo()
        self.model.go(*self.model.undone.pop())

    @precondition(lambda self: self.number > 0)
    @rule()
    def resume(self) -> None:
        self.open()

    @invariant()
    def says_what_the_model_says(self) -> None:
        if not hasattr(self, "session"):
            return
        assert shown(self.session.messages) == self.model.place.messages
        assert self.session.state.branch == self.model.branch
        assert tuple(todo.task for todo in self.session.state.todos) == self.model.place.todos
        assert tuple(todo.task for todo in self.todos.todos) == self.model.place.todos

    def teardown(self) -> None:
        if hasattr(self, "folder"):
            shutil.rmtree(self.folder)


PastMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)
TestPast = PastMachine.TestCase

"""``TodoTool``: the list of an agent's tasks, with and without somebody who keeps it."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chimera.core.todos import TodoTool
from chimera.errors import InvalidParams, NoSpace
from chimera.sessions.state import SessionState, Todo


class Keeper:
    """Keeps lists as a session does; with ``full`` it cannot."""

    def __init__(self, *todos: Todo) -> None:
        self.state = SessionState(None, "main", [], todos=list(todos))
        self.kept: list[tuple[str, list[Todo]]] = []
        self.full = False

    def write_todos(self, todos: list[Todo], op: str) -> None:
        if self.full:
            raise NoSpace("the disk is full")
        self.kept.append((op, list(todos)))
        self.state.todos = list(todos)


def test_tasks_are_added_completed_and_removed() -> None:
    tool = TodoTool()
    assert tool.todos == []
    assert (tool.add("one"), tool.add("two")) == (Todo(1, "one"), Todo(2, "two"))
    assert tool.complete(2) == Todo(2, "two", True)
    assert tool.complete(2) == Todo(2, "two", True)
    tool.remove(1)
    assert tool.todos == [Todo(2, "two", True)]


def test_a_number_is_never_given_twice() -> None:
    tool = TodoTool()
    tool.add("one")
    tool.remove(1)
    assert tool.add("two").id == 2
    assert [todo.id for todo in tool.set(["three", "four"])] == [3, 4]
    tool.set([])
    assert tool.add("five").id == 5


def test_a_new_list_takes_the_place_of_the_old_one() -> None:
    tool = TodoTool()
    tool.add("old")
    tool.complete(1)
    assert tool.set(["a", "a"]) == [Todo(2, "a"), Todo(3, "a")]
    assert tool.todos == [Todo(2, "a"), Todo(3, "a")]


def test_what_is_given_out_is_a_copy() -> None:
    tool = TodoTool()
    tool.add("one")
    tool.todos.clear()
    tool.set(["two"]).clear()
    assert tool.todos == [Todo(2, "two")]


def test_a_task_that_is_not_there_is_refused_with_those_that_are() -> None:
    tool = TodoTool()
    with pytest.raises(InvalidParams, match="there is no task 1; the list has: none"):
        tool.complete(1)
    tool.set(["a", "b"])
    with pytest.raises(InvalidParams, match="there is no task 7; the list has: 1, 2"):
        tool.remove(7)
    assert len(tool.todos) == 2


@pytest.mark.parametrize("task", ["", "  ", "\n\t"])
def test_an_empty_task_is_refused(task: str) -> None:
    tool = TodoTool(persist=True)
    keeper = Keeper()
    tool.attach(keeper)
    with pytest.raises(InvalidParams, match="say what is to be done"):
        tool.add(task)
    assert (tool.todos, keeper.kept) == ([], [])


def test_every_change_is_told_with_the_whole_list() -> None:
    tool = TodoTool(persist=True)
    keeper = Keeper()
    tool.attach(keeper)
    tool.add("one")
    tool.complete(1)
    tool.set(["two"])
    tool.remove(2)
    assert keeper.kept == [
        ("add", [Todo(1, "one")]),
        ("complete", [Todo(1, "one", True)]),
        ("set", [Todo(2, "two")]),
        ("remove", []),
    ]


def test_a_list_that_is_not_to_persist_is_told_to_nobody() -> None:
    tool = TodoTool()
    tool.add("mine")
    keeper = Keeper(Todo(5, "theirs"))
    tool.attach(keeper)
    tool.add("mine too")
    assert [todo.task for todo in tool.todos] == ["mine", "mine too"]
    assert keeper.kept == []


def test_an_attached_tool_goes_on_with_the_list_that_it_finds() -> None:
    tool = TodoTool(persist=True)
    tool.attach(Keeper(Todo(3, "three", True), Todo(8, "eight")))
    assert tool.todos == [Todo(3, "three", True), Todo(8, "eight")]
    assert tool.add("nine") == Todo(9, "nine")


def test_the_list_that_a_tool_found_is_not_changed_behind_its_keepers_back() -> None:
    keeper = Keeper(Todo(1, "one"))
    tool = TodoTool(persist=True)
    tool.attach(keeper)
    tool.todos.append(Todo(2, "two"))
    assert keeper.state.todos == [Todo(1, "one")]


def test_what_could_not_be_kept_is_not_on_the_list_and_can_be_tried_again() -> None:
    tool = TodoTool(persist=True)
    keeper = Keeper(Todo(1, "one"))
    tool.attach(keeper)
    keeper.full = True
    for change in (lambda: tool.add("two"), lambda: tool.complete(1), lambda: tool.remove(1), lambda: tool.set([])):
        with pytest.raises(NoSpace):
            change()
        assert tool.todos == [Todo(1, "one")]
    keeper.full = False
    assert tool.add("two") == Todo(2, "two")


DEEDS = st.lists(st.tuples(st.sampled_from(["add", "complete", "remove", "set"]), st.integers(1, 8)))


@given(deeds=DEEDS)
def test_any_sequence_of_changes_gives_the_list_of_a_plain_model_and_is_kept_as_it_is(
    deeds: list[tuple[str, int]],
) -> None:
    tool, keeper = TodoTool(persist=True), Keeper()
    tool.attach(keeper)
    model: dict[int, tuple[str, bool]] = {}
    last = 0
    for deed, number in deeds:
        if deed == "add":
            last += 1
            model[last] = (f"task {number}", False)
            tool.add(f"task {number}")
        elif deed == "set":
            model = {last + place: ("new", False) for place in range(1, number)}
            last += number - 1
            tool.set(["new"] * (number - 1))
        else:
            with contextlib.suppress(InvalidParams):
                getattr(tool, deed)(number)
            if deed == "remove":
                model.pop(number, None)
            elif number in model:
                model[number] = (model[number][0], True)
        assert tool.todos == [Todo(todo_id, task, done) for todo_id, (task, done) in model.items()]
        assert keeper.state.todos == tool.todos

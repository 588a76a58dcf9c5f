"""``TodoTool``: the task list of an agent, which a session can keep.

With ``persist`` every change is one ``todo_write`` event with the whole list, so the list comes back with the session,
goes back with undo, and no compaction loses it. Knows no file.
"""

from __future__ import annotations

from typing import Protocol

import msgspec

from chimera.errors import InvalidParams
from chimera.sessions.state import SessionState, Todo

__all__ = ["TodoKeeper", "TodoTool"]


class TodoKeeper(Protocol):
    """What a session offers the tool."""

    @property
    def state(self) -> SessionState: ...

    def write_todos(self, todos: list[Todo], op: str) -> None: ...


class TodoTool:
    """A list of tasks, each with a number of its own that is never given twice.

    Args:
        persist: keep the list in the session whose agent has this tool.
    """

    name = "Todo"

    def __init__(self, persist: bool = False) -> None:
        self.persist = persist
        self._todos: list[Todo] = []
        self._keeper: TodoKeeper | None = None
        self._last_id = 0

    @property
    def todos(self) -> list[Todo]:
        return list(self._todos)

    def attach(self, keeper: TodoKeeper) -> None:
        """Be the list of this session, as it is there; without ``persist`` nothing happens."""
        if self.persist:
            self._keeper = keeper
            self._last_id = keeper.state.last_todo_id
            self._take(keeper.state.todos)

    def add(self, task: str) -> Todo:
        """Raises InvalidParams: the task is empty."""
        _require_text(task)
        todo = Todo(self._last_id + 1, task)
        self._change([*self._todos, todo], "add")
        return todo

    def complete(self, todo_id: int) -> Todo:
        """Raises InvalidParams: there is no such task."""
        done = msgspec.structs.replace(self._find(todo_id), done=True)
        self._change([done if todo.id == todo_id else todo for todo in self._todos], "complete")
        return done

    def remove(self, todo_id: int) -> None:
        """Raises InvalidParams: there is no such task."""
        self._find(todo_id)
        self._change([todo for todo in self._todos if todo.id != todo_id], "remove")

    def set(self, tasks: list[str]) -> list[Todo]:
        """Begin anew with these tasks, none of them done. Raises InvalidParams: one is empty."""
        for task in tasks:
            _require_text(task)
        first = self._last_id + 1
        self._change([Todo(number, task) for number, task in enumerate(tasks, first)], "set")
        return self.todos

    def _find(self, todo_id: int) -> Todo:
        for todo in self._todos:
            if todo.id == todo_id:
                return todo
        known = ", ".join(str(todo.id) for todo in self._todos) or "none"
        raise InvalidParams(f"there is no task {todo_id}; the list has: {known}")

    def _change(self, todos: list[Todo], op: str) -> None:
        """Kept first: what the session did not take is not in the list either."""
        if self._keeper is not None:
            self._keeper.write_todos(todos, op)
        self._take(todos)

    def _take(self, todos: list[Todo]) -> None:
        self._todos = list(todos)
        self._last_id = max([self._last_id, *(todo.id for todo in todos)])


def _require_text(task: str) -> None:
    if not task.strip():
        raise InvalidParams("the task is empty; say what is to be done")

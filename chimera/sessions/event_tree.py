"""The tree inside one session: which event follows which, the branches, the leaf, labels and checkpoints.

    parent_id      makes the tree; the newest event is the leaf, whatever its type
    branch         {name, at}       its parent is the event the branch begins at; later events belong to the branch
    switch         {to, branch}     its parent is the event that was switched to
    undo           {op, branch}     its parent is the event that was gone back (or forward) to, on that branch
    label          {event_id, label}
    checkpoint     {name}           a named point: its parent

So moving is appending: the position survives any restart, and nothing is rewritten. A parent that is not in the log
(a foreign log, a removed parent session) makes its event a root; cycles cannot be followed twice.

Pure: knows events, no file. Safe for as long as the list of events is not changed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from chimera.errors import InvalidParams
from chimera.events.event import Event
from chimera.sessions.messages import text_of

__all__ = ["MAIN_BRANCH", "Branch", "EventTree", "Node"]

MAIN_BRANCH = "main"
SHOWN_TEXT = 80
LONGEST_NAME = 1000


class Branch(msgspec.Struct):
    """A named path: its newest event, and where it left the path it came from ("" for the first one)."""

    name: str
    leaf: str | None
    began_at: str = ""


class Node(msgspec.Struct, omit_defaults=True):
    """One event as the tree shows it; ``branch`` on the leaves of branches."""

    id: str
    seq: int
    parent_id: str | None
    type: str
    text: str
    label: str | None = None
    branch: str | None = None


class EventTree:
    """Built once over a list of events, extended by :meth:`add`.

    Attributes:
        branches: by name, in order of their beginning; ``main`` first.
        current: the name of the branch that the leaf is on.
        labels: the newest label of an event, by event id.
        checkpoints: name to the ``checkpoint`` event, the newest of each name.
    """

    def __init__(self, events: Sequence[Event] = ()) -> None:
        self.events: list[Event] = []
        self.branches: dict[str, Branch] = {MAIN_BRANCH: Branch(MAIN_BRANCH, None)}
        self.current = MAIN_BRANCH
        self.labels: dict[str, str] = {}
        self.checkpoints: dict[str, Event] = {}
        self._index: dict[str, int] = {}
        self._linear = True
        for event in events:
            self.add(event)

    def add(self, event: Event) -> None:
        """The next event of the log."""
        if self._linear and event.parent_id != self.leaf:
            self._linear = False
        self._index.setdefault(event.id, len(self.events))
        self.events.append(event)
        note = _NOTERS.get(event.type)
        if note is not None:
            note(self, event)
        self.branches[self.current].leaf = event.id

    @property
    def leaf(self) -> str | None:
        """The newest event's id: what the next one follows."""
        return self.events[-1].id if self.events else None

    def __contains__(self, event_id: object) -> bool:
        return event_id in self._index

    def event(self, event_id: str) -> Event:
        """Raises InvalidParams: there is no such event."""
        at = self._index.get(event_id)
        if at is None:
            raise InvalidParams(f"the session has no event {event_id!r}; tree.show names those that are there")
        return self.events[at]

    def path(self, leaf: str | None = None) -> list[Event]:
        """The events from the root to ``leaf`` (by default the newest event), both included.

        Raises:
            InvalidParams: there is no such event.
        """
        if leaf is None:
            leaf = self.leaf
        if leaf is None:
            return []
        if self._linear:
            self.event(leaf)
            return self.events[: self._index[leaf] + 1]
        path = list(self.ancestors(leaf))
        path.reverse()
        return path

    def ancestors(self, event_id: str) -> Iterator[Event]:
        """The event, then what it follows, back to the root."""
        at: int | None = self._index[self.event(event_id).id]
        seen_from = len(self.events)
        while at is not None and at < seen_from:  # a parent stands earlier; one that does not is not followed
            event = self.events[at]
            yield event
            seen_from = at
            at = self._index.get(event.parent_id) if event.parent_id is not None else None

    def resolve(self, to: str) -> tuple[str, str | None]:
        """A branch's name or an event's id as (event id, name of the branch that ends there).

        Raises:
            InvalidParams: neither.
        """
        branch = self.branches.get(to)
        if branch is not None:
            if branch.leaf is None:
                raise InvalidParams(f"the branch {to!r} has no event yet; there is nothing to switch to")
            return branch.leaf, to
        if to not in self._index:
            names = ", ".join(self.branches)
            raise InvalidParams(f"{to!r} is neither a branch nor an event of this session; its branches are {names}")
        ends = [name for name, branch in self.branches.items() if branch.leaf == to]
        return to, (self.current if self.current in ends else ends[0] if ends else None)

    def nodes(self, start: int = 0, count: int | None = None) -> list[Node]:
        """The events in order of the log, or so many of them from the ``start``-th on."""
        ends = {branch.leaf: name for name, branch in self.branches.items()}
        return [
            Node(
                event.id,
                event.seq,
                event.parent_id,
                event.type,
                _shown(event),
                self.labels.get(event.id),
                ends.get(event.id),
            )
            for event in self.events[start : None if count is None else start + count]
        ]

    def leaves(self) -> list[str]:
        """Events that no event follows, oldest first."""
        parents = {event.parent_id for event in self.events}
        return [event.id for event in self.events if event.id not in parents]

    def branch_points(self) -> list[str]:
        """Events that more than one event follows, oldest first."""
        followed: dict[str, int] = {}
        for event in self.events:
            if event.parent_id is not None:
                followed[event.parent_id] = followed.get(event.parent_id, 0) + 1
        return [event.id for event in self.events if followed.get(event.id, 0) > 1]

    def _begin_branch(self, event: Event) -> None:
        name = _text(event, "name") or f"at-{event.seq}"
        self.branches.setdefault(name, Branch(name, None, event.parent_id or ""))
        self.current = name

    def _switch(self, event: Event) -> None:
        name = _text(event, "branch") or f"at-{event.seq}"
        self.branches.setdefault(name, Branch(name, None, event.parent_id or ""))
        self.current = name

    def _go_back(self, event: Event) -> None:
        """What is undone may have been a switch: then the branch that it left is the current one again."""
        self.current = _text(event, "branch") or self.current
        self.branches.setdefault(self.current, Branch(self.current, None, event.parent_id or ""))

    def _label(self, event: Event) -> None:
        label = _text(event, "label")
        if label:
            self.labels[_text(event, "event_id")] = label
        else:
            self.labels.pop(_text(event, "event_id"), None)

    def _checkpoint(self, event: Event) -> None:
        self.checkpoints[_text(event, "name")] = event


_NOTERS: dict[str, Any] = {
    "branch": EventTree._begin_branch,
    "switch": EventTree._switch,
    "undo": EventTree._go_back,
    "label": EventTree._label,
    "checkpoint": EventTree._checkpoint,
}

_TEXT_KEYS = ("content", "output", "text", "summary", "message", "name", "to", "label", "tool", "path")


def _shown(event: Event) -> str:
    """A line that tells the event from its neighbours."""
    for key in _TEXT_KEYS:
        text = text_of(event.metadata.get(key))
        if text:
            line = " ".join(text[: SHOWN_TEXT * 4].split())
            return line if len(line) <= SHOWN_TEXT else line[: SHOWN_TEXT - 1] + "…"
    return ""


def _text(event: Event, key: str) -> str:
    """A name or label, cut where a writer of its own made it longer than any that we make."""
    value = event.metadata.get(key)
    return value[:LONGEST_NAME] if isinstance(value, str) else ""

"""What is to be appended to a session so that something happens in its tree: branch, switch, merge, label.

Pure: an ``EventTree`` in, the events to append out, or an error that says why not. Whoever appends them does so with
the head that it looked at (``expect_seq``) or alone with the log, and proposes anew when somebody else was first.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from chimera.errors import InvalidParams
from chimera.sessions.event_tree import EventTree
from chimera.sessions.messages import messages_of, text_of

__all__ = ["Proposal", "propose_branch", "propose_label", "propose_merge", "propose_switch"]

MAX_NAME_BYTES = 200
MAX_LABEL_BYTES = 1000

_NO_NAME = re.compile(r"[\x00-\x1f\x7f]")


class Proposal(msgspec.Struct, frozen=True):
    """An event to append; without a parent it follows the leaf."""

    type: str
    metadata: dict[str, Any]
    parent_id: str | UnsetType | None = UNSET


def propose_branch(tree: EventTree, name: str, at: str | None = None) -> Proposal:
    """Begin a branch at an event (by default the leaf) and go there. Nothing is copied.

    Raises:
        InvalidParams: the name is not one or is taken, or there is no such event.
    """
    check_name(name, "the branch")
    if name in tree.branches:
        raise InvalidParams(f"there is a branch {name!r} already; tree.switch goes there, or choose another name")
    if name in tree:
        raise InvalidParams(f"{name!r} is the id of an event; choose another name for the branch")
    start = tree.leaf if at is None else tree.event(at).id
    return Proposal("branch", {"name": name, "at": start, **_origin(tree)}, start)


def propose_switch(tree: EventTree, to: str) -> Proposal:
    """Go to the end of a branch, or to any event; an event that ends no branch begins one named after it.

    Raises:
        InvalidParams: neither a branch nor an event.
    """
    leaf, branch = tree.resolve(to)
    return Proposal("switch", {"to": leaf, "branch": branch or _new_name(tree, leaf), **_origin(tree)}, leaf)


def propose_label(tree: EventTree, event_id: str, label: str) -> Proposal:
    """Name an event; "" takes the name away.

    Raises:
        InvalidParams: there is no such event, or the label is too long.
    """
    tree.event(event_id)
    if len(label.encode(errors="replace")) > MAX_LABEL_BYTES:
        raise InvalidParams(f"the label is longer than {MAX_LABEL_BYTES} bytes; shorten it")
    return Proposal("label", {"event_id": event_id, "label": label})


def propose_merge(tree: EventTree, source: str, event_ids: list[str] | None, summary: str) -> Proposal:
    """Bring what another branch found into this one: chosen messages, or its summary. Its lineage stays on record.

    Args:
        source: a branch's name or an event's id.
        event_ids: the events whose messages are taken over; None for ``summary``.

    Raises:
        InvalidParams: no such branch or event, or an event that is not on its path or holds no message.
    """
    leaf, branch = tree.resolve(source)
    named = branch or source
    lineage: dict[str, Any] = {"from": leaf, "branch": named}
    if event_ids is None:
        lineage["content"] = f"[Merged from branch {named}. Summary:]\n{summary}"
        return Proposal("merge", lineage)
    path = {event.id: event for event in tree.path(leaf)}
    texts = []
    for event_id in event_ids:
        if event_id not in path:
            raise InvalidParams(
                f"the event {event_id!r} is not on the branch {named!r}; tree.show names those that are"
            )
        messages = messages_of([path[event_id]])
        if not messages:
            raise InvalidParams(
                f"the event {event_id!r} ({path[event_id].type}) holds no message; choose one that does"
            )
        texts += [f"{message.role}: {text_of(message.content)}" for message in messages]
    lineage["events"] = event_ids
    lineage["content"] = f"[Merged from branch {named}:]\n" + "\n".join(texts)
    return Proposal("merge", lineage)


def check_name(name: str, what: str) -> None:
    """Raises InvalidParams for a name that is empty, too long or holds control characters."""
    size = len(name.encode(errors="replace"))
    if not name.strip() or size > MAX_NAME_BYTES or _NO_NAME.search(name):
        raise InvalidParams(
            f"{what} needs a name of 1 to {MAX_NAME_BYTES} bytes without control characters; it is {name[:40]!r}"
        )


def _origin(tree: EventTree) -> dict[str, Any]:
    """Where it was left: what undo goes back to."""
    return {"from": tree.leaf, "from_branch": tree.current}


def _new_name(tree: EventTree, event_id: str) -> str:
    name = f"at-{tree.event(event_id).seq}"
    number = 2
    while name in tree.branches:
        name, number = f"at-{tree.event(event_id).seq}-{number}", number + 1
    return name

"""The graph that the lines of a session tree come to: nodes, branches, labels, and what stands in them. Pure.

Lines are taken one by one and in order, and new records are made so that they fit what is there. Knows no file, no lock
and no position: where somebody stands is the tree's business.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from itertools import chain, count
from typing import Any

import msgspec

from chimera.errors import InvalidParams, SessionExists
from chimera.identifiers import check_session_id
from chimera.sessions.messages import Message
from chimera.sessions.tree_file import TreeLine, TreeProblem, TreeRecord

__all__ = ["MAIN_BRANCH", "Graph", "SessionNode"]

MAIN_BRANCH = "main"
SUMMARY = "[Session compacted. Summary: {}]"
NAMES_SHOWN = 20


class SessionNode(msgspec.Struct, frozen=True):
    """A session or an entry inside one.

    Attributes:
        parent_id: what it follows; None for a root.
        type: ``session`` (a root) or ``fork`` for a session, else the entry's: ``message``, ``compaction``, ...
        timestamp: seconds since the epoch; 0.0 where the file tells none.
        session_id: the session it belongs to: its own id when it is one; without any session above it the root's.
        name: of a session, the branch that began with it.
    """

    id: str
    parent_id: str | None
    type: str
    timestamp: float
    session_id: str
    name: str | None = None


class _Path(msgspec.Struct):
    """A branch as the lines have it so far."""

    leaf: str
    parent: str | None


class Graph:
    """What the lines say, each taken once and in order. Pure.

    Attributes:
        branch_at: the branch that ends at a node, by the node's id.
        followers: how many nodes follow a node, by its id.
        aliases: labels and switches by their id, with the node that they hang on.
        newest: the node where the newest line stands.
    """

    def __init__(self) -> None:
        self.nodes: dict[str, SessionNode] = {}
        self.branches: dict[str, _Path] = {}
        self.branch_at: dict[str, str] = {}
        self.followers: dict[str, int] = {}
        self.aliases: dict[str, str | None] = {}
        self.labels: dict[str, str] = {}
        self.newest: str | None = None
        self.problems: list[TreeProblem] = []
        self._messages: dict[str, Message] = {}
        self._compactions: dict[str, TreeRecord] = {}

    def take(self, line: TreeLine) -> None:
        """The next line of the file."""
        record = line.record
        if record is not None:
            if record.id in self.nodes or record.id in self.aliases:
                line.problems.append(f"its id {record.id!r} is that of an earlier line, which counts")
            elif record.type in ("label", "switch"):
                self._note(record, self._parent_of(record, line), line)
            else:
                self._grow(record, self._parent_of(record, line), line)
        self.problems.extend(TreeProblem(line.number, problem) for problem in line.problems)

    def find(self, to: str) -> str:
        """The id of the node that a branch's name or an id means; raises InvalidParams, which lists the branches."""
        if to in self.branches:
            return self.branches[to].leaf
        node_id = self.aliases.get(to) or to
        if node_id in self.nodes:
            return node_id
        if not self.nodes:
            raise InvalidParams(f"there is no {to!r}, for the tree is empty; add a session or append a message first")
        names = [repr(name) for name in self.branches]
        more = f" and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else ""
        raise InvalidParams(
            f"{to!r} is neither a branch nor one of the {len(self.nodes)} ids of the tree; "
            f"its branches are {', '.join(names[:NAMES_SHOWN])}{more}"
        )

    def ancestors(self, node_id: str) -> Iterator[SessionNode]:
        """The node and what it follows, back to the root. A parent stands on an earlier line: this ends."""
        at: str | None = node_id
        while at is not None:
            node = self.nodes[at]
            yield node
            at = node.parent_id

    def messages(self, leaf: str) -> list[Message]:
        """The messages from the root to this node, as its newest compaction has them."""
        path = [node.id for node in self.ancestors(leaf)]
        path.reverse()
        head: list[Message] = []
        at = next((at for at in range(len(path) - 1, -1, -1) if path[at] in self._compactions), None)
        if at is not None:
            compaction = self._compactions[path[at]]
            head = [Message("user", SUMMARY.format(compaction.summary), event_id=compaction.id, synthetic=True)]
            kept_from = str(compaction.first_kept_entry_id)
            kept_from = self.aliases.get(kept_from) or kept_from
            before = path[:at]
            path = [*(before[before.index(kept_from) :] if kept_from in before else []), *path[at:]]
        return [*head, *(self._messages[node_id] for node_id in path if node_id in self._messages)]

    def record(self, kind: str, parent_id: str | None, **members: Any) -> TreeRecord:
        """A record with an id that nothing in the tree has."""
        record_id = os.urandom(6).hex()
        while self.has(record_id):
            record_id = os.urandom(6).hex()
        return TreeRecord(type=kind, id=record_id, parent_id=parent_id, timestamp=time.time(), **members)

    def session(self, kind: str, parent_id: str | None, name: str | None, session_id: str | None) -> TreeRecord:
        """The record of a session that begins; its name and its id must be free."""
        record = self.record(kind, parent_id)
        if session_id is not None:
            record.id = check_session_id(session_id)
            if self.has(session_id):
                raise SessionExists(f"the tree has {session_id!r} already; switch to it, or give another id")
        if name is None:
            name = self._free_name(record)
        elif not name.strip() or not name.isprintable():
            raise InvalidParams(f"the branch name {name[:40]!r} is not printable text; give a plain name")
        elif self.has(name) or name == record.id:
            raise InvalidParams(f"{name!r} is the name of a branch or the id of a node already; give another name")
        record.name = name
        return record

    def has(self, name: str) -> bool:
        """Whether this names anything in the tree."""
        return name in self.nodes or name in self.aliases or name in self.branches

    def _free_name(self, record: TreeRecord) -> str:
        first = [MAIN_BRANCH] if record.type == "session" else []
        names = chain(first, [f"branch_{record.id[:8]}"], (f"branch_{record.id}_{number}" for number in count(1)))
        return next(name for name in names if not self.has(name) and name != record.id)

    def _parent_of(self, record: TreeRecord, line: TreeLine) -> str | None:
        parent_id = record.parent_id
        if parent_id is None or parent_id in self.nodes:
            return parent_id
        if parent_id not in self.aliases:
            line.problems.append(f"no earlier line has its parent_id {parent_id!r}; it is taken as a root")
        return self.aliases.get(parent_id)

    def _note(self, record: TreeRecord, parent_id: str | None, line: TreeLine) -> None:
        """A label or a switch: it moves to its parent, and is no node itself."""
        self.aliases[record.id] = parent_id
        self.newest = parent_id or self.newest
        if record.type == "label":
            self._label(str(record.target_id), str(record.label), line)
        elif parent_id is None:
            line.problems.append("it switches to nothing that is there")

    def _label(self, target_id: str, label: str, line: TreeLine) -> None:
        node_id = self.aliases.get(target_id) or target_id
        if node_id not in self.nodes:
            line.problems.append(f"no earlier line has the id {target_id!r} that it labels")
        elif label:
            self.labels[node_id] = label
        else:
            self.labels.pop(node_id, None)

    def _grow(self, record: TreeRecord, parent_id: str | None, line: TreeLine) -> None:
        """A node, and the branch that it begins or goes on with."""
        is_session = record.type in ("session", "fork")
        own_session = record.id if is_session or parent_id is None else self.nodes[parent_id].session_id
        name = self._name_of(record, line) if is_session else None
        self.nodes[record.id] = SessionNode(record.id, parent_id, record.type, record.timestamp, own_session, name)
        self.followers[record.id] = 0
        if parent_id is not None:
            self.followers[parent_id] += 1
        if isinstance(record.message, Message):
            self._messages[record.id] = record.message
        elif record.type == "compaction":
            self._compactions[record.id] = record
        self._end_branch_at(record.id, parent_id, name)
        self.newest = record.id

    def _end_branch_at(self, node_id: str, parent_id: str | None, name: str | None) -> None:
        if name is None and not self.branches:
            name, parent_id = MAIN_BRANCH, None
        if name is not None:
            self.branches[name] = _Path(node_id, parent_id)
        elif parent_id in self.branch_at:
            name = self.branch_at.pop(parent_id)
            self.branches[name].leaf = node_id
        if name is not None:
            self.branch_at[node_id] = name

    def _name_of(self, record: TreeRecord, line: TreeLine) -> str:
        """The branch's name as the line has it, or a free one."""
        if isinstance(record.name, str) and record.name and record.name not in self.branches:
            return record.name
        name = self._free_name(record)
        line.problems.append(f"its branch's name is missing or taken; the branch goes by {name!r}")
        return name

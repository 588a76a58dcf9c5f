"""``SessionTree``: related sessions and what was said in them as one graph, with named branches to switch between.

    node      a session, or an entry inside one (a message, a compaction, ...); each follows its parent, a root nobody
    branch    a named path: its newest node. A fork begins one, and so does the first node of a tree (``main``)
    position  where this object stands: on a branch, or on a node that no branch ends at

Moving, too, is a line in the file: who opens it stands where its newest line stands, after any restart. From then on
the position is the object's own: others extend the branch it is on, but nobody else moves it. Labels and switches are
no nodes; what names one as its parent follows what it hangs on.

Which line means what stands in chimera/sessions/tree_file.py; this module touches no file itself.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from itertools import chain, count
from typing import Any

import msgspec

from chimera.errors import InvalidParams, SessionExists, StorageError
from chimera.identifiers import check_session_id
from chimera.sessions.messages import Message
from chimera.sessions.tree_file import TreeFile, TreeLine, TreeProblem, TreeRecord, default_tree_path

__all__ = ["MAIN_BRANCH", "SessionBranch", "SessionNode", "SessionTree", "TreeProblem"]

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


class SessionBranch(msgspec.Struct, frozen=True):
    """A named path: its newest node, the node that it was forked from (None: it begins at a root), and whether the
    tree stands on it."""

    name: str
    leaf: str
    parent: str | None
    active: bool


class SessionTree:
    """The tree in the JSONL file at ``path``; it may be used from any thread, and the file by any number of processes.

    Wherever an id is asked for, a branch's name will do: it means the branch's newest node.

    Args:
        path: of the file, which is made at the first change; by default the one of the working directory,
            ``<CHIMERA_HOME>/sessions/<12 hex>.jsonl``.

    Raises:
        StorageError: the file is there and cannot be read. Whatever it holds is no error: see ``problems``.
    """

    def __init__(self, path: str | os.PathLike[str] | None = None) -> None:
        self.path = default_tree_path() if path is None else os.path.abspath(os.path.expanduser(os.fspath(path)))
        self._file = TreeFile(self.path)
        self._graph = _Graph()
        self._branch: str | None = None
        self._node: str | None = None
        self._writing = threading.Lock()  # apart from the other: who reads does not wait for locks and disks
        self._reading = threading.Lock()
        self.current()

    # -- changing

    def add(self, session_id: str, name: str | None = None) -> SessionNode:
        """Add a session that follows none, and switch to it.

        Args:
            name: of its branch; by default ``main`` where that is free.

        Raises:
            SessionExists: the tree has it already. InvalidId: it is no session id. InvalidParams: as for :meth:`fork`.
        """
        return self._change(lambda graph: graph.session("session", None, name, session_id))

    def fork(self, parent_id: str, name: str | None = None, *, session_id: str | None = None) -> SessionNode:
        """Begin a session behind ``parent_id``, whatever follows that already, and switch to it; nothing is rewritten.

        Args:
            name: of its branch; by default ``branch_`` and the first 8 of its id.
            session_id: its id, where there is one already; by default 12 hex digits.

        Raises:
            InvalidParams: there is no such parent, the name is taken or no printable text. InvalidId, SessionExists:
                as for :meth:`add`. Locked: another process has been appending for 30 s. NoSpace, StorageError: the
                disk refused.
        """
        return self._change(lambda graph: graph.session("fork", graph.find(parent_id), name, session_id))

    def append_message(self, message: Message) -> SessionNode:
        """Add a message behind the position; in an empty tree it is the root. Raises as :meth:`fork`."""
        return self._change(lambda graph: graph.record("message", self._leaf(), message=message))

    def switch(self, name: str) -> SessionNode:
        """Move to the newest node of a branch, or to the node with this id; returns it. Raises as :meth:`fork`."""
        return self._change(lambda graph: graph.record("switch", graph.find(name)))

    def label(self, target_id: str, label: str) -> None:
        """Give a node a label in the place of the one it has; "" takes it away. Raises as :meth:`fork`."""
        self._change(lambda graph: graph.record("label", self._leaf(), target_id=graph.find(target_id), label=label))

    # -- reading

    def current(self) -> str | None:
        """The id of the active node: the session, until something is appended to it; None in an empty tree."""
        with self._reading:
            self._refresh()
            return self._leaf()

    @property
    def branch(self) -> str | None:
        """The name of the active branch; None on a node that no branch ends at."""
        with self._reading:
            self._refresh()
            return self._branch

    def node(self, node_id: str) -> SessionNode:
        """Raises InvalidParams: there is no such node."""
        with self._reading:
            graph = self._refresh()
            return graph.nodes[graph.find(node_id)]

    def list_branches(self) -> list[SessionBranch]:
        """Every branch, in order of their beginning."""
        with self._reading:
            paths = self._refresh().branches.items()
            return [SessionBranch(name, path.leaf, path.parent, name == self._branch) for name, path in paths]

    def iter_history(self, session_id: str) -> Iterator[SessionNode]:
        """The node, then what it follows, back to the root. Raises InvalidParams: there is no such node."""
        with self._reading:
            graph = self._refresh()
            return graph.ancestors(graph.find(session_id))

    def messages(self, leaf: str | None = None) -> list[Message]:
        """The messages from the root to ``leaf`` (by default the active node), both included.

        The newest compaction on the way counts: its summary, as a user message, stands in the place of everything
        before its ``first_kept_entry_id``, or before itself where that names nothing on the way.

        Raises:
            InvalidParams: there is no such node.
        """
        with self._reading:
            graph = self._refresh()
            at = self._leaf() if leaf is None else graph.find(leaf)
            return graph.messages(at) if at is not None else []

    @property
    def labels(self) -> dict[str, str]:
        """The newest label of each node that has one, by its id."""
        with self._reading:
            return dict(self._refresh().labels)

    def leaves(self) -> list[str]:
        """The nodes that nothing follows, oldest first."""
        with self._reading:
            return [node_id for node_id, followers in self._refresh().followers.items() if not followers]

    def branch_points(self) -> list[str]:
        """The nodes that more than one node follows, oldest first."""
        with self._reading:
            return [node_id for node_id, followers in self._refresh().followers.items() if followers > 1]

    @property
    def problems(self) -> list[TreeProblem]:
        """What is wrong with the file, in the order of its lines."""
        with self._reading:
            graph = self._refresh()
            return [*graph.problems, *([self._file.unended] if self._file.unended else [])]

    # -- how

    def _refresh(self) -> _Graph:
        """The graph with what was appended since, by whomever."""
        if self._file.was_replaced():
            self._file, self._graph = TreeFile(self.path), _Graph()
            self._branch = self._node = None
        for line in self._file.read_new():
            self._graph.take(line)
        if self._leaf() is None:
            self._go_to(self._graph.newest)
        return self._graph

    def _leaf(self) -> str | None:
        return self._node if self._branch is None else self._graph.branches[self._branch].leaf

    def _go_to(self, node_id: str | None) -> None:
        self._node = node_id
        self._branch = None if node_id is None else self._graph.branch_at.get(node_id)

    def _change(self, make: Callable[[_Graph], TreeRecord]) -> SessionNode:
        """Append the record made from the graph as it is under the lock; returns the node that is active then."""
        with self._writing, self._file.locked():
            self._file.end_last_line()
            with self._reading:
                record = make(self._refresh())
            self._file.append(record)
            with self._reading:
                graph = self._refresh()
                node = graph.nodes.get(graph.aliases.get(record.id) or record.id)
                if node is None:
                    raise StorageError(
                        f"what was appended to {self.path!r} is not in it: another program changes the file without "
                        "taking its lock; end that program and try again"
                    )
                self._go_to(node.id)
                return node


class _Path(msgspec.Struct):
    """A branch as the lines have it so far."""

    leaf: str
    parent: str | None


class _Graph:
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

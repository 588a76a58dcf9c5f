"""``SessionTree``: related sessions and what was said in them as one graph, with named branches to switch between.

    node      a session, or an entry inside one (a message, a compaction, ...); each follows its parent, a root nobody
    branch    a named path: its newest node. A fork begins one, and so does the first node of a tree (``main``)
    position  where this object stands: on a branch, or on a node that no branch ends at

Moving, too, is a line in the file: who opens it stands where its newest line stands, after any restart. From then on
the position is the object's own: others extend the branch it is on, but nobody else moves it. Labels and switches are
no nodes; what names one as its parent follows what it hangs on.

Which line means what stands in chimera/sessions/tree_file.py, what the lines come to in chimera/sessions/tree_graph.py;
this module touches no file itself.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator

import msgspec

from chimera.errors import StorageError
from chimera.sessions.messages import Message
from chimera.sessions.tree_file import TreeFile, TreeProblem, TreeRecord, default_tree_path
from chimera.sessions.tree_graph import MAIN_BRANCH, Graph, SessionNode

__all__ = ["MAIN_BRANCH", "SessionBranch", "SessionNode", "SessionTree", "TreeProblem"]


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
        self._graph = Graph()
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

    def knows(self, node_id: str) -> bool:
        """Whether there is a node of this id."""
        with self._reading:
            return node_id in self._refresh().nodes

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

    def _refresh(self) -> Graph:
        """The graph with what was appended since, by whomever."""
        if self._file.was_replaced():
            self._file, self._graph = TreeFile(self.path), Graph()
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

    def _change(self, make: Callable[[Graph], TreeRecord]) -> SessionNode:
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

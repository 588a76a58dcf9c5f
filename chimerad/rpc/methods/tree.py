"""``tree.*``: where a session stands among its branches, and going elsewhere. What a move is, the library says."""

from __future__ import annotations

import msgspec

from chimera.sessions.branch_summary import summary_of_branch, with_summary
from chimera.sessions.event_tree import EventTree, Node
from chimera.sessions.history import History
from chimera.sessions.proposals import Proposal, propose_branch, propose_label, propose_merge, propose_switch
from chimerad.rpc import parameters, results
from chimerad.rpc.context import CallContext, Handler

__all__ = ["HANDLERS"]

PAGE_BYTES = 8 * 1024 * 1024
NODES_AT_ONCE = 1000

_encode = msgspec.json.Encoder().encode


async def show(context: CallContext, asked: parameters.TreeShowParams) -> results.TreeShown:
    def look(history: History) -> results.TreeShown:
        tree = history.tree
        nodes = _page(tree, asked.from_seq - 1)
        shown_through = asked.from_seq - 1 + len(nodes)
        return results.TreeShown(
            nodes=nodes,
            branches={name: branch.leaf for name, branch in tree.branches.items()},
            current=tree.current,
            leaf=tree.leaf,
            next_seq=shown_through + 1 if shown_through < len(tree.events) else None,
        )

    return await context.daemon.store.trees.look(asked.session_id, look)


async def branch(context: CallContext, asked: parameters.TreeBranchParams) -> results.BranchMade:
    def begin(history: History) -> results.BranchMade:
        leaf = _go(history, propose_branch(history.tree, asked.name, asked.at), asked.summarise)
        return results.BranchMade(asked.name, leaf)

    return await context.daemon.store.trees.work(asked.session_id, begin)


async def switch(context: CallContext, asked: parameters.TreeSwitchParams) -> results.Switched:
    def go(history: History) -> results.Switched:
        leaf = _go(history, propose_switch(history.tree, asked.to), asked.summarise)
        return results.Switched(history.tree.current, leaf)

    return await context.daemon.store.trees.work(asked.session_id, go)


async def merge(context: CallContext, asked: parameters.TreeMergeParams) -> results.Merged:
    def bring(history: History) -> results.Merged:
        summary = "" if asked.events is not None else summary_of_branch(history.tree, asked.source)
        return results.Merged(history.record(propose_merge(history.tree, asked.source, asked.events, summary))[-1].seq)

    return await context.daemon.store.trees.work(asked.session_id, bring)


async def label(context: CallContext, asked: parameters.TreeLabelParams) -> results.Ok:
    def name(history: History) -> results.Ok:
        history.record(propose_label(history.tree, asked.event_id, asked.label))
        return results.Ok(True)

    return await context.daemon.store.trees.work(asked.session_id, name)


def _page(tree: EventTree, start: int) -> list[Node]:
    """As many nodes as fit; at least one, where there is one."""
    page: list[Node] = []
    size = 0
    while nodes := tree.nodes(start + len(page), NODES_AT_ONCE):
        for node in nodes:
            size += len(_encode(node)) + 1
            if size > PAGE_BYTES and page:
                return page
            page.append(node)
    return page


def _go(history: History, proposal: Proposal, summarise: bool) -> str:
    """Append the move; returns the new leaf."""
    return history.record(with_summary(history.tree, proposal) if summarise else proposal)[-1].id


HANDLERS: dict[str, Handler] = {
    "tree.show": show,
    "tree.branch": branch,
    "tree.merge": merge,
    "tree.switch": switch,
    "tree.label": label,
}

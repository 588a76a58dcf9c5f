"""What a branch was about, in a few lines: written down when it is left, asked for when it is merged.

An extract of its messages, the same each time; whoever has a model may write better ones. Pure.
"""

from __future__ import annotations

import msgspec

from chimera.compaction.extract import extract_outline
from chimera.compaction.outline import render_outline
from chimera.sessions.context import context_of
from chimera.sessions.event_tree import EventTree
from chimera.sessions.proposals import Proposal

__all__ = ["summary_of_branch", "with_summary"]

SUMMARY_BYTES = 4000


def with_summary(tree: EventTree, proposal: Proposal) -> Proposal:
    """A branch or switch with a summary of the path that it leaves."""
    outline = extract_outline(context_of(tree.path()))
    summary = render_outline(outline, SUMMARY_BYTES)
    return msgspec.structs.replace(proposal, metadata={**proposal.metadata, "summary": summary})


def summary_of_branch(tree: EventTree, source: str) -> str:
    """What was written down when the branch was last left as it is; else an extract of what it alone holds.

    Raises:
        InvalidParams: ``source`` is neither a branch nor an event.
    """
    leaf, name = tree.resolve(source)
    for event in reversed(tree.events):
        if event.type in ("switch", "branch") and event.metadata.get("from") == leaf:
            summary = event.metadata.get("summary")
            if isinstance(summary, str) and event.metadata.get("from_branch") == name:
                return summary
    here = {event.id for event in tree.path()}
    own = [event for event in tree.path(leaf) if event.id not in here]
    return render_outline(extract_outline(context_of(own)), SUMMARY_BYTES)

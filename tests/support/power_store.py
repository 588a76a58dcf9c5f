"""Judges the event log of a recorded daemon or embedder: recovery on each state, then the books against the disk."""

from __future__ import annotations

import os
from collections.abc import Sequence

from chimera.sessions.eventlog.locks import OwnerLock
from chimera.sessions.eventlog.recovery import Recovered, recover_root
from chimerad.store import lifecycle, trash
from tests.support.crash_ledger import Conversation, Found, find
from tests.support.power_check import Span
from tests.support.power_recorder import Operation

ROOT = os.path.join("home", "eventlog")


class StoreJudge:
    """After a power cut: everything answered or shown is there once and byte-equal, and a second recovery idles."""

    def __init__(self, operations: Sequence[Operation]) -> None:
        self.conversation = Conversation(list(operations))

    def recover(self, folder: str) -> Found:
        root = os.path.join(folder, ROOT)
        if not os.path.isdir(root):
            return Found()
        first = recover(root)
        found = find(root)
        if first.damaged or first.lost or first.renumbered:
            found.complaints.append(f"recovery reports {first.damaged} {first.lost} {first.renumbered}")
        stands = contents(root)
        if recover(root).sessions or contents(root) != stands:
            found.complaints.append("a second recovery changes something")
        return found

    def complaints(self, found: Found, before: int) -> list[str]:
        return self.conversation.ledger(before).complaints(found)

    def moments(self, spans: Sequence[Span]) -> Sequence[int]:
        return self.conversation.moments(spans)


def recover(root: str) -> Recovered:
    """What a daemon does with a root before it listens."""
    owner = OwnerLock(root)
    owner.acquire()
    try:
        lifecycle.clean_beside(root)
        trash.clean_trash(root)
        recovered = recover_root(root)
        for session_id in recovered.sessions:
            lifecycle.complete_recovered(os.path.join(root, session_id))
        return recovered
    finally:
        owner.release()


def contents(root: str) -> dict[str, bytes]:
    """Every file below a root but the locks and the journal (its numbers go on), with its bytes."""
    found = {}
    for parent, folders, names in os.walk(root):
        folders[:] = [name for name in folders if name != ".journal"]
        for name in names:
            if not name.endswith(".lock"):
                path = os.path.join(parent, name)
                with open(path, "rb") as file:
                    found[os.path.relpath(path, root)] = file.read()
    return found

"""``checkpoints.*``: named points of a session, and going back to them."""

from __future__ import annotations

from chimera.sessions import past
from chimera.sessions.event_tree import MAIN_BRANCH
from chimera.sessions.history import History
from chimerad.rpc import parameters, results
from chimerad.rpc.context import CallContext, Handler
from chimerad.rpc.methods.context import files_report

__all__ = ["HANDLERS"]


async def save(context: CallContext, asked: parameters.CheckpointSaveParams) -> results.CheckpointSaved:
    def keep(history: History) -> results.CheckpointSaved:
        return results.CheckpointSaved(asked.name, past.save_checkpoint(history, asked.name).seq)

    return await context.daemon.store.trees.work(asked.session_id, keep)


async def list_checkpoints(context: CallContext, asked: parameters.CheckpointListParams) -> results.Checkpoints:
    def look(history: History) -> results.Checkpoints:
        return results.Checkpoints(
            [
                results.Checkpoint(name, event.seq, event.id, event.ts, str(event.metadata.get("branch", MAIN_BRANCH)))
                for name, event in history.tree.checkpoints.items()
            ]
        )

    return await context.daemon.store.trees.look(asked.session_id, look)


async def restore(context: CallContext, asked: parameters.CheckpointRestoreParams) -> results.CheckpointRestored:
    trees = context.daemon.store.trees

    def go(history: History) -> results.CheckpointRestored:
        taken = past.restore_checkpoint(
            history,
            trees.blobs_of(asked.session_id),
            asked.name,
            conversation=asked.conversation,
            files=asked.files,
            dry_run=asked.dry_run,
            force=asked.force,
        )
        return results.CheckpointRestored(files_report(taken), history.tree.current)

    return await trees.work(asked.session_id, go)


HANDLERS: dict[str, Handler] = {
    "checkpoints.save": save,
    "checkpoints.list": list_checkpoints,
    "checkpoints.restore": restore,
}

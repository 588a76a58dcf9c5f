"""A session's life on disk beside its log: created, finished, renamed, tagged, recovered (store rules 8 and 14).

Each change is built beside, synced, renamed. Blocking: runs in a thread while the store holds the session. Knows no
event loop and no index.
"""

from __future__ import annotations

import os
import shutil
import time
from typing import TYPE_CHECKING, Any

from chimera import durable, paths
from chimera.errors import InvalidParams, MalformedSummary, NoSummary
from chimera.identifiers import summary_timestamp
from chimera.sessions.creation import BESIDE
from chimera.sessions.derived import derive
from chimera.sessions.eventlog.reader import read_log
from chimera.sessions.summary import encode_summary, microdollars, read_summary, with_title
from chimerad.store import ledger

if TYPE_CHECKING:
    pass

__all__ = [
    "change_summary",
    "clean_beside",
    "complete_recovered",
    "finish_session",
    "rename_session",
    "reopen_recovered",
]


def finish_session(folder: str, result: dict[str, Any], events: int, chain: str) -> dict[str, object]:
    """Write how a session ended; what ``result`` leaves out is counted from the log.

    Raises:
        NoSummary, MalformedSummary, InvalidParams; OSError: the old summary stands.
    """
    raw, view = read_summary(folder)
    derived = derive(record.event() for record in read_log(folder).records)
    raw["ended_at"] = summary_timestamp(time.time())
    raw["steps"] = result.get("steps", derived.steps or view.steps)
    raw["tool_calls_total"] = result.get("tool_calls_total", derived.tool_calls_total or view.tool_calls)
    raw["prompt"] = view.prompt or derived.prompt
    raw.update({key: result[key] for key in ("success", "error", "model") if key in result})
    _take_cost(raw, result)
    raw.update(state="finished", recovered=False, events=events, chain=chain)
    durable.replace_file(paths.summary_path(folder), encode_summary(raw))
    return raw


def rename_session(root: str, session_id: str, title: str) -> str | None:
    """Give a session a title, or with "" take it away; returns the title it now has.

    Raises:
        NoSummary, MalformedSummary; OSError: the old title stands.
    """
    folder = paths.session_folder(root, session_id)
    raw, view = read_summary(folder)
    new_title = title if title.strip() else None
    ledger.note(root, "rename", session_id, before=view.title, after=new_title)
    durable.replace_file(paths.summary_path(folder), encode_summary(with_title(raw, new_title)))
    return new_title


def change_summary(root: str, session_id: str, action: str, changes: dict[str, object]) -> None:
    """Set some keys of a summary, noted in the ledger with what they were.

    Raises:
        NoSummary, MalformedSummary; OSError: the old summary stands.
    """
    folder = paths.session_folder(root, session_id)
    raw, _ = read_summary(folder)
    before = {key: raw.get(key) for key in changes}
    if before == changes:
        return
    ledger.note(root, action, session_id, before=before, after=changes)
    raw.update(changes)
    durable.replace_file(paths.summary_path(folder), encode_summary(raw))


def complete_recovered(folder: str) -> bool:
    """Complete the summary of a session of ours that died with its daemon, from its events; True when it did.

    A foreign or malformed summary, and one that had been finished, are left as they are.
    """
    try:
        raw, view = read_summary(folder)
    except (NoSummary, MalformedSummary):
        return False
    if view.generation is None or view.ended_at:
        return False
    reading = read_log(folder)
    derived = derive(record.event() for record in reading.records)
    raw["ended_at"] = derived.last_ts[:19] + "Z" if derived.last_ts else view.started_at
    raw["steps"], raw["tool_calls_total"] = derived.steps, derived.tool_calls_total
    raw["prompt"] = view.prompt or derived.prompt
    raw["success"], raw["error"] = bool(derived.success), derived.error
    raw.update(state="recovered", recovered=True, events=reading.head_seq, chain=reading.head_chain.decode())
    durable.replace_file(paths.summary_path(folder), encode_summary(raw))
    return True


def reopen_recovered(folder: str) -> None:
    """A session that was taken for dead goes on: its summary is open again, unless it was finished meanwhile."""
    try:
        raw, view = read_summary(folder)
    except (NoSummary, MalformedSummary):
        return
    if not view.recovered:
        return
    raw.update(ended_at="", state="open", recovered=False)
    durable.replace_file(paths.summary_path(folder), encode_summary(raw))


def clean_beside(root: str) -> None:
    """Remove what a crash left half built; nothing of it was ever shown or answered.

    What a killed daemon had just renamed into place may stand in the page cache alone: it is made durable before
    anything is acknowledged in it, or removed because of it.
    """
    for name in os.listdir(root):
        if name.startswith(BESIDE):
            shutil.rmtree(os.path.join(root, name), ignore_errors=True)
    durable.sync_folder(root)


def _take_cost(raw: dict[str, object], result: dict[str, Any]) -> None:
    """Costs as the caller gives them; a cost without a source came from the provider, no cost is unpriced."""
    for key in ("total_tokens", "input_tokens", "output_tokens", "cache_tokens"):
        if key in result:
            raw[key] = result[key]
    if "total_tokens" not in result and ("input_tokens" in result or "output_tokens" in result):
        raw["total_tokens"] = int(result.get("input_tokens", 0)) + int(result.get("output_tokens", 0))
    if "cost_usd" in result:
        try:
            microdollars(result["cost_usd"])
        except ValueError as error:
            raise InvalidParams(f"cost_usd: {error}") from None
        raw["cost_usd"] = result["cost_usd"]
        raw["cost_source"] = result.get("cost_source", "provider")
    elif "cost_source" in result:
        raw["cost_source"] = result["cost_source"]

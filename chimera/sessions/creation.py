"""Making a session's folder: built beside, synced, renamed, so that it is there whole or not at all (store rule 8).

For the daemon, which owns the root, and for a program without one. Knows no log beyond its being empty.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec

from chimera import durable, paths
from chimera.errors import InvalidParams, MalformedSummary, NoSummary, SessionExists
from chimera.flavours import flavour_named
from chimera.identifiers import new_generation, summary_timestamp
from chimera.sessions.eventlog.layouts import LAYOUTS
from chimera.sessions.eventlog.reader import read_log
from chimera.sessions.summary import encode_summary, new_summary, read_summary

if TYPE_CHECKING:
    from chimera.sessions.lineage import ForkPoint

__all__ = ["BESIDE", "create_session"]

BESIDE = ".new-"
"""What the name of a folder begins with while it is built; one that a crash left is removed at the daemon's start."""

WRITABLE_LAYOUTS = tuple(name for name in LAYOUTS if name != "packed")


def create_session(
    root: str,
    session_id: str,
    *,
    flavour: str,
    prompt: str,
    title: str | None,
    model: str,
    cwd: str,
    layout: str | None,
    tags: list[str],
    parent: ForkPoint | None = None,
    fill: Callable[[str], None] | None = None,
) -> tuple[str, str]:
    """Make a session's folder with its first summary; returns its path and generation.

    A folder of that id without events is taken to be the same call again. ``fill`` puts more into the folder before
    anybody can see it.

    Raises:
        InvalidParams: no such flavour or layout. SessionExists: with events in it. OSError: nothing was made.
    """
    chosen = layout or flavour_named(flavour).layout
    if chosen not in WRITABLE_LAYOUTS:
        raise InvalidParams(f"unknown layout {chosen!r}; it must be one of {', '.join(WRITABLE_LAYOUTS)}")
    folder = paths.session_folder(root, session_id)
    if os.path.lexists(folder):
        generation = _generation_of_empty(folder, session_id)
        durable.sync_folder(root)  # the first call may have failed at just this
        return folder, generation
    generation = new_generation()
    summary = new_summary(
        session_id=session_id,
        flavour=flavour_named(flavour).name,
        prompt=prompt,
        title=title,
        model=model,
        cwd=cwd,
        started_at=summary_timestamp(time.time()),
        layout=chosen,
        tags=tags,
        generation=generation,
    )
    if parent is not None:
        summary["parent_session"] = msgspec.to_builtins(parent)
    beside = os.path.join(root, f"{BESIDE}{os.urandom(8).hex()}")
    try:
        durable.make_folder(beside)
        durable.create_file(paths.summary_path(beside), encode_summary(summary))
        if fill is not None:
            fill(beside)
        durable.move(beside, folder)
    except OSError:
        shutil.rmtree(beside, ignore_errors=True)
        raise
    return folder, generation


def _generation_of_empty(folder: str, session_id: str) -> str:
    exists = SessionExists(f"the session {session_id!r} is there already; append to it, or choose another id")
    if not os.path.isdir(folder) or read_log(folder).records:
        raise exists
    try:
        _, view = read_summary(folder)
    except (NoSummary, MalformedSummary):
        raise exists from None
    if view.generation is None:
        raise exists
    return view.generation

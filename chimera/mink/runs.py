"""Mink calls its sessions runs: the same helpers under both names."""

from __future__ import annotations

from chimera.mink.sessions import SessionDetail, SessionRecord, get_session, iter_sessions, parse_since

__all__ = [
    "SessionDetail",
    "SessionRecord",
    "get_run",
    "get_session",
    "iter_runs",
    "iter_sessions",
    "parse_since",
]

iter_runs = iter_sessions
get_run = get_session

"""Ferret's sessions, read from the files. Every helper takes ``eventlog_root``."""

from __future__ import annotations

from functools import partial

from chimera.sessions.eventlog import cross_cli
from chimera.sessions.eventlog.cross_cli import SessionDetail, SessionRecord, get_session, parse_since

__all__ = ["SessionDetail", "SessionRecord", "get_session", "iter_sessions", "parse_since"]

iter_sessions = partial(cross_cli.iter_sessions, flavour="ferret")

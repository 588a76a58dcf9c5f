"""``EventSourcedSession``: a session whose every event is in its log before anybody sees its effect.

Without a daemon the log is written under the session's lock; where a daemon owns the root, through it. Resume replays
the log and nothing else. Knows no layout and no socket.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Self

from chimera import paths
from chimera.client.blocking import Client
from chimera.compaction import CompactionStrategy
from chimera.errors import InvalidParams, SessionNotFound
from chimera.events.event import Event
from chimera.flavours import origin_of
from chimera.identifiers import check_session_id, new_session_id
from chimera.sessions.creation import create_session
from chimera.sessions.eventlog.locks import living_owner
from chimera.sessions.eventlog.log import EventLog, Fsync
from chimera.sessions.lineage import fork_point_of, link_blobs, point_at
from chimera.sessions.proposals import propose_switch
from chimera.sessions.recorder import LogRecorder
from chimera.sessions.session import Session
from chimera.sessions.storage.base import SessionStorage
from chimera.sessions.tree import SessionTree
from chimera.sessions.turn import close_open_turn

__all__ = ["EventSourcedSession"]


class EventSourcedSession(Session):
    """A journalled conversation.

    Args:
        log_dir: the event-log root, or the session's own folder in it; a leading ``~`` is expanded. By default the
            root under ``CHIMERA_HOME``.
        session_id: by default a new one.
        storage: where a copy goes at the end of each turn; None: nowhere.
        auto_compact, compaction, tree: as :class:`Session` has them.
        fsync: as :class:`EventLog` has it.
    """

    journalled = True

    def __init__(
        self,
        agent: Any,
        log_dir: str | Path | None = None,
        session_id: str | None = None,
        *,
        storage: SessionStorage | None = None,
        auto_compact: bool = True,
        compaction: CompactionStrategy | None = None,
        tree: SessionTree | None = None,
        fsync: Fsync = "event",
    ) -> None:
        chosen = new_session_id("mink") if session_id is None else check_session_id(session_id)
        self.log = EventLog(folder_of(log_dir, chosen), fsync=fsync)
        self._fsync: Fsync = fsync
        point = fork_point_of(self.log.directory)
        super().__init__(
            agent,
            storage,
            chosen,
            auto_compact=auto_compact,
            compaction=compaction,
            tree=tree,
            recorder=LogRecorder(self.log),
            parent_id=point.session_id if point is not None else None,
        )

    @property
    def folder(self) -> str:
        return self.log.directory

    @classmethod
    def resume(  # type: ignore[override]  # the documents give it the log's place first
        cls,
        log_dir: str | Path | None,
        session_id: str,
        agent: Any = None,
        *,
        storage: SessionStorage | None = None,
        auto_compact: bool = True,
        compaction: CompactionStrategy | None = None,
        tree: SessionTree | None = None,
        fsync: Fsync = "event",
    ) -> Self:
        """The session as its log tells; a turn that its program did not end is closed as interrupted.

        Raises:
            SessionNotFound: there is no such folder.
            LogGapError: events are missing; nothing has changed.
        """
        folder = folder_of(log_dir, check_session_id(session_id))
        if not os.path.isdir(folder):
            raise SessionNotFound(f"session not found: {session_id}; there is no folder {folder}")
        session = cls(
            agent,
            folder,
            session_id,
            storage=storage,
            auto_compact=auto_compact,
            compaction=compaction,
            tree=tree,
            fsync=fsync,
        )
        close_open_turn(session._history)
        return session

    @classmethod
    def resume_from(
        cls, log_dir: str | Path | None, session_id: str, agent: Any = None, *, up_to_index: int, fsync: Fsync = "event"
    ) -> Self:
        """The session as it was after the event with this index (0-based); what came later stays, on its branch.

        Raises:
            InvalidParams: there is no such event. SessionNotFound, LogGapError.
        """
        session = cls.resume(log_dir, session_id, agent, fsync=fsync)
        if not 0 <= up_to_index <= session.log.last_index:
            raise InvalidParams(
                f"the log has no event with index {up_to_index}; it holds 0 to {session.log.last_index}"
            )
        event = session.log.get_by_index(up_to_index)
        session._history.record(propose_switch(session._history.tree, event.id))
        return session

    def fork(self, name: str | None = None) -> EventSourcedSession:
        """A journalled child that goes on from here, on a branch ``name``; it refers to this log and copies nothing.

        Raises:
            InvalidParams: the session has no events yet.
        """
        path = self._history.tree.path()
        if not path:
            raise InvalidParams("the session has no events yet; there is nothing to go on from")
        root = os.path.dirname(self.log.directory)
        child = EventSourcedSession(
            self.agent,
            root,
            self._make_child(root, path),
            storage=self.storage,
            auto_compact=self._auto_compact,
            compaction=self._compaction,
            fsync=self._fsync,
        )
        self._note_child(child)
        if name is not None:
            child.branch(name)
        return child

    def _make_child(self, root: str, path: list[Event]) -> str:
        """The id of the new session; a daemon that owns the root makes it, for the root is its own."""
        owner = living_owner(root)
        if owner is not None:
            with Client(socket_path=owner.socket, start=False) as client:
                return str(client.call("sessions.fork", session_id=self.session_id, at=path[-1].id)["session_id"])
        child_id = new_session_id(origin_of(self.session_id) or "mink")
        create_session(
            root,
            child_id,
            flavour=origin_of(self.session_id) or "mink",
            prompt="",
            title=None,
            model=self.state.model,
            cwd="",
            layout="jsonl",
            tags=[],
            parent=point_at(self.log.directory, path[-1]),
            fill=lambda beside: link_blobs(self.log.directory, path, beside),
        )
        return child_id


def folder_of(log_dir: str | Path | None, session_id: str) -> str:
    """The session's folder, however ``log_dir`` names it."""
    if log_dir is None:
        return paths.session_folder(paths.eventlog_root(paths.home()), session_id)
    given = os.path.abspath(os.path.expanduser(os.fspath(log_dir)))
    return given if os.path.basename(given) == session_id else paths.session_folder(given, session_id)

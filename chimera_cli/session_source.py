"""Where the session commands get their data: from the daemon, or from the files where no daemon can be had."""

from __future__ import annotations

from chimera import paths
from chimera.client.blocking import Client
from chimera.errors import DaemonUnreachable
from chimera_cli.output import note

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

__all__ = ["SessionSource"]

PAGE = 1000


class SessionSource:
    """Lists sessions and reads one, in the shapes of the JSON-RPC contract whoever answers.

    A daemon is started where none answers. Where that fails the files are read instead, and a line on standard
    error says so.

    Attributes:
        root: the event log that is read.
    """

    def __init__(self, home: str | None, socket_path: str | None) -> None:
        self.root = paths.eventlog_root(paths.home(home))
        client = Client(socket_path, home)
        self._client: Client | None = client
        try:
            self.root = paths.eventlog_root(client.connect()["home"])
        except DaemonUnreachable as error:
            self._client = None
            note(f"note: {error.message}; reading the files in {self.root}")

    def records(
        self, *, flavour: str | None, since: str | None, model: str | None, success: bool | None, limit: int
    ) -> list[dict[str, Any]]:
        """Records, newest first; ``limit`` 0: all."""
        if self._client is None:
            return self._list_files(flavour, since, model, success, limit)
        given = {"flavour": flavour, "since": since, "model": model, "success": success}
        params = {name: value for name, value in given.items() if value is not None}
        found: list[dict[str, Any]] = []
        while True:
            page = self._client.call("sessions.list", limit=limit - len(found) if limit else 0, **params)
            found += page["sessions"]
            if page["next_cursor"] is None or (limit and len(found) >= limit):
                return found
            params["cursor"] = page["next_cursor"]

    def detail(self, session_id: str) -> dict[str, Any]:
        """``session_id``, ``path`` and ``summary`` of one session."""
        if self._client is None:
            from chimera.sessions.eventlog.cross_cli import get_session

            detail = get_session(session_id, eventlog_root=self.root)
            return {**detail.to_dict(), "events": detail.events}
        found: dict[str, Any] = self._client.call("sessions.get", session_id=session_id)
        return found

    def events(self, detail: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """The session's events in order, page by page."""
        if self._client is None:
            yield from detail["events"]
            return
        next_seq = 1
        while next_seq is not None:
            page = self._client.call("sessions.read", session_id=detail["session_id"], from_seq=next_seq, limit=PAGE)
            yield from page["events"]
            next_seq = page["next_seq"]

    def _list_files(
        self, flavour: str | None, since: str | None, model: str | None, success: bool | None, limit: int
    ) -> list[dict[str, Any]]:
        from chimera.sessions.eventlog.cross_cli import iter_sessions

        found = iter_sessions(
            flavour=flavour,
            eventlog_root=self.root,
            since=since,
            model=model,
            success=success,
            limit=limit,
            report=lambda problem: note(f"warning: {problem.session_id}: {problem.detail}"),
        )
        return [record.to_dict() for record in found]

"""Calls that tests of the store make again and again, over a plain connection."""

from __future__ import annotations

import json
import select
from pathlib import Path
from typing import Any

from tests.support.daemon import Connection, RpcError
from tests.support.logs import shape_c

LAYOUTS = {"jsonl": "mink", "ids": "otter", "typed": "stoat"}
"""A flavour that writes in each."""


def event(content: object = "hello", event_type: str = "user_message", **more: Any) -> dict[str, Any]:
    return {"type": event_type, "metadata": {"content": content}, **more}


def create(connection: Connection, flavour: str = "mink", **params: Any) -> str:
    return str(connection.call("sessions.create", flavour=flavour, **params)["session_id"])


def append(connection: Connection, session_id: str, *events: dict[str, Any], **params: Any) -> dict[str, Any]:
    """Append these events, or one that says hello."""
    return dict(connection.call("sessions.append", session_id=session_id, events=events or [event()], **params))


def append_raw(connection: Connection, session_id: str, metadata: bytes, **members: Any) -> dict[str, Any]:
    """Append one event whose metadata travel as these very bytes; the whole reply."""
    head = json.dumps({"type": "user_message", **members})[:-1].encode()
    line = (
        b'{"jsonrpc":"2.0","id":1,"method":"sessions.append","params":{"session_id":"%b","events":[%b,"metadata":%b}]}}'
    )
    connection.send_line(line % (session_id.encode(), head, metadata))
    return dict(connection.read_message())


def refusal(connection: Connection, method: str, **params: Any) -> RpcError:
    """The error that this call must be answered with."""
    try:
        result = connection.call(method, **params)
    except RpcError as error:
        return error
    raise AssertionError(f"{method} was not refused: {result}")


def replies_of(connection: Connection, requests: list[int]) -> list[dict[str, Any]]:
    """The whole replies to these requests in their order, in whatever order they come."""
    found: dict[int, dict[str, Any]] = {}
    while len(found) < len(requests):
        message = connection.read_message()
        if "method" in message:
            connection.notifications.append(message)
        else:
            found[message["id"]] = message
    return [found[request] for request in requests]


def events_of(connection: Connection, session_id: str) -> list[dict[str, Any]]:
    """Every event that is shown, over as many pages as it takes."""
    found: list[dict[str, Any]] = []
    next_seq: int | None = 1
    while next_seq is not None:
        page = connection.call("sessions.read", session_id=session_id, from_seq=next_seq)
        found += page["events"]
        next_seq = page["next_seq"]
    return found


def contents_of(connection: Connection, session_id: str) -> list[Any]:
    return [one["metadata"].get("content") for one in events_of(connection, session_id)]


def generation_of(connection: Connection, session_id: str) -> str:
    return str(connection.call("sessions.read", session_id=session_id, limit=1)["generation"])


def problems_of(connection: Connection, session_id: str) -> list[dict[str, Any]]:
    return list(connection.call("sessions.verify", session_id=session_id)["problems"])


def until_flushed(connection: Connection) -> None:
    """Return when everything that is shown is in the session files for good."""
    while connection.call("daemon.status")["journal"]["unflushed_events"]:
        select.select([], [], [], 0.01)


def until_closed(connection: Connection) -> None:
    """Return when the daemon has let go of every session."""
    while connection.call("daemon.status")["open_sessions"]:
        select.select([], [], [], 0.01)


def configure(home: Path, **store: Any) -> None:
    """Write ``config.toml`` with these settings of the store."""
    home.mkdir(parents=True, exist_ok=True)
    lines = ["[store]", *(f"{name} = {json.dumps(value)}" for name, value in store.items())]
    (home / "config.toml").write_text("\n".join(lines) + "\n")


def lost_events(root: Path, session_id: str) -> list[dict[str, Any]]:
    """What ``.lost`` keeps of a session."""
    path = root / ".lost" / f"{session_id}.jsonl"
    return [json.loads(line) for line in path.read_bytes().split(b"\n")[:-1]] if path.exists() else []


def summary_of(root: Path, session_id: str) -> dict[str, Any]:
    """The summary as it lies."""
    return dict(json.loads((root / session_id / "summary.json").read_bytes()))


def foreign_session(root: Path, name: str, summary: str | None) -> Path:
    """A folder with one event that somebody else made."""
    folder = root / name
    folder.mkdir()
    (folder / "events.jsonl").write_bytes(shape_c(content="theirs") + b"\n")
    if summary is not None:
        (folder / "summary.json").write_text(summary)
    return folder

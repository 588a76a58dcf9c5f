"""What clients asked, were answered and were shown, and what an event log must therefore hold after any crash.

A ledger is filled line by line, in order; `complaints` compares it with what was found on the disk. Every event that a
client of these tests appends has metadata of its own, so that an event without a given id is known again.
"""

from __future__ import annotations

import os
from bisect import bisect_left
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from chimera import paths
from chimera.errors import ChimeraError
from chimera.sessions.eventlog.reader import read_log
from chimera.sessions.eventlog.verify import verify_session
from chimera.sessions.summary import read_summary

LIFECYCLE = frozenset(
    {"create", "finish", "rename", "tag", "pin", "delete", "restore", "trash.purge"},
)
"""Calls after which another state may be demanded, not only more of it."""


class _Message(msgspec.Struct):
    id: Any = None
    method: str | None = None
    params: msgspec.Raw = msgspec.Raw(b"{}")
    result: msgspec.Raw = msgspec.Raw(b"")
    error: dict[str, Any] | None = None


class _GivenEvent(msgspec.Struct):
    type: str
    metadata: msgspec.Raw = msgspec.Raw(b"{}")
    id: str | None = None


class _AppendParams(msgspec.Struct):
    session_id: str
    events: list[_GivenEvent]
    durability: str = "durable"


class _AppendResult(msgspec.Struct):
    first_seq: int
    last_seq: int
    ids: list[str]
    chain: str


class _ShownEvents(msgspec.Struct):
    events: list[msgspec.Raw] | None = None
    generation: str | None = None


class _Notified(msgspec.Struct):
    session_id: str
    generation: str
    event: msgspec.Raw


class _Seq(msgspec.Struct):
    seq: int


class Stored(msgspec.Struct):
    """One of our records as it lies."""

    seq: int
    id: str
    type: str
    metadata: msgspec.Raw
    chain: str


@dataclass
class Append:
    """One call and its answer; ``kind`` names the error that it got."""

    session_id: str
    events: list[_GivenEvent]
    durability: str
    answer: _AppendResult | None = None
    kind: str | None = None
    outcome_known: bool = False
    """Whether the answer says that nothing was written."""


@dataclass
class Session:
    """``stands`` is what is known of its folder: True, False, or None while a call that changes it is under way."""

    stands: bool | None = None
    allowed: dict[str, list[Any]] = field(default_factory=dict)
    """Member of summary.json to the values it may have."""
    shown: dict[int, bytes] = field(default_factory=dict)
    appends: list[Append] = field(default_factory=list)
    trash_id: str | None = None


@dataclass
class FoundSession:
    records: list[bytes]
    problems: list[str]
    summary: dict[str, Any]


@dataclass
class Found:
    """What stands on the disk; ``trash`` by trash id."""

    sessions: dict[str, FoundSession] = field(default_factory=dict)
    trash: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)


class Ledger:
    """The whole truth as clients know it. ``power_cut``: buffered answers need not survive (until they were shown)."""

    def __init__(self, *, power_cut: bool = True) -> None:
        self.power_cut = power_cut
        self.sessions: dict[str, Session] = {}
        self._waiting: dict[tuple[Any, Any], tuple[str, Any]] = {}

    def session(self, session_id: str) -> Session:
        return self.sessions.setdefault(session_id, Session())

    def heard(self, connection: Any, line: bytes) -> str:
        """A request line that the daemon received (or a client sent); answers its method."""
        message = msgspec.json.decode(line, type=_Message)
        method = (message.method or "").removeprefix("sessions.")
        if method == "append":
            params = msgspec.json.decode(message.params, type=_AppendParams)
            call = Append(params.session_id, params.events, params.durability)
            self.session(params.session_id).appends.append(call)
            self._waiting[connection, message.id] = (method, call)
        else:
            params = msgspec.json.decode(message.params)
            self._waiting[connection, message.id] = (method, params)
            self._asked(method, params)
        return method

    def said(self, connection: Any, line: bytes) -> str:
        """A reply or notification line that a client may have seen; answers the method it belongs to."""
        message = msgspec.json.decode(line, type=_Message)
        if message.method is not None:
            if message.method == "session.event":
                notified = msgspec.json.decode(message.params, type=_Notified)
                self._show(notified.session_id, notified.event)
            return message.method
        method, asked = self._waiting.pop((connection, message.id))
        if method == "append":
            self._append_answered(asked, message)
        elif bytes(message.result):
            self._answered(method, asked, message.result)
        elif message.error and not _outcome_unknown(message.error):
            self._refused(method, asked)
        return method

    def lost_connection(self, connection: Any) -> None:
        """No answer will come: what was asked has happened or not."""
        for key in [key for key in self._waiting if key[0] == connection]:
            del self._waiting[key]

    def _append_answered(self, call: Append, message: _Message) -> None:
        if bytes(message.result):
            call.answer = msgspec.json.decode(message.result, type=_AppendResult)
        elif message.error:
            call.kind = message.error["data"]["kind"]
            call.outcome_known = not _outcome_unknown(message.error)

    def _asked(self, method: str, params: dict[str, Any]) -> None:
        if method == "create" and params.get("session_id"):
            session = self.session(params["session_id"])
            session.stands = True if session.stands else None
        elif method in ("delete",):
            self.session(params["session_id"]).stands = None
        elif method == "restore":
            for session in self.sessions.values():
                if session.trash_id == params["trash_id"]:
                    session.stands = None
        elif method in ("rename", "pin", "tag", "finish"):
            session = self.session(params["session_id"])
            for name, value in _values(method, params, session).items():
                session.allowed.setdefault(name, [_UNSET]).append(value)

    def _answered(self, method: str, params: dict[str, Any], result: msgspec.Raw) -> None:
        if method in ("read", "get"):
            shown = msgspec.json.decode(result, type=_ShownEvents)
            for event in shown.events or []:
                self._show(params["session_id"], event)
        elif method == "create":
            answer = msgspec.json.decode(result)
            session = self.session(answer["session_id"])
            session.stands = True
            session.allowed.setdefault("generation", [answer["generation"]])
        elif method == "delete":
            session = self.session(params["session_id"])
            session.stands, session.trash_id = False, msgspec.json.decode(result)["trash_id"]
        elif method == "restore":
            session = self.session(msgspec.json.decode(result)["session_id"])
            session.stands, session.trash_id = True, None
        elif method in ("rename", "pin", "tag", "finish"):
            session = self.session(params["session_id"])
            for name, value in _values(method, params, session).items():
                session.allowed[name] = [value]

    def _refused(self, method: str, params: dict[str, Any]) -> None:
        """An error that says nothing was done: what was allowed before is what is demanded."""
        if method in ("rename", "pin", "tag", "finish"):
            session = self.session(params["session_id"])
            for name, value in _values(method, params, session).items():
                if value in session.allowed.get(name, []):
                    session.allowed[name].remove(value)

    def _show(self, session_id: str, event: msgspec.Raw) -> None:
        self.session(session_id).shown[msgspec.json.decode(event, type=_Seq).seq] = bytes(event)

    def complaints(self, found: Found) -> list[str]:
        wrong = list(found.complaints)
        for session_id in self.sessions:
            wrong.extend(self.complaints_of(session_id, found))
        return wrong

    def complaints_of(self, session_id: str, found: Found) -> list[str]:
        """What is wrong with one session."""
        session, there = self.sessions[session_id], found.sessions.get(session_id)
        if there is None:
            if session.stands is False and session.trash_id not in found.trash:
                return [f"{session_id}: deleted, and {session.trash_id} is not in the trash"]
            return [f"{session_id}: answered and not there"] if session.stands else []
        wrong = [f"{session_id}: deleted and still there"] if session.stands is False else []
        return wrong + [f"{session_id}: {complaint}" for complaint in self._complaints_of(session, there)]

    def _complaints_of(self, session: Session, there: FoundSession) -> list[str]:
        wrong = list(there.problems)
        stored = {seq: msgspec.json.decode(raw, type=Stored) for seq, raw in enumerate(there.records, 1)}
        for seq, raw in session.shown.items():
            if seq > len(there.records):
                wrong.append(f"event {seq} was shown and is lost")
            elif there.records[seq - 1] != raw:
                wrong.append(f"event {seq} was shown as {raw!r:.200} and is now {there.records[seq - 1]!r:.200}")
        for seq, record in stored.items():
            if record.seq != seq:
                wrong.append(f"the {seq}th event says it is {record.seq}")
        for event_id, count in Counter(record.id for record in stored.values()).items():
            if count > 1:
                wrong.append(f"the id {event_id} stands there {count} times")
        wrong.extend(self._unknown_events(session, stored))
        places = {(record.type, bytes(record.metadata)): seq for seq, record in stored.items()}
        for call in session.appends:
            wrong.extend(self._complaints_of_call(session, call, stored, places))
        for name, values in session.allowed.items():
            if there.summary.get(name, _UNSET) not in values and _UNSET not in values:
                wrong.append(f"summary {name} is {there.summary.get(name)!r}, not one of {values!r}")
        return wrong

    def _unknown_events(self, session: Session, stored: dict[int, Stored]) -> list[str]:
        """Nothing that nobody appended, and nothing twice."""
        given = {(event.type, bytes(event.metadata)) for call in session.appends for event in call.events}
        seen = Counter((record.type, bytes(record.metadata)) for record in stored.values())
        return [f"nobody appended {what}" for what in seen if what not in given] + [
            f"{what} stands there {count} times" for what, count in seen.items() if count > 1
        ]

    def _complaints_of_call(
        self, session: Session, call: Append, stored: dict[int, Stored], places: dict[tuple[str, bytes], int]
    ) -> list[str]:
        seqs = [places.get((event.type, bytes(event.metadata))) for event in call.events]
        present = [seq for seq in seqs if seq is not None]
        if call.answer is None:
            if call.outcome_known and present and not _asked_again(session, call):
                return [f"events {present} were refused with {call.kind} and are there"]
            if present and (len(present) != len(seqs) or present != list(range(present[0], present[0] + len(seqs)))):
                return [f"a call without an answer is there by half: {seqs}"]
            return []
        if not present and call.durability == "buffered" and self.power_cut:
            return []
        wanted = list(range(call.answer.first_seq, call.answer.last_seq + 1))
        if seqs != wanted:
            return [f"a call answered with {wanted[0]}..{wanted[-1]} is at {seqs}"]
        wrong = [
            f"event {seq} was answered as {event_id} and is {stored[seq].id}"
            for seq, event_id in zip(wanted, call.answer.ids, strict=True)
            if stored[seq].id != event_id
        ]
        if stored[wanted[-1]].chain != call.answer.chain:
            wrong.append(f"the chain at {wanted[-1]} was answered as {call.answer.chain}")
        return wrong


_UNSET = "(not known)"


def _asked_again(session: Session, call: Append) -> bool:
    """Whether another call with an event of this one may have succeeded."""
    given = {bytes(event.metadata) for event in call.events}
    others = (other for other in session.appends if other is not call and not other.outcome_known)
    return any(bytes(event.metadata) in given for other in others for event in other.events)


def _values(method: str, params: dict[str, Any], session: Session) -> dict[str, Any]:
    """The members of summary.json that a call sets, and to what."""
    if method == "rename":
        return {"title": params["title"]} if params["title"] else {"title": _UNSET}
    if method == "pin":
        return {"pinned": params.get("pinned", True)}
    if method == "finish":
        return {"success": params["summary"]["success"], "state": "finished"}
    return {}


def _outcome_unknown(error: dict[str, Any]) -> bool:
    return bool((error.get("data") or {}).get("outcome") == "unknown")


def find(root: str, only: Collection[str] | None = None) -> Found:
    """What a root holds, read with the library's own reader; of the sessions all, or those named."""
    found = Found()
    if not os.path.isdir(root):
        return found
    for name in sorted(os.listdir(root)):
        folder = os.path.join(root, name)
        if name.startswith(".") or not os.path.isdir(folder) or (only is not None and name not in only):
            continue
        found.sessions[name] = find_session(folder)
    trash, lost = paths.trash_folder(root), paths.lost_folder(root)
    found.trash = sorted(os.listdir(trash)) if os.path.isdir(trash) else []
    found.lost = sorted(os.listdir(lost)) if os.path.isdir(lost) else []
    found.complaints += [f".lost holds {name}" for name in found.lost]
    return found


def find_session(folder: str) -> FoundSession:
    reading = read_log(folder)
    _, problems = verify_session(folder)
    wrong = [f"verify: {problem.kind}: {problem.detail}" for problem in problems]
    try:
        summary, _ = read_summary(folder)
    except ChimeraError as error:
        summary = {}
        wrong.append(f"summary: {error}")
    return FoundSession([bytes(record.raw) for record in reading.records], wrong, summary)


class Conversation:
    """The lines in what a recording says was sent and received, each with the operation that completed it."""

    def __init__(self, operations: list[tuple[Any, ...]]) -> None:
        self.lines: list[tuple[int, bool, int, bytes]] = []
        """Operation, whether it was said by the daemon, connection, line."""
        rests: dict[tuple[bool, int], bytes] = {}
        for number, operation in enumerate(operations):
            if operation[0] in ("received", "sent"):
                said = operation[0] == "sent"
                _, connection, body = operation
                *lines, rest = (rests.get((said, connection), b"") + body).split(b"\n")
                rests[said, connection] = rest
                self.lines.extend((number, said, connection, line) for line in lines if line.strip())
        self._lifecycle: list[int] = []
        ledger = Ledger()
        for number, said, connection, line in self.lines:
            method = ledger.said(connection, line) if said else ledger.heard(connection, line)
            if method in LIFECYCLE:
                self._lifecycle.append(number)

    def ledger(self, before: int, *, power_cut: bool = True) -> Ledger:
        """What was known before an operation."""
        ledger = Ledger(power_cut=power_cut)
        for number, said, connection, line in self.lines:
            if number >= before:
                break
            (ledger.said if said else ledger.heard)(connection, line)
        return ledger

    def moments(self, spans: Sequence[tuple[int, int]]) -> list[int]:
        """Of moments between the same calls that change more than add, the last: it demands the most."""
        last: dict[int, int] = {}
        for start, end in spans:
            low, high = bisect_left(self._lifecycle, start), bisect_left(self._lifecycle, end)
            for number in range(low, high):  # before each such call, and at the end
                last[number] = max(last.get(number, 0), self._lifecycle[number])
            last[high] = max(last.get(high, 0), end)
        return list(last.values())

"""A batch: the calls that are numbered together, journalled in one frame and shown together (store rules 1 and 2).

Numbers calls by the sessions' writers and says what the frame holds. Knows no disk, no queue and no loop.
"""

from __future__ import annotations

import asyncio
from typing import Any, Protocol

import msgspec

from chimera.errors import ChimeraError
from chimera.sessions.eventlog.journal import Entry
from chimera.sessions.eventlog.journal import barrier as barrier_entry
from chimera.sessions.eventlog.layouts import LINES_FILE
from chimera.sessions.eventlog.writer import AppendOutcome, NewEvent, Run
from chimerad.store.open_sessions import OpenSession, session_not_found

__all__ = ["Answer", "AppendCall", "AppendOutcome", "Appender", "Barrier", "Batch", "OneAnswer", "Share"]

BARRIER_BYTES = 1024
"""More than the entry of a barrier takes in a frame."""


class Appender(Protocol):
    """Who appends. Each call is answered exactly once; what a batch answers comes together, in order of arrival."""

    def answered(self, answers: list[Answer]) -> None: ...


class AppendCall(msgspec.Struct, eq=False, gc=False):
    """One ``sessions.append``: its events, its conditions, and who waits for the answer.

    Attributes:
        reference: the appender's own, by which it knows the call again.
        size: an upper bound of the bytes it takes in a frame; the store's.
    """

    session_id: str
    events: list[NewEvent]
    expect_seq: int | None
    durable: bool
    appender: Appender
    reference: Any = None
    size: int = 0

    def refuse(self, refusal: ChimeraError) -> None:
        self.appender.answered([(self, refusal)])


Answer = tuple[AppendCall, AppendOutcome | ChimeraError]


class OneAnswer:
    """An appender of one call; whoever waits for it awaits ``future``."""

    def __init__(self) -> None:
        self.future: asyncio.Future[AppendOutcome] = asyncio.get_running_loop().create_future()

    def answered(self, answers: list[Answer]) -> None:
        for _, outcome in answers:
            if isinstance(outcome, ChimeraError):
                self.future.set_exception(outcome)
            else:
                self.future.set_result(outcome)


class Barrier(msgspec.Struct, frozen=True, eq=False):
    """A place in the queue: resolved when everything before it is durable and shown.

    With a ``session_id`` a frame says that this session is about to be changed other than by appending; with
    ``frame`` one is written in any case.
    """

    reached: asyncio.Future[None]
    session_id: str | None = None
    frame: bool = False

    @property
    def needs_frame(self) -> bool:
        return self.frame or self.session_id is not None


class Share(msgspec.Struct, eq=False, gc=False):
    """What one batch adds to one session; ``bodies`` are its bytes for each file, once it is sealed."""

    session: OpenSession
    run: Run
    bodies: list[tuple[str, bytes]] = []

    def seal(self) -> list[Entry]:
        """Nothing is added to it any more: an entry of the frame for each file."""
        session_id, run = self.session.session_id, self.run
        self.session.writer.end_run()
        self.bodies = run.bodies()
        if not run.files:
            return [Entry(session_id, LINES_FILE, run.offset, run.first_seq, run.previous, self.bodies[0][1])]
        entries = []
        previous = run.previous
        for seq, (file, body) in enumerate(self.bodies, run.first_seq):
            entries.append(Entry(session_id, file, 0, seq, previous, body))
            previous = body[-19:-3]
        return entries


class Batch(msgspec.Struct, eq=False):
    """Calls that are numbered together: in one frame, shown together.

    Attributes:
        answers: the calls with what became of them, by appender; whoever was answered is no longer here.
        buffered: the same for calls that do not wait for the disk.
        barriers: who waits for the end of this batch.
        marks: the sessions that a barrier in this frame is for.
        wants_sync: somebody waits for the disk.
        needs_frame: a frame is written even without entries.
    """

    shares: list[Share] = []
    answers: dict[Appender, list[Answer]] = {}
    buffered: dict[Appender, list[Answer]] = {}
    barriers: list[asyncio.Future[None]] = []
    marks: list[str] = []
    wants_sync: bool = False
    needs_frame: bool = False

    def add(self, session: OpenSession, call: AppendCall, now: str) -> None:
        """Number one call, or note why it is refused. ``now``: the time of events that have none."""
        by_appender = self.answers if call.durable else self.buffered
        answers = by_appender.get(call.appender)
        if answers is None:
            answers = by_appender[call.appender] = []
        if session.closed:  # it was removed while the call waited
            answers.append((call, session_not_found(session.session_id)))
            return
        writer = session.writer
        known = writer.run
        try:
            answers.append((call, writer.number(call.events, call.expect_seq, now)))
        except ChimeraError as refusal:
            answers.append((call, refusal))
            return
        if call.durable:
            self.wants_sync = True
        if writer.run is not known and writer.run is not None:
            self.shares.append(Share(session, writer.run))

    def add_barrier(self, barrier: Barrier) -> None:
        """End the batch with a barrier: what comes behind it belongs to a later one."""
        self.barriers.append(barrier.reached)
        self.wants_sync = True
        self.needs_frame = barrier.needs_frame
        if barrier.session_id is not None:
            self.marks.append(barrier.session_id)

    def seal(self) -> list[Entry]:
        """Nothing is added any more: what the frame holds."""
        found = [barrier_entry(session_id) for session_id in self.marks]
        for share in self.shares:
            found += share.seal()
        return found

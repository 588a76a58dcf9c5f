"""``Session``: a conversation of an agent, turn by turn, that can be steered, forked, undone and resumed.

The same class serves an embedder, the REPL and a worker of the daemon; where its events go is the recorder's business.
Knows no socket, no provider and no terminal.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing, contextmanager, suppress
from typing import Any

from chimera import paths
from chimera.agent.loop_events import LoopEvent, StepEnded, StepStarted, TurnEnded, TurnStarted
from chimera.blobs import BlobStore
from chimera.compaction import (
    HARD,
    CompactionPlan,
    CompactionStrategy,
    FileAwareCompaction,
    ThresholdCompaction,
    Usage,
    count_tokens,
)
from chimera.core.file_tracker import FileTracker
from chimera.core.todos import TodoTool
from chimera.durable import make_folder
from chimera.errors import CompactionFailed, InvalidParams, NotPermitted, SessionNotFound, TurnRunning
from chimera.identifiers import check_session_id, new_session_id
from chimera.sessions import past
from chimera.sessions.blocking import run_blocking
from chimera.sessions.history import History
from chimera.sessions.messages import Message
from chimera.sessions.proposals import Proposal, propose_branch, propose_switch
from chimera.sessions.recorder import MemoryRecorder, Recorder
from chimera.sessions.state import PendingMessage, SessionState, Todo
from chimera.sessions.storage.base import SessionStorage, StoredSession
from chimera.sessions.stored import proposals_of, stored_of
from chimera.sessions.tree import SessionTree
from chimera.sessions.turn import TurnJournal, close_open_turn

__all__ = ["Session"]


STATE_KINDS = ("system_prompt", "model", "permission_mode")


class Session:
    """One conversation.

    Args:
        agent: duck-typed; its ``prompt`` and ``tools`` seed the context, its ``run`` carries out turns
            (chimera.agent.loop_events.AgentLoop).
        storage: where :meth:`save` goes, and every turn's end; None: nowhere.
        session_id: by default a new one.
        auto_compact: shorten the context by itself when the model's window fills up.
        compaction: how; by default an extract that keeps the lists of files. The agent's ``window`` (tokens) says when.
        tree: the graph of related sessions that this one, and every fork of it, is noted in.
        recorder: where its events go; by default into memory alone.
        parent_id: the session it was forked from.
    """

    journalled = False
    """Whether its event log is the truth, and what a storage has of it a copy."""

    def __init__(
        self,
        agent: Any,
        storage: SessionStorage | None = None,
        session_id: str | None = None,
        *,
        auto_compact: bool = True,
        compaction: CompactionStrategy | None = None,
        tree: SessionTree | None = None,
        recorder: Recorder | None = None,
        parent_id: str | None = None,
    ) -> None:
        self.agent = agent
        self.storage = storage
        self.tree = tree
        self.parent_id = parent_id
        self.created_at = time.time()
        self._session_id = new_session_id("mink") if session_id is None else check_session_id(session_id)
        self._history = History(recorder or MemoryRecorder())
        self._auto_compact = auto_compact
        self._compaction = compaction or FileAwareCompaction()
        self._usage: Usage | None = None
        self._running: TurnJournal | None = None
        self._cancelled = False
        self._lock = threading.RLock()  # steer, queue and cancel come from other threads than the turn's
        self._seed()
        self._attach_todos()
        if tree is not None and not tree.knows(self._session_id):
            tree.add(self._session_id)

    @classmethod
    def resume(
        cls, session_id: str, agent: Any = None, storage: SessionStorage | None = None, *, use_copy: bool = False
    ) -> Session:
        """The session as it was: from its event log, else from ``storage``, else from the configured file storage.

        What a storage has of a journalled session is a copy of its end; with ``use_copy`` it is taken for the session
        where the log is gone.

        Raises:
            SessionNotFound: neither knows it, or only a copy of it is left.
            LogGapError: its log lacks events.
        """
        folder = paths.session_folder(paths.eventlog_root(paths.home()), check_session_id(session_id))
        if os.path.isdir(folder):
            from chimera.sessions.eventlog.session import EventSourcedSession

            return EventSourcedSession.resume(folder, session_id, agent, storage=storage)
        stored = (storage or _configured_storage()).load(session_id)
        if stored is None:
            raise SessionNotFound(
                f"session not found: {session_id}; neither the event log nor the session storage has it"
            )
        if stored.metadata.get("journalled") and not use_copy:
            raise SessionNotFound(
                f"the event log of {session_id} is gone ({folder}); the storage has a copy of its last messages: "
                "resume with use_copy=True to go on from that"
            )
        return cls.of_stored(stored, agent, storage)

    @classmethod
    def of_stored(cls, stored: StoredSession, agent: Any = None, storage: SessionStorage | None = None) -> Session:
        """A session in memory with the messages that a storage gave."""
        recorder = MemoryRecorder()
        recorder.record(proposals_of(stored))
        session = cls(agent, storage, stored.session_id, recorder=recorder, parent_id=stored.parent_id)
        session.created_at = stored.created_at
        return session

    # -- what it is

    @property
    def session_id(self) -> str:
        return self._session_id

    @property
    def state(self) -> SessionState:
        """Everything at the leaf: messages, todos, files, what waits."""
        return self._history.state

    @property
    def messages(self) -> list[Message]:
        """The conversation as the model sees it, without the system prompt."""
        return list(self._history.state.messages)

    @property
    def context(self) -> list[Message]:
        """What goes to the model: the system prompt, where there is one, and the messages."""
        prompt = self._history.state.system_prompt
        return [*([Message("system", prompt)] if prompt else []), *self._history.state.messages]

    @property
    def cancelled(self) -> bool:
        """Whether the running turn was asked to stop."""
        return self._cancelled

    # -- turns

    def chat(self, message: str) -> str:
        """Carry out a turn, and those that are queued behind it; the reply to this message.

        Raises:
            TurnRunning: a turn runs already.
            NotPermitted: the agent cannot run turns.
            Exception: whatever the agent's loop raised, after the turn was closed as failed.
        """
        return run_blocking(self._chat(message))

    async def iter_chat(self, message: str) -> AsyncGenerator[LoopEvent, None]:
        """As :meth:`chat`, event by event; each is in the log before it is given, but for streamed text, which is kept
        with what comes after it.

        Closing the generator interrupts the turn.
        """
        async for event in self._turn(message, None):
            yield event
        while self.state.queue:
            waiting = self.state.queue[0]
            async for event in self._turn(waiting.content, waiting):
                yield event

    def steer(self, message: str) -> int:
        """Say something to the running turn, taken at its next step; returns the ``seq`` that keeps it."""
        return self._say("steering", message)

    def queue(self, message: str) -> int:
        """A message for a turn of its own, after the running one; returns the ``seq`` that keeps it."""
        return self._say("queued", message)

    def cancel(self, reason: str = "cancelled by the user") -> None:
        """Ask the running turn to stop at its next step or tool; nothing happens when none runs."""
        with self._lock:
            if self._running is None or self._cancelled:
                return
            self._history.record(Proposal("cancelled", {"reason": reason, "turn_id": self._running.turn_id}))
            self._cancelled = True

    # -- keeping

    def save(self, path: str | None = None) -> None:
        """Keep the session in its storage, or as one JSON file at ``path``.

        Raises:
            InvalidParams: there is neither a storage nor a path.
            StorageError, NoSpace, OSError: it could not be written; what was there before is still there.
        """
        if path is not None:
            from chimera.sessions.storage.file import write_session_file

            write_session_file(os.path.abspath(os.path.expanduser(path)), self)
        elif self.storage is not None:
            self.storage.save(self)
        else:
            raise InvalidParams("the session has no storage; give Session(storage=...) or save(path)")

    def stored(self) -> StoredSession:
        """What a storage keeps of it."""
        return stored_of(self._session_id, self.state, self.parent_id, self.created_at, journalled=self.journalled)

    def fork(self, name: str | None = None) -> Session:
        """A child session that begins with this conversation; ``name`` is its branch's."""
        recorder = MemoryRecorder(self._history.tree.path())
        child = Session(
            self.agent,
            self.storage,
            auto_compact=self._auto_compact,
            compaction=self._compaction,
            recorder=recorder,
            parent_id=self._session_id,
        )
        self._note_child(child)
        if name is not None:
            child.branch(name)
        return child

    # -- where it stands

    def branch(self, name: str, at: str | None = None) -> str:
        """Begin a branch at an event, by default here, and go there; returns the leaf."""
        return self._move(propose_branch(self._history.tree, name, at))

    def switch(self, to: str) -> str:
        """Go to a branch's end or to an event; returns the leaf."""
        return self._move(propose_switch(self._history.tree, to))

    def undo(self, count: int = 1, *, files: bool = True, dry_run: bool = False, force: bool = False) -> past.Taken:
        """Take back turns, compactions, switches and restored checkpoints, with what their tools wrote."""
        with self._at_rest():
            return past.undo(self._history, self.blobs, count=count, files=files, dry_run=dry_run, force=force)

    def redo(self, count: int = 1, *, files: bool = True, dry_run: bool = False, force: bool = False) -> past.Taken:
        """Do again what undo took back, as long as nothing new was done."""
        with self._at_rest():
            return past.redo(self._history, self.blobs, count=count, files=files, dry_run=dry_run, force=force)

    def checkpoint(self, name: str) -> int:
        """Name this point; returns the ``seq`` that keeps it."""
        with self._lock:
            return past.save_checkpoint(self._history, name).seq

    @property
    def checkpoints(self) -> list[str]:
        """The names of its points, oldest first."""
        return list(self._history.tree.checkpoints)

    def restore(
        self,
        name: str,
        *,
        conversation: bool = True,
        files: bool = True,
        dry_run: bool = False,
        force: bool = False,
    ) -> past.Taken:
        """Go back to a named point: its conversation, its files, or both."""
        with self._at_rest():
            return past.restore_checkpoint(
                self._history,
                self.blobs,
                name,
                conversation=conversation,
                files=files,
                dry_run=dry_run,
                force=force,
            )

    def compact(self, instructions: str | None = None, *, dry_run: bool = False) -> CompactionPlan | None:
        """Shorten the context now; None when there is nothing worth doing.

        Raises:
            CompactionFailed: no summary could be had; the session is as it was, with an ``error`` event.
        """
        with self._at_rest():
            work = past.compact(
                self._history, self._compaction, window=self.window, instructions=instructions, dry_run=dry_run
            )
            return run_blocking(work)[0]

    # -- what its tools use

    @property
    def window(self) -> int:
        """How many tokens the agent's model takes; 0 when it does not say."""
        window = getattr(self.agent, "window", 0)
        return window if isinstance(window, int) else 0

    @property
    def folder(self) -> str:
        """Where the session keeps what is no event."""
        return os.path.join(paths.home(), "sessions", self._session_id)

    @property
    def blobs(self) -> BlobStore:
        """Where it is kept what files were."""
        return BlobStore(paths.blobs_folder(self.folder))

    def file_tracker(self, cwd: str) -> FileTracker:
        """For tools that read and write files below ``cwd``; carries on with the session's lists."""
        make_folder(self.folder)
        tracker = FileTracker(self.blobs, cwd)
        tracker.restore_lists(self.state.files_read, self.state.files_modified)
        return tracker

    def change_state(self, kind: str, value: str) -> int:
        """Set ``model``, ``permission_mode`` or ``system_prompt`` from here on; returns the ``seq`` that keeps it.

        Raises:
            InvalidParams: there is no such kind.
        """
        if kind not in STATE_KINDS:
            raise InvalidParams(f"{kind!r} is no state of a session; it must be one of {', '.join(STATE_KINDS)}")
        with self._lock:
            return self._history.record(Proposal("state_change", {"kind": kind, "value": value}))[-1].seq

    def write_todos(self, todos: list[Todo], op: str) -> None:
        """Keep the whole list after a change."""
        listed = [{"id": todo.id, "task": todo.task, "done": todo.done} for todo in todos]
        with self._lock:
            self._history.record(Proposal("todo_write", {"todos": listed, "op": op, "session_id": self._session_id}))

    # -- inside

    def _seed(self) -> None:
        """A new session knows its system prompt from the agent; one that is resumed knows it from its log."""
        prompt = getattr(self.agent, "prompt", None)
        if not self._history.events and isinstance(prompt, str) and prompt:
            self._history.record(Proposal("state_change", {"kind": "system_prompt", "value": prompt}))

    def _note_child(self, child: Session) -> None:
        if self.tree is not None:
            self.tree.fork(self._session_id, session_id=child.session_id)
            child.tree = self.tree

    def _attach_todos(self) -> None:
        for tool in getattr(self.agent, "tools", None) or ():
            if isinstance(tool, TodoTool):
                tool.attach(self)

    def _move(self, proposal: Proposal) -> str:
        with self._at_rest():
            return self._history.record(proposal)[-1].id

    @contextmanager
    def _at_rest(self) -> Iterator[None]:
        """While no turn runs; the list of todos follows to wherever the session goes."""
        with self._lock:
            self._require_rest()
            yield
        self._attach_todos()

    def _require_rest(self) -> None:
        if self._running is not None:
            raise TurnRunning(f"a turn of {self._session_id} is running; wait for its end, or cancel it")

    def _say(self, kind: str, message: str) -> int:
        if not message.strip():
            raise InvalidParams("the message is empty; say something")
        with self._lock:
            return self._history.record(Proposal(kind, {"content": message}))[-1].seq

    async def _chat(self, message: str) -> str:
        reply: str | None = None
        async with aclosing(self.iter_chat(message)) as events:
            async for event in events:
                if isinstance(event, TurnEnded) and reply is None:
                    reply = event.output
        return reply or ""

    async def _turn(self, message: str, queued: PendingMessage | None) -> AsyncGenerator[LoopEvent, None]:
        run = getattr(self.agent, "run", None)
        if run is None:
            raise NotPermitted("the agent cannot run turns (it has no 'run'); resume the session with one that can")
        with self._lock:
            self._require_rest()
            close_open_turn(self._history)
            self._attach_todos()  # a fork may have taken the agent's list meanwhile
            journal = self._running = TurnJournal(self._history, message, queued)
            self._cancelled = False
        state, error = "interrupted", None
        try:
            yield TurnStarted(journal.turn_id, message)
            async with aclosing(run(self)) as events:
                async for event in events:
                    self._take(journal, event)
                    yield event
                    if self._cancelled:
                        break
                    if isinstance(event, StepEnded):
                        await self._make_room(event)
            state = "interrupted" if self._cancelled else "done"
        except Exception as failure:
            state, error = "failed", f"{type(failure).__name__}: {failure}"
            raise
        finally:
            with self._lock:
                journal.finish(state, error)
                self._running = None
            if self.storage is not None:
                self.save()
        if await self._make_room(None) and self.storage is not None:
            self.save()
        yield TurnEnded(journal.turn_id, state, journal.output)

    async def _make_room(self, step: StepEnded | None) -> bool:
        """Compact when the window is full, at the end of a turn already when it is nearly so; whether it was done.

        A summary that cannot be had leaves its ``error`` event and the context as it is.
        """
        messages = self._history.state.messages
        if step is not None and step.usage.get("input_tokens"):
            self._usage = Usage(step.usage["input_tokens"], len(messages))
        if not self._auto_compact or not self.window:
            return False
        threshold = ThresholdCompaction(self._compaction)
        if step is not None and threshold.level(count_tokens(messages, self._usage), self.window) != HARD:
            return False
        with suppress(CompactionFailed):
            plan, _ = await past.compact(self._history, threshold, window=self.window, usage=self._usage, force=False)
            if plan is not None:
                self._usage = None
                return True
        return False

    def _take(self, journal: TurnJournal, event: LoopEvent) -> None:
        with self._lock:
            if isinstance(event, StepStarted):
                waiting = self._history.state.steering
                if waiting:
                    journal.take_steering(waiting)
            journal.take(event)


def _configured_storage() -> SessionStorage:
    from chimera.sessions.storage.file import FileSessionStorage

    return FileSessionStorage()

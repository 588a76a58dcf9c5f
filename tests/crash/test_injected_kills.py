"""Kills at every single step of what the daemon does, not only at those that chance meets."""

from __future__ import annotations

import os
import select
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from tests.support import crash_strace
from tests.support.crash_client import BookkeepingConnection, event
from tests.support.crash_faults import arm, cut_prefix, kill_prefix
from tests.support.crash_ledger import Ledger, find
from tests.support.daemon import RpcError, RunningDaemon

Act = Callable[[BookkeepingConnection, str], Any]
FLAVOURS = {"jsonl": "mink", "ids": "otter", "typed": "stoat"}


def append(connection: BookkeepingConnection, session_id: str, *, durability: str = "durable") -> None:
    events = [event("one"), event("x" * 1200), event("three")]
    connection.call("sessions.append", session_id=session_id, events=events, durability=durability)


def append_buffered(connection: BookkeepingConnection, session_id: str) -> None:
    append(connection, session_id, durability="buffered")
    until_flushed(connection, session_id)


def append_and_flush(connection: BookkeepingConnection, session_id: str) -> None:
    append(connection, session_id)
    until_flushed(connection, session_id)


def until_flushed(connection: BookkeepingConnection, session_id: str) -> None:
    while connection.call("daemon.status")["journal"]["unflushed_events"]:
        select.select([], [], [], 0.02)


def create(connection: BookkeepingConnection, session_id: str) -> None:
    made = connection.call("sessions.create", flavour="mink", title="new")["session_id"]
    append(connection, made)


def finish(connection: BookkeepingConnection, session_id: str) -> None:
    connection.call("sessions.finish", session_id=session_id, summary={"success": True})


def rename(connection: BookkeepingConnection, session_id: str) -> None:
    connection.call("sessions.rename", session_id=session_id, title=f"title {len(connection.ledger.sessions)}")


def delete_and_restore(connection: BookkeepingConnection, session_id: str) -> None:
    append(connection, session_id)
    trash_id = connection.call("sessions.delete", session_id=session_id)["trash_id"]
    connection.call("sessions.restore", trash_id=trash_id)


ACTS: list[Act] = [append, append_buffered, append_and_flush, create, finish, rename, delete_and_restore]
SYSTEM_CALLS = ["pwrite64", "write", "fdatasync", "fsync", "rename", "openat", "unlink", "mkdir"]


class Victim:
    """A home whose daemon dies again and again; the books go on."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.ledger = Ledger(power_cut=False)
        self.kills = 0
        self.daemon: RunningDaemon | None = None

    def start(self, *prefix: str) -> RunningDaemon:
        self.daemon = RunningDaemon(self.home, prefix=prefix)
        return self.daemon

    def connect(self) -> BookkeepingConnection:
        assert self.daemon is not None
        return BookkeepingConnection(self.daemon.socket_path, self.ledger)

    def new_session(self, flavour: str) -> str:
        with self.connect() as connection:
            session_id = str(connection.call("sessions.create", flavour=flavour)["session_id"])
            append(connection, session_id)
            return session_id

    def survives(self, act: Act, session_id: str) -> bool:
        """Whether the daemon lived through it; a refusal by a failing disk is no death."""
        assert self.daemon is not None
        try:
            with self.connect() as connection:
                act(connection, session_id)
        except RpcError as error:
            if error.kind not in ("io_error", "internal_error"):
                raise
        except (OSError, EOFError):
            self.daemon.process.wait()
            self.kills += 1
            return False
        return True

    def check(self) -> None:
        """A daemon starts, and everything that was promised is there."""
        assert self.daemon is not None
        self.daemon.log.close()
        self.start().wait_ready()
        with self.daemon.connect() as connection:
            problems = connection.call("sessions.verify")["problems"]
            for session_id, session in self.ledger.sessions.items():
                if session.stands is None:  # killed on the way: look where it is
                    self._settle(connection, session_id)
        assert problems == []
        wrong = self.ledger.complaints(find(str(self.daemon.root)))
        assert not wrong, "\n".join(wrong)

    def _settle(self, connection: Any, session_id: str) -> None:
        session = self.ledger.sessions[session_id]
        stands = os.path.isdir(self.daemon.root / session_id)  # type: ignore[union-attr]
        items = [
            item["trash_id"] for item in connection.call("trash.list")["items"] if item["session_id"] == session_id
        ]
        assert stands or len(items) == 1, f"{session_id} is neither there nor in the trash"
        assert not (stands and items), f"{session_id} is there and in the trash"
        session.stands, session.trash_id = stands, None if stands else items[0]
        if not stands:
            connection.call("sessions.restore", trash_id=items[0])
            session.stands, session.trash_id = True, None


@pytest.fixture
def victim(home: Path) -> Iterator[Victim]:
    made = Victim(home)
    yield made
    if made.daemon is not None and made.daemon.process.poll() is None:
        made.daemon.kill()


@pytest.mark.timeout(600)
@pytest.mark.parametrize("act", ACTS)
@pytest.mark.parametrize("flavour", FLAVOURS.values(), ids=FLAVOURS)
def test_a_kill_after_each_operation(victim: Victim, act: Act, flavour: str, watch: Path, tmp_path: Path) -> None:
    """The process counts its own changes, syncs and answers, all threads together, and dies after the Nth."""
    if flavour != "mink" and act in (create, finish, rename):
        pytest.skip("does not depend on the layout")
    for number in count(1):
        control = str(tmp_path / f"control-{number}")
        victim.start(*kill_prefix(control, str(watch))).wait_ready()
        session_id = victim.new_session(flavour)
        arm(control, number)
        if victim.survives(act, session_id):
            break
        victim.check()
        assert victim.daemon is not None
        victim.daemon.kill()
    assert victim.kills >= 4


@pytest.mark.timeout(600)
def test_a_kill_after_each_operation_of_a_recovery(victim: Victim, watch: Path, tmp_path: Path) -> None:
    victim.start().wait_ready()
    session_ids = [victim.new_session(flavour) for flavour in FLAVOURS.values()]
    for number in count(1):
        assert victim.daemon is not None
        with victim.connect() as connection:
            for session_id in session_ids:
                append(connection, session_id)
        victim.daemon.kill()
        control = str(tmp_path / f"control-{number}")
        arm(control, number)
        recovering = victim.start(*kill_prefix(control, str(watch)))
        try:
            recovering.wait_ready()
        except RuntimeError:
            victim.kills += 1
            victim.check()
        else:
            break
    assert victim.kills >= 10


@pytest.mark.timeout(600)
@pytest.mark.skipif(not crash_strace.AVAILABLE, reason="strace is not installed")
@pytest.mark.parametrize("call", SYSTEM_CALLS)
def test_a_kill_by_strace_at_each_system_call(victim: Victim, call: str) -> None:
    """The same from outside, through the kernel, between entering a call and doing it."""
    victim.start().wait_ready()
    for act in (append_and_flush, create, rename, delete_and_restore):
        for number in count(1):
            session_id = victim.new_session("mink")
            assert victim.daemon is not None
            with crash_strace.injecting(victim.daemon.process.pid, call, f"signal=SIGKILL:when={number}"):
                survived = victim.survives(act, session_id)
            if survived:
                break
            victim.check()


AMPUTATIONS = [
    ("chimerad.store.open_sessions:OpenSession.write", 3),
    ("chimerad.store.open_sessions:OpenSession.write", 4),
    ("chimera.durable:make_durable", 2),
    ("chimera.durable:remove_files", 2),
    ("chimera.durable:sync_folder", 12),
    ("chimera.durable:sync_folder", 14),
    ("chimera.durable:sync_folder", 16),
    ("chimera.durable:remove_file", 1),
    ("chimera.durable:replace_file", 2),
    ("chimerad.store.segments:SegmentFeed.flushed", 1),
    ("chimerad.store.index.writer:Index.commit", 2),
    ("chimerad.store.ledger:note", 2),
]


@pytest.mark.timeout(120)
@pytest.mark.parametrize("how", ["error", "exit"])
@pytest.mark.parametrize(("target", "number"), AMPUTATIONS)
def test_a_step_that_never_comes_loses_nothing(victim: Victim, target: str, number: int, how: str) -> None:
    """The step after a commit point is cut off: it fails each time from its Nth call on, or the process ends there."""
    victim.start(*cut_prefix(target, number, how))
    try:
        victim.daemon.wait_ready()  # type: ignore[union-attr]
    except RuntimeError:
        victim.check()
        return
    for act in (create, finish_new, rename_new, append_and_flush_new, delete_and_restore_new):
        if not victim.survives(act, ""):
            break
    assert victim.daemon is not None
    victim.daemon.kill()
    victim.check()


def on_new_session(act: Act) -> Act:
    def acting(connection: BookkeepingConnection, _: str) -> None:
        session_id = connection.call("sessions.create", flavour="stoat")["session_id"]
        append(connection, session_id)
        act(connection, session_id)

    return acting


def append_only(connection: BookkeepingConnection, session_id: str) -> None:
    append(connection, session_id)


finish_new, rename_new = on_new_session(finish), on_new_session(rename)
append_and_flush_new, delete_and_restore_new = on_new_session(append_only), on_new_session(delete_and_restore)

"""Kills at every single step of what the daemon does, not only at those that chance meets."""

from __future__ import annotations

import contextlib
import os
import select
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from tests.support import crash_strace
from tests.support.crash_client import BookkeepingConnection, event
from tests.support.crash_faults import CUT_OFF, arm, cut_prefix, kill_prefix
from tests.support.crash_ledger import Ledger, find
from tests.support.daemon import Connection, RpcError, RunningDaemon
from tests.support.power_recorder import SEGMENT_BYTES_VARIABLE

Act = Callable[[BookkeepingConnection, str], Any]
SMALL = {SEGMENT_BYTES_VARIABLE: str(1 << 14)}
"""For a daemon that loads a shim: less to fill with zeros at each start, and segments that fill up."""


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
        select.select([], [], [], 0.1)


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


CASES: list[tuple[Act, str]] = [
    (append, "otter"),
    (append_buffered, "mink"),
    (append_and_flush, "mink"),
    (append_and_flush, "stoat"),
    (create, "mink"),
    (finish, "mink"),
    (rename, "mink"),
    (delete_and_restore, "stoat"),
]
SYSTEM_CALLS = ["pwritev2", "write", "fdatasync", "fsync", "rename", "openat", "unlink", "mkdir"]


class Victim:
    """A home whose daemon dies again and again; the books go on."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.ledger = Ledger(power_cut=False)
        self.kills = 0
        self.daemon: RunningDaemon | None = None
        self.checked: set[str] = set()
        home.mkdir()
        (home / "config.toml").write_text("[store]\nflush_interval_ms = 50\n")

    def start(self, *prefix: str) -> RunningDaemon:
        if self.daemon is not None:
            self.daemon.log.close()
        self.daemon = RunningDaemon(self.home, prefix=prefix, env=SMALL)
        return self.daemon

    def restart(self) -> None:
        """One more kill, and a daemon without any shim."""
        assert self.daemon is not None
        self.daemon.kill()
        self.start().wait_ready()

    def connect(self) -> BookkeepingConnection:
        assert self.daemon is not None
        return BookkeepingConnection(self.daemon.socket_path, self.ledger)

    def is_alive(self) -> bool:
        try:
            with self.connect() as connection:
                connection.call("daemon.hello")
        except (OSError, EOFError):
            assert self.daemon is not None
            self.daemon.process.wait()
            self.kills += 1
            return False
        return True

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

    def check(self, *, everything: bool = False) -> None:
        """A daemon has started on what the kill left: all that was promised is there."""
        assert self.daemon is not None
        touched = set(self.ledger.sessions) if everything else self.ledger.sessions.keys() - self.checked
        with self.daemon.connect() as connection:
            for session_id in touched:
                if self.ledger.sessions[session_id].stands is None:
                    self._settle(connection, session_id)
                assert connection.call("sessions.verify", session_id=session_id)["problems"] == []
        found = find(str(self.daemon.root), only=touched)
        wrong = [complaint for session_id in touched for complaint in self.ledger.complaints_of(session_id, found)]
        assert not wrong + found.complaints, "\n".join(wrong + found.complaints)
        self.checked |= touched

    def _settle(self, connection: Connection, session_id: str) -> None:
        """Killed between two places: it must be in one of them, whole. From the trash it comes back."""
        session = self.ledger.sessions[session_id]
        stands = os.path.isdir(self.daemon.root / session_id)  # type: ignore[union-attr]
        items = [item for item in connection.call("trash.list")["items"] if item["session_id"] == session_id]
        assert stands != bool(items), f"{session_id} is in the trash: {items}, in its place: {stands}"
        if items:
            connection.call("sessions.restore", trash_id=items[0]["trash_id"])
        session.stands, session.trash_id = True, None


@pytest.fixture
def victim(home: Path) -> Iterator[Victim]:
    made = Victim(home)
    yield made
    if made.daemon is not None:
        made.daemon.kill()


@pytest.mark.timeout(600)
@pytest.mark.parametrize(("act", "flavour"), CASES)
def test_a_kill_after_each_operation(victim: Victim, act: Act, flavour: str, watch: Path, tmp_path: Path) -> None:
    """The process counts its own changes, syncs and answers, all threads together, and dies after the Nth."""
    for number in count(1):
        control = str(tmp_path / f"control-{number}")
        victim.start(*kill_prefix(control, str(watch))).wait_ready()
        victim.check()
        session_id = victim.new_session(flavour)
        arm(control, number)
        if victim.survives(act, session_id):
            break
    victim.restart()
    victim.check(everything=True)
    assert victim.kills >= 4
    print(f"{victim.kills} kills")


@pytest.mark.timeout(600)
def test_a_kill_after_each_operation_of_a_recovery(victim: Victim, watch: Path, tmp_path: Path) -> None:
    for number in count(1):
        victim.start().wait_ready()
        victim.check(everything=True)
        session_ids = [victim.new_session(flavour) for flavour in ("mink", "stoat")]
        with victim.connect() as connection:
            for session_id in session_ids:
                append(connection, session_id)
        assert victim.daemon is not None
        victim.daemon.kill()
        control = str(tmp_path / f"control-{number}")
        arm(control, number)
        try:
            victim.start(*kill_prefix(control, str(watch))).wait_ready()
        except RuntimeError:
            victim.kills += 1
        else:
            break
    victim.restart()
    victim.check(everything=True)
    assert victim.kills >= 10
    print(f"{victim.kills} kills")


@pytest.mark.timeout(600)
@pytest.mark.skipif(not crash_strace.AVAILABLE, reason="strace is not installed")
@pytest.mark.parametrize("call", SYSTEM_CALLS)
def test_a_kill_by_strace_at_each_system_call(victim: Victim, call: str) -> None:
    """The same from outside, through the kernel, between entering a call and doing it."""
    victim.start().wait_ready()
    for act in (append_and_flush, create, rename, delete_and_restore):
        for number in count(1):
            session_id = victim.new_session("stoat" if act is append_and_flush else "mink")
            assert victim.daemon is not None
            with crash_strace.injecting(victim.daemon.process.pid, call, f"signal=SIGKILL:when={number}"):
                survived = victim.survives(act, session_id)
            if survived and victim.is_alive():
                break
            victim.start().wait_ready()
            victim.check()
    victim.check(everything=True)
    print(f"{victim.kills} kills")


AMPUTATIONS = [
    ("chimerad.store.open_sessions:OpenSession.write", 3),
    ("chimerad.store.open_sessions:OpenSession.write", 4),
    ("chimera.durable:make_durable", 2),
    ("chimera.durable:remove_files", 1),
    ("chimera.durable:remove_files", 2),
    ("chimera.durable:sync_folder", 12),
    ("chimera.durable:sync_folder", 14),
    ("chimera.durable:sync_folder", 16),
    ("chimera.durable:remove_file", 1),
    ("chimera.durable:replace_file", 2),
    ("chimerad.store.segments:SegmentFeed.flushed", 1),
    ("chimerad.store.index.writer:IndexWriter.commit", 2),
    ("chimerad.store.ledger:note", 2),
]


@pytest.mark.timeout(120)
@pytest.mark.parametrize("how", ["error", "exit"])
@pytest.mark.parametrize(("target", "number"), AMPUTATIONS)
def test_a_step_that_never_comes_loses_nothing(victim: Victim, target: str, number: int, how: str) -> None:
    """The step after a commit point is cut off: it fails each time from its Nth call on, or the process ends there."""
    with contextlib.suppress(RuntimeError):  # it may not even start
        victim.start(*cut_prefix(target, number, how)).wait_ready()
        for act in (create, finish_new, rename_new, append_new, delete_and_restore_new):
            if not victim.survives(act, "") or not victim.survives(until_flushed_or_cut_off(victim), ""):
                break
    assert victim.daemon is not None
    assert CUT_OFF in victim.daemon.read_log()
    victim.restart()
    victim.check(everything=True)


def until_flushed_or_cut_off(victim: Victim) -> Act:
    """A flush of its own for each act; where the step that is cut off belongs to the flush, it never ends."""

    def waiting(connection: BookkeepingConnection, _: str) -> None:
        assert victim.daemon is not None
        while (
            connection.call("daemon.status")["journal"]["unflushed_events"] and CUT_OFF not in victim.daemon.read_log()
        ):
            select.select([], [], [], 0.05)

    return waiting


def on_new_session(act: Act) -> Act:
    def acting(connection: BookkeepingConnection, _: str) -> None:
        session_id = connection.call("sessions.create", flavour="stoat")["session_id"]
        append(connection, session_id)
        act(connection, session_id)

    return acting


finish_new, rename_new = on_new_session(finish), on_new_session(rename)
append_new, delete_and_restore_new = on_new_session(append), on_new_session(delete_and_restore)

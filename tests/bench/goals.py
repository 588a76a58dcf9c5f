"""What must be reached: every measured figure with its floor and its aim, as one table.

A floor must hold; an aim is reported beside it and stays open until it is met. Ratios are taken inside one run.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["GOALS", "ROWS", "Goal", "goals_of"]


@dataclass(frozen=True)
class Goal:
    """One figure. ``at_least``: the figure must not fall below its floor; otherwise it must not rise above it."""

    key: str
    work: str
    against: str
    floor: float | None
    aim: float | None
    at_least: bool
    unit: str = "x"

    @property
    def row(self) -> str:
        """The part of the bench that measures it."""
        return self.key.split(".")[0]


def _rate(key: str, work: str, against: str, floor: float | None, aim: float | None) -> Goal:
    return Goal(key, work, against, floor, aim, at_least=True)


def _cost(key: str, work: str, against: str, floor: float | None, aim: float | None, unit: str = "x") -> Goal:
    return Goal(key, work, against, floor, aim, at_least=False, unit=unit)


_SYNC_EACH = "append 1 KB + fdatasync each"
_PYTHON = "python -I -c pass"
_WALK = "walking the summaries, warm"

_ALL = [
    _rate("append.one", "durable append, one client, one event a call", _SYNC_EACH, 0.45, 0.7),
    _rate("append.one_sqlite", "the same", "SQLite in process (WAL, FULL), an insert a commit", 0.75, 1.1),
    _rate("append.clients", "64 clients, one event a call", _SYNC_EACH, 5, 8),
    _rate("append.in_flight", "8 clients with 64 in flight", _SYNC_EACH, 15, 20),
    _rate("append.batches", "8 clients, batches of 64", _SYNC_EACH, 15, 20),
    _rate("layouts.typed_one", "`typed`, sustained, one client", "`jsonl`", 0.65, 0.8),
    _rate("layouts.ids_one", "`ids`, sustained, one client", "`jsonl`", 0.65, 0.8),
    _rate("layouts.typed_clients", "`typed`, sustained, 64 clients", "`jsonl`", 0.25, 0.4),
    _rate("layouts.ids_clients", "`ids`, sustained, 64 clients", "`jsonl`", 0.25, 0.4),
    _rate("features.all_one", "index, subscriber and watching on, one client", "off", 0.7, 0.9),
    _rate("features.all_clients", "index, subscriber and watching on, 64 clients", "off", 0.7, 0.9),
    _rate("features.watch_one", "watching on, one client", "watching off", 0.9, None),
    _rate("features.watch_clients", "watching on, 64 clients", "watching off", 0.9, None),
    _rate("listing.small", "newest 20 of the smallest store, one RPC", _WALK, None, 50),
    _rate("listing.middle", "newest 20 of the middle store, one RPC", _WALK, None, 500),
    _rate("listing.large", "newest 20 of the largest store, one RPC", _WALK, 2_000, 5_000),
    _cost("listing.flat", "newest 20 of the largest store", "of the smallest", 1.5, None),
    _cost("resume.event_log", "resume 20,000 events (`jsonl`, library call)", "orjson over the same file", 2, 1.5),
    _cost("sessions.resume_short", "resume 1,000 events as a session, messages made", "orjson over the file", None, 4),
    _cost("sessions.resume", "resume 20,000 events as a session, messages made", "orjson over the file", None, 3),
    _cost("sessions.resume_long", "resume 200,000 events as a session, messages made", "orjson over the file", None, 3),
    _cost("sessions.tree_show", "`tree.show`, 20,000 events, 1,000 branches", "orjson over the file", None, 10),
    _cost("sessions.tree_switch", "`tree.switch` among them", "`sessions.append` of one event", None, 2),
    _cost("sessions.fork_bytes", "bytes of a fork of them", "bytes of its parent", 0.01, 0.001),
    _cost("sessions.compaction_bytes", "bytes of a compaction event", "bytes of the messages it replaces", 0.1, 0.05),
    _cost("cli.sessions_list", "`chimera sessions list` in a pipe", _PYTHON, 3.5, 2.5),
    _cost("cli.append", "`chimera append` in a pipe", _PYTHON, 3.5, 2.5),
    _cost("cli.daemon_status", "`chimera daemon status` in a pipe", _PYTHON, 3.5, 2.5),
    _cost("cli.sessions_show", "`chimera sessions show` in a pipe", _PYTHON, 4.5, 3.5),
    _cost("cli.runs_list", "`chimera mink runs list` in a pipe", _PYTHON, 4.5, 3.5),
    _cost("cli.rpc", "`chimera rpc daemon.hello` in a pipe", _PYTHON, 4.5, 3.5),
    _cost("cli.help", "`chimera --help` in a pipe", _PYTHON, 4.5, 3.5),
    _cost("cli.terminal_list", "`chimera sessions list` on a terminal", _PYTHON, 9, 8),
    _cost("start.first_answer", "daemon, spawn to first answer, empty store", _PYTHON, 10, 8),
    _cost("start.resident", "daemon alone, idle: resident memory", "", 45, 40, unit="MiB"),
    _cost("start.idle_cpu", "daemon alone, idle: CPU (one clock tick in 5 s is 0.2 %)", "", 0.2, None, unit="%"),
    _rate("watching.seen", "10,000 folders, a burst of changes: in the index", "changes made", 1, None),
    _cost("watching.idle_cpu", "10,000 folders watched: idle CPU", "", 1, None, unit="%"),
    _cost("watching.start", "10,000 folders: what they add to the start", "raw inotify on each folder", None, 2),
    _cost("disk.jsonl", "bytes on disk of a session, index included", "bytes of its events", 1.6, 1.3),
    _cost("disk.packed", "the same, packed", "bytes of its events", 0.5, 0.35),
]

GOALS: dict[str, Goal] = {goal.key: goal for goal in _ALL}

ROWS: list[str] = list(dict.fromkeys(goal.row for goal in _ALL))


def goals_of(row: str) -> list[Goal]:
    return [goal for goal in _ALL if goal.row == row]

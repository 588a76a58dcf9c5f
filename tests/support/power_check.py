"""Cuts the power at every operation of a record, looks at every state that may be left, and collects complaints.

A judge says what a state must hold; the disk (tests.support.power_disk) says which states there are. Equal states are
made once and judged against every moment at which they may have come about. Knows nothing of sessions.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Protocol

from tests.support.power_disk import Disk, State, States
from tests.support.power_recorder import Operation

RANDOM_STATES = 50
"""Seeded combinations for each cut."""


Span = tuple[int, int]
"""The power may go before any operation from the first to the second: between them only words were exchanged."""


class Judge(Protocol):
    """What must hold after the power is back. It is sent to other processes, so it must pickle."""

    def recover(self, folder: str) -> Any:
        """Start what is under test on a state; the answer is what it holds now."""

    def complaints(self, found: Any, before: int) -> list[str]:
        """What is wrong with it, when the power went away before operation ``before``."""

    def moments(self, spans: Sequence[Span]) -> Sequence[int]:
        """Those moments of one state whose demands differ; usually the last alone."""


@dataclass
class Failure:
    before: int
    operation: str
    state: str
    complaints: list[str]
    trail: list[str]

    def __str__(self) -> str:
        trail = "\n    ".join(self.trail)
        wrong = "\n  ".join(self.complaints)
        return f"cut before operation {self.before} ({self.operation}), state {self.state!r}:\n  {wrong}\n    {trail}"


@dataclass
class Report:
    cuts: int = 0
    states: int = 0
    distinct: int = 0
    failures: list[Failure] = field(default_factory=list)

    def __str__(self) -> str:
        found = "\n".join(map(str, self.failures))
        return f"{self.cuts} cuts, {self.states} states, {self.distinct} distinct\n{found}"


@dataclass
class _Found:
    """A distinct state: where it was met first, and every moment at which it may have come about."""

    cut: Span
    number: int
    spans: list[Span]


def cut_power(
    operations: Sequence[Operation],
    judge: Judge,
    *,
    seed: int = 1,
    random_states: int = RANDOM_STATES,
    workers: int = 2,
    first: int = 0,
    share: int = 1,
    most_failures: int = 5,
) -> Report:
    """Try every cut from operation ``first`` on; of the distinct states one in ``share`` is judged."""
    parts = share * workers
    jobs = [(list(operations), judge, seed, random_states, first, parts, n, most_failures) for n in range(workers)]
    if workers == 1:
        return _run(*jobs[0])
    total = Report()
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        for report in pool.map(_run_job, jobs):
            total.cuts, total.states = report.cuts, report.states
            total.distinct += report.distinct
            total.failures += report.failures
    return total


def _run_job(job: tuple[Any, ...]) -> Report:
    return _run(*job)


def _run(
    operations: Sequence[Operation],
    judge: Judge,
    seed: int,
    random_states: int,
    first: int,
    parts: int,
    part: int,
    most_failures: int,
) -> Report:
    report = Report()
    found: dict[int, _Found] = {}
    for cut, disk in _cuts(operations, first):
        report.cuts += 1
        for number, state in enumerate(_states(disk, seed, random_states)):
            report.states += 1
            digest = disk.digest(state)
            if (digest >> 5) % parts == part:
                found.setdefault(digest, _Found(cut, number, [])).spans.append(cut)
    wanted: dict[Span, dict[int, _Found]] = {}
    for item in found.values():
        wanted.setdefault(item.cut, {})[item.number] = item
    for cut, disk in _cuts(operations, first):
        if cut in wanted:
            for number, state in enumerate(_states(disk, seed, random_states)):
                if number in wanted[cut]:
                    report.distinct += 1
                    report.failures += _judge_state(operations, disk, state, wanted[cut][number], judge)
                    if len(report.failures) >= most_failures:
                        return report
    return report


def some_states(operations: Sequence[Operation], count: int, seed: int = 1) -> Iterator[tuple[int, Disk, State]]:
    """A few states of the whole record, spread over it, each with the operation before which the power went."""
    dice = random.Random(seed)
    cuts = sum(1 for _ in _cuts(operations, 0))
    chosen = set(dice.sample(range(cuts), min(count, cuts)))
    for number, ((_, before), disk) in enumerate(_cuts(operations, 0)):
        if number in chosen:
            yield before, disk, dice.choice(list(_states(disk, seed, RANDOM_STATES)))


def _cuts(operations: Sequence[Operation], first: int) -> Iterator[tuple[Span, Disk]]:
    """The disk before each operation that changes it, and at the end. What stood there before is no cut."""
    disk = Disk()
    since = first
    for number, operation in enumerate(operations):
        if operation[0] in ("received", "sent", "mark"):
            continue
        if number >= first and operation[0] not in ("folder", "file", "sync_begin"):
            yield (since, number), disk
            since = number + 1
        disk.apply(operation, number)
    yield (since, len(operations)), disk


def _states(disk: Disk, seed: int, random_states: int) -> Iterator[State]:
    states = States(disk)
    yield from states.systematic()
    yield from states.seeded(seed, random_states)


def _judge_state(
    operations: Sequence[Operation], disk: Disk, state: State, item: _Found, judge: Judge
) -> Iterator[Failure]:
    folder = os.path.join(tempfile.mkdtemp(prefix="power-", dir=state_folder()), "disk")
    try:
        disk.materialise(state, folder)
        recovered = judge.recover(folder)
        for before in judge.moments(item.spans):
            if wrong := judge.complaints(recovered, before):
                trail = [shown(operation) for operation in operations[max(0, before - 12) : before]]
                at = shown(operations[before]) if before < len(operations) else "end"
                yield Failure(before, at, state.label, wrong, trail)
                return
    finally:
        shutil.rmtree(os.path.dirname(folder), ignore_errors=True)


def state_folder() -> str:
    """Memory rather than disk where there is some: thousands of trees are made, and none needs to survive."""
    return "/dev/shm" if os.path.isdir("/dev/shm") else tempfile.gettempdir()


def shown(operation: Operation) -> str:
    """An operation in one line."""
    text = " ".join(repr(part) if not isinstance(part, bytes) else f"<{len(part)} bytes>" for part in operation)
    return text if len(text) < 160 else text[:157] + "..."

"""Power cuts of a program that embeds the library: appends synced each, without daemon and journal."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from chimera.sessions.eventlog.log import EventLog
from chimera.sessions.eventlog.reader import read_log
from chimera.sessions.eventlog.verify import verify_session
from tests.support import crash_embedder
from tests.support.power_check import Span, cut_power
from tests.support.power_recorder import Operation, recording

AFTER = "after the cut"


class LogJudge:
    """The log opens, takes another event, and holds every acknowledged one under its index, once."""

    def __init__(self, operations: Sequence[Operation], name: str, *, only_answered: bool = False) -> None:
        self.name = name
        self.only_answered = only_answered
        self.marks = [(number, operation[1]) for number, operation in enumerate(operations) if operation[0] == "mark"]

    def recover(self, folder: str) -> dict[str, Any]:
        log = os.path.join(folder, "home", "eventlog", self.name)
        index = EventLog(log).append("user_message", {"token": AFTER})
        records = read_log(log).records
        _, problems = verify_session(log)
        return {
            "tokens": [msgspec.json.decode(record.raw)["metadata"]["token"] for record in records],
            "index": index,
            "problems": [str(problem) for problem in problems if problem.kind != "no_summary"],
        }

    def complaints(self, found: dict[str, Any], before: int) -> list[str]:
        tokens, wrong = found["tokens"], [] if self.only_answered else list(found["problems"])
        for number, (_, index, token) in self.marks:
            if number < before and tokens[index : index + 1] != [token]:
                wrong.append(f"event {index} was answered as {token} and is {tokens[index : index + 1]}")
        if max(Counter(tokens).values()) > 1:
            wrong.append(f"twice: {tokens}")
        if not self.only_answered and (tokens[-1] != AFTER or found["index"] != len(tokens) - 1):
            wrong.append(f"the next append was answered with {found['index']} of {len(tokens)}")
        return wrong

    def moments(self, spans: Sequence[Span]) -> Sequence[int]:
        return [max(end for _, end in spans)]


@pytest.mark.timeout(600)
@pytest.mark.parametrize("flavour", ["mink", "otter", "stoat"])
def test_every_answered_append_survives_any_cut(watch: Path, flavour: str, capfd: pytest.CaptureFixture[str]) -> None:
    name = f"{flavour}-20260101T000000-00000001"
    with recording(str(watch)) as operations:
        crash_embedder.main(str(watch / "home" / "eventlog" / name), "event", 12)
    report = cut_power(operations, LogJudge(operations, name))
    print(report)
    assert not report.failures, str(report)
    assert report.distinct > 50


@pytest.mark.parametrize("flavour", ["mink", "otter", "stoat"])
def test_an_answered_append_survives_together_with_what_it_follows(
    watch: Path, flavour: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """Another writer of the session does not sync; what is answered behind its events must not hang in the air."""
    name = f"{flavour}-20260101T000000-00000001"
    folder = str(watch / "home" / "eventlog" / name)
    with recording(str(watch)) as operations:
        crash_embedder.main(folder, "first", 2)
        lazy = EventLog(folder, fsync="never")
        lazy.append("user_message", {"token": "never synced"})
        crash_embedder.main(folder, "second", 2)
    report = cut_power(operations, LogJudge(operations, name, only_answered=True))
    assert not report.failures, str(report)


@pytest.mark.parametrize("flavour", ["mink", "stoat"])
def test_a_log_whose_folder_another_process_has_just_made_survives(
    watch: Path, flavour: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """The first process was killed between making the folder and syncing its entry."""
    name = f"{flavour}-20260101T000000-00000001"
    folder = watch / "home" / "eventlog" / name
    folder.parent.mkdir(parents=True)
    with recording(str(watch)) as operations:
        folder.mkdir(mode=0o700)
        crash_embedder.main(str(folder), "event", 2)
    report = cut_power(operations, LogJudge(operations, name))
    assert not report.failures, str(report)

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

    def __init__(self, operations: Sequence[Operation], name: str) -> None:
        self.name = name
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
        tokens, wrong = found["tokens"], list(found["problems"])
        for number, (_, index, token) in self.marks:
            if number < before and tokens[index : index + 1] != [token]:
                wrong.append(f"event {index} was answered as {token} and is {tokens[index : index + 1]}")
        if max(Counter(tokens).values()) > 1:
            wrong.append(f"twice: {tokens}")
        if tokens[-1] != AFTER or found["index"] != len(tokens) - 1:
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

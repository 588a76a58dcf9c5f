"""What a run found: one line a figure on the terminal, everything as JSON, a table for docs/performance.md."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from tests.bench.goals import GOALS, Goal

__all__ = ["Result", "as_json", "as_markdown", "line_of", "put_into_document", "result"]

BEGIN = "<!-- bench: begin -->"
END = "<!-- bench: end -->"


@dataclass
class Result:
    """One figure of one run. ``details`` holds the absolute figures it came from, for reading only."""

    goal: Goal
    value: float
    details: dict[str, Any] = field(default_factory=dict)

    @property
    def verdict(self) -> str:
        """``aim met``, ``floor met`` or ``BELOW FLOOR``; ``-`` for a figure without either."""
        if self.goal.floor is not None and not self._reaches(self.goal.floor):
            return "BELOW FLOOR"
        if self.goal.aim is not None:
            return "aim met" if self._reaches(self.goal.aim) else ("floor met" if self.goal.floor else "aim open")
        return "floor met" if self.goal.floor is not None else "-"

    def _reaches(self, limit: float) -> bool:
        return self.value >= limit if self.goal.at_least else self.value <= limit


def result(key: str, value: float, **details: Any) -> Result:
    return Result(GOALS[key], value, details)


def line_of(found: Result) -> str:
    goal = found.goal
    limits = f"floor {_limit(goal, goal.floor)}, aim {_limit(goal, goal.aim)}"
    details = ", ".join(f"{name} {_shown(value)}" for name, value in found.details.items())
    return f"{goal.key:24} {_figure(goal, found.value):>10}  {found.verdict:11}  {limits:28}  {details}"


def as_json(results: Iterable[Result], about: dict[str, Any]) -> str:
    figures = [
        {
            "key": found.goal.key,
            "work": found.goal.work,
            "against": found.goal.against,
            "unit": found.goal.unit,
            "value": found.value,
            "better": "more" if found.goal.at_least else "less",
            "floor": found.goal.floor,
            "aim": found.goal.aim,
            "verdict": found.verdict,
            "details": found.details,
        }
        for found in results
    ]
    return json.dumps({**about, "figures": figures}, indent=2) + "\n"


def as_markdown(results: Iterable[Result], about: dict[str, Any]) -> str:
    """The table and a line on the machine."""
    place, host = about["file_system"], about["machine"]
    lines = [
        f"One {about['scale']} run: {host['cores']} cores ({host['processor']}), Linux {host['kernel'].split('-')[0]}, "
        f"Python {host['python']} ({host['build']}), SQLite {host['sqlite']}; {place['type']}; "
        f"load {about['load_before'][0]} before, {about['load_after'][0]} after.",
        "",
        "| figure | work | against | measured | floor | aim | |",
        "| --- | --- | --- | --: | --: | --: | --- |",
    ]
    for found in results:
        goal = found.goal
        lines.append(
            f"| `{goal.key}` | {goal.work} | {goal.against} | **{_figure(goal, found.value)}** "
            f"| {_limit(goal, goal.floor)} | {_limit(goal, goal.aim)} | {found.verdict} |"
        )
    return "\n".join(lines) + "\n"


def put_into_document(path: str, text: str) -> None:
    """Replace what stands between the two markers of a document."""
    with open(path, encoding="utf-8") as document:
        whole = document.read()
    before, found, rest = whole.partition(BEGIN)
    _, closed, after = rest.partition(END)
    if not found or not closed:
        raise ValueError(f"{path} has no place for the table: {BEGIN} ... {END}")
    with open(path, "w", encoding="utf-8") as document:
        document.write(f"{before}{BEGIN}\n{text}{END}{after}")


def _figure(goal: Goal, value: float) -> str:
    digits = 0 if value >= 1_000 else 1 if value >= 10 else 2
    return f"{value:,.{digits}f} {goal.unit}" if goal.unit != "x" else f"{value:,.{digits}f}x"


def _limit(goal: Goal, value: float | None) -> str:
    if value is None:
        return "-"
    shown = f"{value:,g}" if value < 1_000 else f"{value:,.0f}"
    sign = "≥" if goal.at_least else "≤"
    return f"{sign} {shown}x" if goal.unit == "x" else f"{sign} {shown} {goal.unit}"


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1_000 else f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) else str(value)

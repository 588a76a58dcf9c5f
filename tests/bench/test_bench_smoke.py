"""The bench itself runs: every row gives its figures. No time is asserted here."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import pytest

from tests.bench.__main__ import main
from tests.bench.goals import GOALS, ROWS
from tests.bench.report import BEGIN, END, Result


@pytest.mark.parametrize("row", ROWS)
def test_every_row_gives_its_figures(row: str, tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:  # the sockets in it must have short paths
        main([row, "--tiny", "--json", str(report), "--folder", folder])
    found = json.loads(report.read_text())
    assert found["failed"] == {}
    measured = {figure["key"] for figure in found["figures"]}
    expected = {key for key, goal in GOALS.items() if goal.row == row} - {"listing.middle"}
    assert measured == expected
    assert all(isinstance(figure["value"], float | int) for figure in found["figures"])


def test_the_table_goes_between_the_markers_of_the_document(tmp_path: Path) -> None:
    from tests.bench.report import put_into_document

    document = tmp_path / "performance.md"
    document.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    put_into_document(str(document), "new\n")
    assert document.read_text() == f"before\n{BEGIN}\nnew\n{END}\nafter\n"


def test_a_figure_is_held_against_floor_and_aim_the_right_way_round() -> None:
    more, less = GOALS["append.one"], GOALS["resume.event_log"]
    assert [Result(more, value).verdict for value in (0.1, 0.5, 0.9)] == ["BELOW FLOOR", "floor met", "aim met"]
    assert [Result(less, value).verdict for value in (3, 1.8, 1.2)] == ["BELOW FLOOR", "floor met", "aim met"]

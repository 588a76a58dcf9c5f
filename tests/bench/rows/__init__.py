"""The rows of the bench, one module each; a row takes the workbench and yields its results."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib import import_module

from tests.bench.report import Result
from tests.bench.workbench import Workbench

__all__ = ["row"]


def row(name: str) -> Callable[[Workbench], Iterator[Result]]:
    """The function that measures the row ``name`` (tests.bench.goals.ROWS)."""
    run: Callable[[Workbench], Iterator[Result]] = import_module(f"tests.bench.rows.{name}").run
    return run

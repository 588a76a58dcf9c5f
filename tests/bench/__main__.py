"""``python -m tests.bench [ROW ...] [--quick] [--json FILE] [--folder DIR] [--docs FILE] [--keep]``.

Runs the rows one after the other, prints each figure with its floor and aim, and ends with 1 if a floor was missed
or a row failed. Everything lies in one folder of its own on a real disk, and nothing in it is deleted before the end:
a file system makes files more slowly after a purge nearby.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import time
from typing import Any

from tests.bench.goals import ROWS
from tests.bench.machine import file_system, load_average, machine
from tests.bench.report import Result, as_json, as_markdown, line_of, put_into_document
from tests.bench.rows import row
from tests.bench.scale import FULL, QUICK, TINY
from tests.bench.workbench import Workbench

MEMORY_FILE_SYSTEMS = ("tmpfs", "ramfs")


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    scale = TINY if options.tiny else QUICK if options.quick else FULL
    place = file_system(existing_parent(options.folder))
    print(f"{scale.name} run in {options.folder}: {place['type']} on {place['device']}, load {load_average()}")
    if place["type"] in MEMORY_FILE_SYSTEMS and scale is not TINY:
        print(f"{place['type']} is memory, where a sync costs nothing; choose a disk with --folder", file=sys.stderr)
        return 2
    folder = os.path.join(options.folder, f"{time.strftime('%m%dT%H%M%S')}-{os.getpid()}")
    os.makedirs(folder, mode=0o700)
    about: dict[str, Any] = {
        "scale": scale.name,
        "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "file_system": place,
        "machine": machine(),
        "load_before": load_average(),
    }
    try:
        results, failed = measure(options.rows, Workbench(folder, scale))
        report(results, failed, about, options)
    finally:
        if not options.keep:  # after the report: a million small files take minutes to go
            shutil.rmtree(folder, ignore_errors=True)
    return 1 if failed or below_floor(results) else 0


def report(results: list[Result], failed: dict[str, str], about: dict[str, Any], options: argparse.Namespace) -> None:
    """To wherever was asked for, and one line on the terminal."""
    about.update(load_after=load_average(), failed=failed)
    if options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            file.write(as_json(results, about))
    if options.docs:
        put_into_document(options.docs, as_markdown(results, about))
    below = ", ".join(below_floor(results)) or "none"
    print(f"below the floor: {below}; rows that failed: {', '.join(failed) or 'none'}", flush=True)


def below_floor(results: list[Result]) -> list[str]:
    return [found.goal.key for found in results if found.verdict == "BELOW FLOOR"]


def measure(rows: list[str], bench: Workbench) -> tuple[list[Result], dict[str, str]]:
    """Every row's results, and the rows that could not be measured with the reason."""
    results: list[Result] = []
    failed: dict[str, str] = {}
    for name in rows:
        began = time.perf_counter()
        load = load_average()[0]
        try:
            for found in row(name)(bench):
                results.append(found)
                print(line_of(found), flush=True)
        except (OSError, RuntimeError, ImportError, EOFError, LookupError, subprocess.SubprocessError) as error:
            failed[name] = f"{type(error).__name__}: {error}"
            print(f"{name}: not measured: {failed[name]}", flush=True)
        print(f"  ({name}: {time.perf_counter() - began:.0f} s, load {load} to {load_average()[0]})", flush=True)
    return results, failed


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description="What chimera must reach, measured.")
    parser.add_argument("rows", nargs="*", metavar="ROW", help=f"all of: {' '.join(ROWS)}")
    parser.add_argument("--quick", action="store_true", help="a look in under two minutes")
    parser.add_argument("--tiny", action="store_true", help=argparse.SUPPRESS)  # proves only that every row runs
    parser.add_argument("--json", metavar="FILE", help="write the report there")
    parser.add_argument("--docs", metavar="FILE", help="put the table into this document, between its two markers")
    parser.add_argument("--keep", action="store_true", help="leave the run's folder behind")
    parser.add_argument(
        "--folder", metavar="DIR", default=os.path.expanduser("~/.cache/chimera-bench"), help="a folder on a real disk"
    )
    options = parser.parse_args(arguments)
    unknown = [name for name in options.rows if name not in ROWS]
    if unknown:
        parser.error(f"no such row: {', '.join(unknown)} (there are: {', '.join(ROWS)})")
    options.rows = options.rows or ROWS
    options.folder = os.path.abspath(options.folder)
    return options


def existing_parent(folder: str) -> str:
    while not os.path.isdir(folder):
        folder = os.path.dirname(folder)
    return folder


if __name__ == "__main__":
    sys.exit(main())

"""The one-shot command line as whole processes, in a pipe and on a terminal, against a bare interpreter."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from functools import partial

from tests.bench.corpus import build_corpus
from tests.bench.processes import bare_python, in_a_pipe, on_a_terminal
from tests.bench.report import Result, result
from tests.bench.rounds import interleave, median, paired_ratio
from tests.bench.workbench import Workbench, create_sessions, wait_indexed

SESSIONS = 200


def run(bench: Workbench) -> Iterator[Result]:
    names = build_corpus(bench.subfolder("cli/eventlog"), SESSIONS)
    with bench.daemon("cli") as daemon:
        wait_indexed(daemon, SESSIONS)
        written = create_sessions(daemon, 1)[0]
        samples = interleave(
            bench.scale.process_rounds,
            {"python": bare_python, **cases(daemon.environment, written, names[0])},
        )
    for name in samples:
        if name != "python":
            yield result(
                f"cli.{name}",
                paired_ratio(samples, name, "python"),
                ms=median(samples[name]) * 1e3,
                python_ms=median(samples["python"]) * 1e3,
            )


def cases(environment: dict[str, str], written: str, shown: str) -> dict[str, Callable[[], float]]:
    """One call of each verb; ``written`` is appended to, ``shown`` is a small session of the corpus."""
    program = os.path.join(os.path.dirname(sys.executable), "chimera")
    event = '{"tool":"Read","result":"' + "x" * 990 + '"}'
    arguments = {
        "sessions_list": ["sessions", "list"],
        "append": ["append", written, "--type", "tool_result", event],
        "daemon_status": ["daemon", "status"],
        "sessions_show": ["sessions", "show", shown],
        "runs_list": ["mink", "runs", "list"],
        "rpc": ["rpc", "daemon.hello"],
        "help": ["--help"],
    }
    piped = {name: partial(in_a_pipe, [program, *rest], environment) for name, rest in arguments.items()}
    terminal = partial(on_a_terminal, [program, *arguments["sessions_list"]], environment)
    return {**piped, "terminal_list": terminal}

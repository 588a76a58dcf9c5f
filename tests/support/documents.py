"""Documents as tests read them: their fenced blocks, and the ``console`` ones run in a shell and compared.

In a ``console`` block a line with ``$ `` begins a command and ``> `` continues it; what follows is its output. A line
``...`` stands for any lines. What differs from run to run (ids, times, pids, the home) may have any value of its form.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
HOME = "/home/me"
MARK = "--- command {} done ---"

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_VARYING = [
    (re.compile(pattern, re.MULTILINE), form)
    for pattern, form in (
        (r"\b[a-z]+-\d{8}T\d{6}-[0-9a-f]{8}\b", "SESSION"),
        (r"\bevt-[0-9a-f]{16}\b", "EVENT"),
        (r"\b\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", "TIME"),
        (r"\b\d{4}-\d\d-\d\d \d\d:\d\d\b", "MINUTE"),
        (r"^\d\d:\d\d:\d\d\b", "CLOCK"),
        (r"\bpid \d+", "pid PID"),
        (r'"[0-9a-f]{16}"', '"CHAIN"'),
    )
]


def documents() -> list[Path]:
    """Every document of the repository."""
    return sorted([*REPOSITORY.glob("*.md"), *REPOSITORY.glob("docs/*.md")])


def blocks(document: Path, *languages: str) -> Iterator[tuple[str, str]]:
    """The fenced blocks in these languages, in order: language and content."""
    for found in _FENCE.finditer(document.read_text()):
        if found[1] in languages:
            yield found[1], found[2]


@dataclass
class Command:
    """One command of a ``console`` block, and what the document says that it prints."""

    text: str
    expected: list[str] = field(default_factory=list)

    def matches(self, printed: str) -> bool:
        lines = ["(?:.*\n)*" if line == "..." else re.escape(_settled(line)) + "\n" for line in self.expected]
        return re.fullmatch("".join(lines), _settled(printed)) is not None


def commands(document: Path) -> list[Command]:
    """Every command of a document's ``console`` blocks, in order."""
    found: list[Command] = []
    for _, content in blocks(document, "console"):
        for line in content.splitlines():
            if line.startswith("$ "):
                found.append(Command(line[2:]))
            elif line.startswith("> ") and not found[-1].expected:
                found[-1].text += "\n" + line[2:]
            else:
                found[-1].expected.append(line)
    return found


def run_commands(given: list[Command], environment: dict[str, str], folder: Path) -> list[str]:
    """Run the commands one after the other in one shell; what each printed, standard error included."""
    script = "".join(f"{command.text}\necho; echo '{MARK.format(n)}'\n" for n, command in enumerate(given))
    done = subprocess.run(
        ["bash"],
        input=script,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=environment,
        cwd=folder,
        text=True,
        timeout=100,
        check=False,
    )
    printed: list[str] = []
    rest = done.stdout
    for number in range(len(given)):
        output, found, rest = rest.partition(f"\n{MARK.format(number)}\n")
        assert found, f"{given[number].text!r} did not end:\n{output}"
        printed.append(output)
    return printed


def _settled(text: str) -> str:
    for pattern, form in _VARYING:
        text = pattern.sub(form, text)
    return text

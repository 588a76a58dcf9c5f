"""The way into the command line: the short way equals the long one, and a shell sees what it expects."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from chimera import __version__
from chimera_cli import entry, hot
from tests.support.command import CHIMERA, begin, chimera
from tests.support.daemon import RunningDaemon

LONG_WAY = """
import sys
from chimera_cli import entry, hot
hot.understand = lambda words: None
entry.main()
"""


def both_ways(*words: str) -> list[tuple[int, bytes, bytes]]:
    """Run the same words by the short way and by the long one; what each gave."""
    assert hot.understand(entry.take_globals(list(words))[2]) is not None, "not understood by the short way"
    ways = ([*CHIMERA, *words], [sys.executable, "-c", LONG_WAY, *words])
    ran = [subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=60) for command in ways]
    return [(done.returncode, done.stdout, done.stderr) for done in ran]


@pytest.fixture
def sessions(daemon: RunningDaemon) -> RunningDaemon:
    with daemon.connect() as connection:
        for flavour in ("mink", "otter", "stoat"):
            connection.call(
                "sessions.create", session_id=f"{flavour}-1", flavour=flavour, prompt="ä\x1b[2J €", model="m1"
            )
    return daemon


@pytest.mark.parametrize(
    "words",
    [
        "sessions list",
        "sessions list --json",
        "sessions list --limit 2",
        "sessions list --limit 0 --json",
        "sessions list --model m1",
        "sessions list --model nobody",
        "--home {home} sessions list",
        "sessions --home={home} list",
        "append mink-1 not-json",
        "append mink-1 []",
        "append mink-1 {}",
        "append mink-1 --type NO {}",
        'append mink-1 {"type":"a","id":"one"} --seq',
        'append mink-1 --type a {"x":1} --buffered',
        "append nobody-1 --type a {}",
        "append ../up --type a {}",
        "--version",
    ],
)
def test_the_short_way_and_the_long_way_print_the_same(sessions: RunningDaemon, words: str) -> None:
    short, long = both_ways(*[word.replace("{home}", str(sessions.home)) for word in words.split()])
    assert short == long
    assert short[1] + short[2] or "append" in words


def test_the_status_is_the_same_both_ways_without_a_daemon(home: Path) -> None:
    for words in (("daemon", "status"), ("daemon", "status", "--json")):
        short, long = both_ways(*words)
        assert short == long
        assert short[0] == 1


@pytest.mark.parametrize(
    "words",
    [
        "",
        "sessions",
        "sessions list extra",
        "sessions list --limit",
        "sessions list --limit -1",
        "sessions list --limit=3",
        "sessions list --limit ٣",
        "sessions list --lim 3",
        "sessions list -h",
        "sessions show x",
        "append",
        "append a b c",
        "append -- a",
        "append a --type --seq",
        "append a --help",
        "daemon status now",
        "daemon stop",
        "rpc daemon.hello",
    ],
)
def test_whatever_could_be_read_in_two_ways_takes_the_long_way(words: str) -> None:
    assert hot.understand(words.split()) is None


def test_options_may_stand_anywhere(daemon: RunningDaemon) -> None:
    orders = (
        ("append", "mink-1", "--type", "a", "{}", "--seq", "--create"),
        ("append", "--seq", "--type", "a", "mink-1", "{}", "--create"),
        ("--home", str(daemon.home), "append", "mink-1", "{}", "--seq", "--create", "--type", "a"),
        ("append", "mink-1", "--seq", "--", '{"type":"a"}'),
    )
    for number, words in enumerate(orders, 1):
        done = chimera(*words)
        assert (done.returncode, done.stdout, done.stderr) == (0, f"{number}\n", ""), words


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (("tial",), "unknown command 'tial'; did you mean 'tail'?"),
        (("--home",), "--home needs a path after it"),
        (("--socket=", "daemon", "status"), "--socket needs a path after it"),
        (("append",), "required: ID"),
        (("sessions", "list", "--nonsense"), "unrecognized arguments: --nonsense"),
        (("daemon", "dance"), "invalid choice: 'dance'"),
    ],
)
def test_wrong_usage_is_one_sentence_and_exit_code_2(home: Path, words: tuple[str, ...], complaint: str) -> None:
    done = chimera(*words)
    assert done.returncode == 2
    assert done.stdout == ""
    assert complaint in done.stderr
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1


def test_help_and_version_go_to_standard_output_and_need_no_daemon(home: Path) -> None:
    assert chimera("--version").stdout == f"chimera {__version__}\n"
    top = chimera("--help")
    assert top.returncode == 0
    assert "examples:" in top.stdout
    for verb in ("daemon", "sessions", "append", "tail", "rpc", "mink", "badger"):
        assert f"\n    {verb} " in top.stdout
    for verb in ("daemon", "append", "tail", "rpc"):
        assert "examples:" in chimera(verb, "--help").stdout
    bare = chimera()
    assert (bare.returncode, bare.stdout) == (2, "")
    assert "examples:" in bare.stderr
    assert not home.exists()


def test_a_closed_pipe_is_quiet(sessions: RunningDaemon) -> None:
    for words in (("sessions", "list"), ("rpc", "rpc.discover"), ("--help",)):
        reader, writer = os.pipe()
        os.close(reader)
        command = begin(*words, stdout=writer)
        os.close(writer)
        assert command.communicate(timeout=60)[1] == b""
        assert command.returncode == 0


def test_a_full_disk_behind_the_output_is_an_error(sessions: RunningDaemon) -> None:
    with open("/dev/full", "wb") as full:
        command = begin("sessions", "list", stdout=full)
        assert command.communicate(timeout=60)[1] == b"error: No space left on device\n"
    assert command.returncode == 1


def test_closed_standard_streams_do_no_harm(sessions: RunningDaemon) -> None:
    line = " ".join(CHIMERA)
    for redirection in (">&-", "2>&-", "<&-"):
        done = subprocess.run(["sh", "-c", f"{line} sessions list {redirection}"], capture_output=True, timeout=60)
        assert (done.returncode, done.stderr) == (0, b""), redirection
    done = subprocess.run(["sh", "-c", f"{line} append mink-1 <&-"], capture_output=True, timeout=60, check=False)
    assert (done.returncode, b"standard input is closed" in done.stderr) == (2, True)
    done = subprocess.run(["sh", "-c", f"{line} append nobody-1 --type a {{}} 2>&-"], capture_output=True, timeout=60)
    assert (done.returncode, done.stdout) == (2, b""), "an error must not turn up among the output"


def test_letters_that_the_terminal_cannot_show_are_escaped(sessions: RunningDaemon) -> None:
    done = chimera("sessions", "list", LC_ALL="C", PYTHONIOENCODING="ascii", PYTHONUTF8="0")
    assert done.returncode == 0
    assert "\\xe4" in done.stdout


def test_a_bug_is_one_sentence_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert entry._report(KeyError("nonsense")) == 1
    assert (
        capsys.readouterr().err == "error: a bug in chimera: KeyError: 'nonsense' (CHIMERA_TRACEBACK=1 shows where)\n"
    )


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, "80 True"),
        ({"COLUMNS": "33"}, "33 True"),
        ({"NO_COLOR": "1"}, "80 False"),
        ({"NO_COLOR": ""}, "80 True"),
        ({"TERM": "dumb"}, "80 False"),
    ],
)
def test_what_the_terminal_is_decides_about_width_and_colour(variables: dict[str, str], expected: str) -> None:
    program = "from chimera_cli import output; print(output.terminal_width(), output.can_colour())"
    ours, theirs = pty.openpty()
    environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "NO_COLOR")}
    subprocess.run([sys.executable, "-c", program], stdout=theirs, env={**environment, "TERM": "xterm", **variables})
    assert os.read(ours, 1000).decode().strip() == expected
    os.close(ours)
    os.close(theirs)
    assert subprocess.check_output([sys.executable, "-c", program]).decode().strip() == "0 False"

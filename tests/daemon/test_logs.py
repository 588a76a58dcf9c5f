"""The daemon's log lines: their three forms, their level, and that no secret is in them."""

from __future__ import annotations

import io
import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from chimerad import logs

log = logging.getLogger("chimerad.test")


@pytest.fixture(autouse=True)
def _logging_as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    for handler in list(root.handlers):
        if handler not in handlers:
            root.removeHandler(handler)
    root.setLevel(level)
    logging.captureWarnings(False)
    for name in ("chimera", "chimerad"):
        logging.getLogger(name).setLevel(logging.NOTSET)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_program_reads_one_json_object_a_line() -> None:
    stream = io.StringIO()
    logs.set_up("info", stream, {})

    log.info("listening on %s", "x.sock", extra={"ctx": {"pid": 7, "path": "a b", "level": "mine"}})
    log.warning("two\nlines")

    first, second = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert first["ts"].endswith("Z")
    del first["ts"]
    assert first == {
        "level": "info",
        "logger": "chimerad.test",
        "message": "listening on x.sock",
        "pid": 7,
        "path": "a b",
        "level_": "mine",
    }
    assert second["message"] == "two\nlines"


def test_a_person_reads_plain_text_and_never_two_lines_for_one_record() -> None:
    stream = Terminal()
    logs.set_up("info", stream, {})

    log.info("started", extra={"ctx": {"pid": 7, "path": "a b"}})
    log.info("a name with\na newline and \x1b[31m")

    first, second = stream.getvalue().splitlines()
    assert first.endswith('info chimerad.test started pid=7 path="a b"')
    assert second.endswith(r"a name with\na newline and \x1b[31m")


def test_journald_gets_priorities_and_no_time_of_ours(tmp_path: Path) -> None:
    with (tmp_path / "log").open("w") as stream:
        status = os.fstat(stream.fileno())
        logs.set_up("debug", stream, {"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"})
        log.error("bad")
        log.debug("small")
        try:
            raise ValueError("why")
        except ValueError:
            log.exception("failed")
    lines = (tmp_path / "log").read_text().splitlines()

    assert lines[:3] == ["<3>error chimerad.test bad", "<7>debug chimerad.test small", "<3>error chimerad.test failed"]
    assert lines[-1] == "<3>ValueError: why"
    assert all(line.startswith("<3>") for line in lines[2:])


def test_a_journal_stream_that_was_only_inherited_is_not_believed(tmp_path: Path) -> None:
    with (tmp_path / "log").open("w") as stream:
        logs.set_up("info", stream, {"JOURNAL_STREAM": "1:2"})
        log.info("x")

    assert json.loads((tmp_path / "log").read_text())["message"] == "x"


def test_secrets_of_the_environment_never_appear() -> None:
    secrets = {
        "ANTHROPIC_API_KEY": "sk-ant-12345",
        "GITHUB_TOKEN": "sk-ant-12345-longer",
        "DB_PASSWORD": "hunter2hunter2",
        "APP_SECRET": "abc",
        "HARMLESS": "plainly shown",
    }
    stream = io.StringIO()
    logs.set_up("info", stream, secrets)

    log.info("token sk-ant-12345-longer", extra={"ctx": {"password": "hunter2hunter2", "kept": "plainly shown abc"}})
    try:
        raise ValueError("sk-ant-12345 in an exception")
    except ValueError:
        log.exception("failed")

    written = stream.getvalue()
    assert "sk-ant" not in written
    assert "longer" not in written
    assert "hunter2" not in written
    assert "plainly shown abc" in written  # too short to be a secret: it would mask half of every word
    assert "ValueError: *** in an exception" in written


def test_the_level_can_change_while_running() -> None:
    stream = io.StringIO()
    logs.set_up("warning", stream, {})
    log.info("unseen")
    logs.set_level("debug")
    log.debug("seen")
    logging.getLogger("somebody.else").info("never")

    assert [json.loads(line)["message"] for line in stream.getvalue().splitlines()] == ["seen"]


def test_setting_up_twice_does_not_write_twice() -> None:
    first, second = io.StringIO(), io.StringIO()
    logs.set_up("info", first, {})
    logs.set_up("info", second, {})

    log.info("once")

    assert first.getvalue() == ""
    assert len(second.getvalue().splitlines()) == 1


def test_a_log_that_cannot_be_written_hurts_nobody() -> None:
    with open("/dev/full", "w", buffering=1) as stream:
        logs.set_up("info", stream, {})
        log.info("no space for this")
        logs.set_up("info", io.StringIO(), {})
        with open("/dev/null", "w") as null:  # so that closing the stream can flush what is left in it
            os.dup2(null.fileno(), stream.fileno())

"""`chimera rpc METHOD [JSON|-]`."""

from __future__ import annotations

import json
import os
import pty
import subprocess
from pathlib import Path

import pytest

from tests.support.command import CHIMERA, chimera
from tests.support.daemon import RunningDaemon


@pytest.fixture(autouse=True)
def session(daemon: RunningDaemon) -> None:
    with daemon.connect() as connection:
        connection.call("sessions.create", session_id="mink-1", prompt="grüße 🦊")


def test_the_result_is_one_line_of_json_in_a_pipe() -> None:
    done = chimera("rpc", "daemon.hello")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("\n") == 1
    assert json.loads(done.stdout)["name"] == "chimerad"


def test_the_result_is_indented_on_a_terminal() -> None:
    ours, theirs = pty.openpty()
    subprocess.run([*CHIMERA, "rpc", "daemon.hello"], stdout=theirs, check=True)
    assert os.read(ours, 10000).startswith(b'{\r\n  "name": "chimerad",\r\n')
    os.close(ours)
    os.close(theirs)


def test_parameters_come_as_an_argument_or_from_standard_input_in_any_form() -> None:
    pretty = '{\n  "session_id":\r\n "mink-1"\n}\n'
    for done in (
        chimera("rpc", "sessions.get", '{"session_id":"mink-1"}'),
        chimera("rpc", "sessions.get", pretty),
        chimera("rpc", "sessions.get", "-", stdin=pretty),
    ):
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["summary"]["prompt"] == "grüße 🦊"


def test_output_is_utf8_where_that_is_understood_and_escaped_elsewhere() -> None:
    assert "grüße 🦊" in chimera("rpc", "sessions.get", '{"session_id":"mink-1"}').stdout
    plain = chimera("rpc", "sessions.get", '{"session_id":"mink-1"}', PYTHONIOENCODING="ascii").stdout
    assert plain.isascii()
    assert json.loads(plain)["summary"]["prompt"] == "grüße 🦊"


def test_metadata_reaches_the_log_as_it_was_written(daemon: RunningDaemon) -> None:
    params = '{"session_id": "mink-1", "events": [{"type": "a", "metadata": {"cost": 1.50, "n": 1e3}}]}'
    assert chimera("rpc", "sessions.append", params).returncode == 0
    assert b'"metadata":{"cost": 1.50, "n": 1e3}' in (daemon.root / "mink-1" / "events.jsonl").read_bytes()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("sessions.get", '{"session_id":"nobody-1"}'), "(session_not_found, -32004)"),
        (("no.such"), "(method_not_found, -32601)"),
        (("sessions.get", "{}"), "(invalid_params, -32602)"),
        (("sessions.get", '{"session_id":"mink-1","colour":1}'), "colour"),
    ],
)
def test_an_error_goes_to_standard_error_with_exit_code_1(words: tuple[str, ...] | str, told: str) -> None:
    done = chimera("rpc", *([words] if isinstance(words, str) else words))
    assert (done.returncode, done.stdout) == (1, "")
    assert told in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "stdin", "told"),
    [
        (("sessions.get", "{"), None, "the parameters cannot be used: it is not JSON: "),
        (("sessions.get", "7"), None, "must be a JSON object"),
        (("sessions.get", '{"limit":NaN}'), None, "NaN is no JSON number"),
        (("sessions.get", "[" * 100000), None, "nested too deeply"),
        (("sessions.get", "-"), b"\xff", "standard input is not UTF-8"),
        (("-",), b"", "the request cannot be used"),
        (("-",), b"7", "a request is an object with a method"),
        (("{}", "{}"), None, "leave the second argument out"),
    ],
)
def test_what_is_no_json_is_wrong_usage(words: tuple[str, ...], stdin: bytes | None, told: str) -> None:
    done = chimera("rpc", *words, stdin=stdin)
    assert (done.returncode, done.stdout) == (2, "")
    assert told in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_batch_works_as_an_argument_and_from_standard_input() -> None:
    batch = '[{"method":"daemon.hello"},\n {"method":"sessions.get","params":{"session_id":"mink-1"},"id":"mine"}]'
    for done in (chimera("rpc", batch), chimera("rpc", "-", stdin=batch)):
        assert (done.returncode, done.stderr) == (0, "")
        first, second = json.loads(done.stdout)
        assert first["result"]["name"] == "chimerad"
        assert (second["id"], second["result"]["session_id"]) == ("mine", "mink-1")


def test_a_batch_with_an_error_prints_every_reply_and_fails() -> None:
    done = chimera("rpc", '[{"method":"no.such"},{"method":"daemon.hello"},7]')
    assert done.returncode == 1
    first, second, third = json.loads(done.stdout)
    assert first["error"]["code"] == -32601
    assert second["result"]["name"] == "chimerad"
    assert third["error"]["code"] == -32600
    empty = chimera("rpc", "[]")
    assert empty.returncode == 1
    assert json.loads(empty.stdout)["error"]["code"] == -32600


def test_a_whole_request_works_too() -> None:
    done = chimera("rpc", '{"method":"sessions.get","params":{"session_id":"mink-1"}}')
    assert json.loads(done.stdout)["session_id"] == "mink-1"
    assert chimera("rpc", '{"method":"sessions.get"}').returncode == 1


def test_a_request_over_the_line_limit_is_refused_here(tmp_path: Path) -> None:
    huge = json.dumps({"session_id": "x" * (17 << 20)})
    done = chimera("rpc", "sessions.get", "-", stdin=huge)
    assert done.returncode == 1
    assert "a line holds at most 16777216" in done.stderr

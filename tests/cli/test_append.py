"""`chimera append ID [--type TYPE] [JSON|-]`."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from chimera_cli.commands import append
from tests.support.command import begin, chimera
from tests.support.daemon import RunningDaemon


@pytest.fixture(autouse=True)
def session(daemon: RunningDaemon) -> None:
    with daemon.connect() as connection:
        connection.call("sessions.create", session_id="mink-1")


def events_of(daemon: RunningDaemon, session_id: str = "mink-1") -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    next_seq: int | None = 1
    with daemon.connect() as connection:
        while next_seq is not None:
            page = connection.call("sessions.read", session_id=session_id, from_seq=next_seq)
            found += page["events"]
            next_seq = page["next_seq"]
    return found


def test_one_event_as_an_argument(daemon: RunningDaemon) -> None:
    done = chimera("append", "mink-1", '{"type":"user_message",\n"metadata":{"content":"hello"}}')
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    done = chimera("append", "mink-1", "--type", "tool_call", '{"tool":"Read","n":1.50}', "--seq")
    assert (done.returncode, done.stdout) == (0, "2\n")
    first, second = events_of(daemon)
    assert (first["type"], first["metadata"]) == ("user_message", {"content": "hello"})
    assert first["id"].startswith("evt-")
    assert second["type"] == "tool_call"
    assert b'"metadata":{"tool":"Read","n":1.50}' in (daemon.root / "mink-1" / "events.jsonl").read_bytes()


def test_lines_of_standard_input_with_and_without_a_type(daemon: RunningDaemon) -> None:
    lines = '{"type":"a","id":"one","metadata":{"x":1}}\n\n  {"id":null,"type":"b"}  \r\n{"type":"c"}'
    done = chimera("append", "mink-1", "--seq", stdin=lines)
    assert (done.returncode, done.stdout, done.stderr) == (0, "1\n2\n3\n", "")
    done = chimera("append", "mink-1", "-", "--type", "d", stdin='{"y":1}\n{}\n')
    assert done.returncode == 0
    events = events_of(daemon)
    assert [event["type"] for event in events] == ["a", "b", "c", "d", "d"]
    assert events[0]["id"] == "one"
    assert len({event["id"] for event in events}) == 5
    assert chimera("append", "mink-1", stdin="").returncode == 0


def test_many_lines_keep_their_order_and_are_sent_in_few_calls(daemon: RunningDaemon) -> None:
    count = 5000
    lines = "".join(f'{{"type":"a","metadata":{{"n":{n},"text":"{"x" * (n % 300)}"}}}}\n' for n in range(count))
    done = chimera("append", "mink-1", "--seq", stdin=lines)
    assert done.stdout == "".join(f"{seq}\n" for seq in range(1, count + 1))
    assert [event["metadata"]["n"] for event in events_of(daemon)] == list(range(count))


def test_events_are_acknowledged_as_they_come_not_at_the_end(daemon: RunningDaemon) -> None:
    command = begin("append", "mink-1", "--type", "a", "--seq", stdin=subprocess.PIPE)
    assert command.stdin is not None
    assert command.stdout is not None
    for seq in (1, 2, 3):
        command.stdin.write(b"{}\n")
        command.stdin.flush()
        assert command.stdout.readline() == f"{seq}\n".encode()
    command.stdin.close()
    assert command.wait(30) == 0
    command.stdout.close()
    assert command.stderr is not None
    command.stderr.close()


@pytest.mark.parametrize(
    ("bad", "told"),
    [
        (b"not json", "line 4: it is not JSON: "),
        (b"[1]", "line 4: an event must be a JSON object"),
        (b'{"metadata":{}}', 'line 4: an event needs a "type"'),
        (b'{"type":"a","metadata":{"n":NaN}}', "line 4: it is not JSON: NaN is no JSON number"),
        (b'{"type":"a","metadata":"\xff"}', "line 4: it is not UTF-8"),
        (b'{"type":"NO"}', "line 4: "),
        (b'{"type":"a","id":"a b"}', "line 4: "),
        (b'{"type":"a","colour":1}', "line 4: "),
        (b'{"type":"a","metadata":7}', "line 4: "),
        (b'{"type":"a","metadata":{"n":99999999999999999999999}}', "line 4: "),
        (b'{"type":"a","parent_id":"nobody"}', "line 4: "),
        (b'{"type":"a","metadata":{"text":"' + b"x" * (9 << 20) + b'"}}', "line 4: "),
    ],
)
def test_a_bad_line_is_named_and_everything_before_it_is_appended(daemon: RunningDaemon, bad: bytes, told: str) -> None:
    good = b'{"type":"good"}\n'
    done = chimera("append", "mink-1", "--seq", stdin=good + b"\n" + good + bad + b"\n" + good * 3)
    assert (done.returncode == 0, done.stdout) == (False, "1\n2\n")
    assert told in done.stderr
    assert done.stderr.count("\n") == 1
    assert [event["type"] for event in events_of(daemon)] == ["good", "good"]


def test_an_id_that_is_known_with_other_content_names_its_line(daemon: RunningDaemon) -> None:
    lines = '{"type":"a","id":"one"}\n{"type":"b"}\n{"type":"c","id":"one"}\n{"type":"d"}\n'
    done = chimera("append", "mink-1", stdin=lines)
    assert done.returncode == 1
    assert done.stderr.startswith("error: line 3: ")
    assert [event["type"] for event in events_of(daemon)] == ["a", "b"]
    again = chimera("append", "mink-1", stdin='{"type":"a","id":"one"}\n')
    assert again.returncode == 0
    assert len(events_of(daemon)) == 2


def test_a_session_that_is_not_there_is_created_on_demand_only(daemon: RunningDaemon) -> None:
    done = chimera("append", "otter-9", "--type", "a", "{}")
    assert done.returncode == 2
    assert "session not found: otter-9" in done.stderr
    for seq in ("1", "2"):
        done = chimera("append", "otter-9", "--create", "--seq", stdin='{"type":"a"}\n')
        assert (done.returncode, done.stdout) == (0, f"{seq}\n")
    assert chimera("append", "my-own-name", "--create", "--type", "a", "{}").returncode == 0
    with daemon.connect() as connection:
        assert connection.call("sessions.get", session_id="otter-9")["summary"]["agent"] == "otter"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("../up", "--type", "a", "{}"), "the session id '../up' begins with a dot"),
        (("mink-1", "--type", "Not A Type", "{}"), "the event type 'Not A Type'"),
        (("mink-1", "--type", "a", "[]"), "the metadata of an event must be a JSON object"),
        (("mink-1", "{}"), 'an event needs a "type"'),
        (("mink-1", "nonsense"), "it is not JSON"),
    ],
)
def test_wrong_usage_is_told_before_anything_is_sent(words: tuple[str, ...], told: str) -> None:
    done = chimera("append", *words)
    assert (done.returncode, done.stdout) == (2, "")
    assert told in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_daemon_that_is_killed_under_a_stream_loses_and_doubles_nothing(daemon: RunningDaemon) -> None:
    """The command starts another daemon and sends what was not acknowledged again."""
    command = begin("append", "mink-1", "--type", "a", "--seq", stdin=subprocess.PIPE)
    assert command.stdin is not None
    assert command.stdout is not None
    command.stdin.write(b'{"n":0}\n')
    command.stdin.flush()
    assert command.stdout.readline() == b"1\n"
    daemon.kill()
    command.stdin.write(b"".join(b'{"n":%d}\n' % n for n in range(1, 1000)))
    output, errors = command.communicate(timeout=60)
    try:
        assert (command.returncode, errors) == (0, b"")
        assert output == b"".join(b"%d\n" % seq for seq in range(2, 1001))
        assert [event["metadata"]["n"] for event in events_of(daemon)] == list(range(1000))
    finally:
        chimera("daemon", "stop")


def test_numbers_that_nobody_reads_do_not_stop_the_journal(daemon: RunningDaemon) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    command = begin("append", "mink-1", "--type", "a", "--seq", stdin=subprocess.PIPE, stdout=writer)
    os.close(writer)
    errors = command.communicate(b"{}\n" * 1000, timeout=60)[1]
    assert (command.returncode, errors) == (0, b"")
    assert len(events_of(daemon)) == 1000


def test_what_waits_in_memory_is_bounded() -> None:
    """Lines are read ahead up to a limit, and go out in calls of a limited size."""

    def chunks() -> Iterator[bytes]:
        line = json.dumps({"type": "a", "metadata": {"text": "x" * 100_000}}).encode() + b"\n"
        while True:
            yield line

    reader, writer = os.pipe()
    lines = append._Lines(reader, None)
    source = chunks()
    os.set_blocking(writer, False)
    sent = b""
    while lines.wants_more():
        sent = sent or next(source)
        sent = sent[os.write(writer, sent) :]
        lines.read()
    assert append.QUEUE_BYTES <= sum(len(event) for _, event in lines.waiting) < append.QUEUE_BYTES + 2 * 256 * 1024
    taken = 0
    while lines.waiting:
        batch = lines.take()
        assert sum(len(event) for _, event in batch) <= append.CALL_BYTES
        assert len(batch) <= append.CALL_EVENTS
        taken += len(batch)
    assert lines.wants_more()
    assert taken == lines._number
    os.close(reader)
    os.close(writer)

"""One call and its answer, over connections that end at every bad moment."""

from __future__ import annotations

import select
import sys
from pathlib import Path

import pytest

from chimera.client import blocking, retry
from chimera.client.blocking import Client
from chimera.errors import (
    ConnectionLost,
    DaemonUnreachable,
    DaemonWedged,
    InvalidParams,
    SeqConflict,
    StorageError,
    TooLarge,
)
from tests.support.canned import CLOSE, CannedDaemon, polite, refusal, reply
from tests.support.daemon import RunningDaemon

APPENDED = {"first_seq": 1, "last_seq": 1, "ids": ["e"], "chain": "0" * 16}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "s"


def failing_first(*answers: object):
    """The first request of the first connection gets these, everything after it a result."""

    def script(request: dict, number: int) -> list[object]:
        if number == 1:
            return list(answers)
        return [reply(request, APPENDED)]

    return polite(script)


def test_a_call_gives_its_result_and_sends_its_parameters(path: Path) -> None:
    with CannedDaemon(path, polite(lambda request, number: [reply(request, request["params"])])) as canned:
        with Client(path, start=False) as client:
            assert client.call("m", session_id="ä", n=1) == {"session_id": "ä", "n": 1}
            assert client.call_raw("m", b'{"n": 1.0}') == {"n": 1.0}
            assert client.connect()["protocol"] == 1
        assert len(canned.connections) == 1


@pytest.mark.parametrize("answers", [(CLOSE,), (b'{"jsonrpc"', CLOSE)], ids=["no answer", "half an answer"])
def test_a_read_is_asked_again_after_a_lost_connection(path: Path, answers: tuple[object, ...]) -> None:
    with CannedDaemon(path, failing_first(*answers)) as canned, Client(path, start=False) as client:
        assert client.call("sessions.list") == APPENDED
        assert len(canned.requests) == 2


def test_a_write_is_not_repeated_when_its_fate_is_unknown(path: Path) -> None:
    with CannedDaemon(path, failing_first(CLOSE)) as canned, Client(path, start=False) as client:
        with pytest.raises(ConnectionLost, match="before it answered"):
            client.call("sessions.create")
        assert len(canned.requests) == 1
        assert client.call("sessions.create") == APPENDED


def test_a_call_on_a_connection_that_ended_meanwhile_is_sent_over_a_new_one(path: Path) -> None:
    with CannedDaemon(path, polite(lambda request, number: [reply(request, number)])) as canned:
        with Client(path, start=False) as client:
            assert client.call("sessions.create") == 1
            canned.hang_up()
            select.select([client], [], [], 10)
            assert client.call("sessions.create") == 2
        assert len(canned.requests) == 2


def test_an_append_whose_answer_was_lost_is_sent_again_with_the_same_ids(path: Path) -> None:
    with CannedDaemon(path, failing_first(CLOSE)) as canned, Client(path, start=False) as client:
        result = client.append("mink-1", [{"type": "a"}, {"type": "b", "id": "mine"}], expect_seq=0)
        assert result == APPENDED
    first, second = canned.requests
    assert first["params"] == second["params"]
    assert first["params"]["expect_seq"] == 0
    ids = [event["id"] for event in first["params"]["events"]]
    assert ids[0].startswith("evt-")
    assert len(ids[0]) == len("evt-") + 16
    assert ids[1] == "mine"


@pytest.mark.parametrize(
    ("code", "kind", "data"),
    [
        (-32001, "overloaded", {}),
        (-32021, "io_error", {"outcome": "unknown"}),
        (-32013, "no_space", {"outcome": "unknown"}),
    ],
)
def test_an_append_is_tried_again_after_errors_that_pass(path: Path, code: int, kind: str, data: dict) -> None:
    refused: list[dict] = []

    def script(request: dict, number: int) -> list[object]:
        if len(refused) < 2:
            refused.append(request)
            return [refusal(request, code, kind, **data)]
        return [reply(request, APPENDED)]

    with CannedDaemon(path, polite(script)) as canned, Client(path, start=False) as client:
        assert client.append("mink-1", [{"type": "a"}]) == APPENDED
        assert [request["params"] for request in canned.requests] == [canned.requests[0]["params"]] * 3


@pytest.mark.parametrize(
    ("code", "kind", "data", "error"),
    [(-32009, "seq_conflict", {"head_seq": 3}, SeqConflict), (-32021, "io_error", {}, StorageError)],
)
def test_an_append_that_was_refused_for_good_is_not_repeated(
    path: Path, code: int, kind: str, data: dict, error: type
) -> None:
    script = polite(lambda request, number: [refusal(request, code, kind, **data)])
    with CannedDaemon(path, script) as canned, Client(path, start=False) as client:
        with pytest.raises(error):
            client.append("mink-1", [{"type": "a"}])
        assert len(canned.requests) == 1


def test_an_append_that_can_never_be_asked_again_says_that_its_fate_is_unknown(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retry, "RETRY_SECONDS", 0.1)
    with CannedDaemon(path, polite(lambda request, number: [])) as canned, Client(path, start=False) as client:
        pending = client.begin_append("mink-1", [{"type": "a"}])
        canned.wait_for_requests(1)
        canned.close()
        with pytest.raises(ConnectionLost, match="same ids") as caught:
            pending.wait()
        assert caught.value.details["outcome"] == "unknown"


def test_an_append_to_a_daemon_that_was_never_there_fails_at_once(path: Path) -> None:
    with Client(path, start=False) as client, pytest.raises(DaemonUnreachable) as caught:
        client.append("mink-1", [{"type": "a"}])
    assert type(caught.value) is DaemonUnreachable


def test_a_daemon_that_stops_answering_is_wedged_after_the_time_limit(path: Path) -> None:
    with CannedDaemon(path, polite(lambda request, number: [])), Client(path, start=False, timeout=0.05) as client:
        with pytest.raises(DaemonWedged, match=r"0\.05 s"):
            client.call("sessions.list")
        assert client.fileno() == -1


def test_too_much_and_what_is_no_json_is_refused_before_anything_is_sent(path: Path) -> None:
    with CannedDaemon(path, polite(lambda request, number: [])) as canned, Client(path, start=False) as client:
        with pytest.raises(TooLarge):
            client.append("mink-1", [{"type": "a", "metadata": {"text": "x" * (16 << 20)}}])
        with pytest.raises(InvalidParams):
            client.append("mink-1", [{"type": "a", "metadata": {"cost": float("nan")}}])
        assert canned.requests == []


def test_a_batch_gives_the_list_of_replies(path: Path) -> None:
    script = polite(lambda batch, number: [[reply(request, request["method"]) for request in batch]])
    with CannedDaemon(path, script), Client(path, start=False) as client:
        batch = [{"jsonrpc": "2.0", "id": n, "method": f"m{n}"} for n in range(3)]
        assert [one["result"] for one in client.send_batch(batch)] == ["m0", "m1", "m2"]


def test_the_blocking_client_loads_little() -> None:
    """Every `chimera` call in a shell pays for what this module imports."""
    import subprocess

    program = "import sys; before = set(sys.modules); import chimera.client.blocking; print(*set(sys.modules) - before)"
    loaded = set(subprocess.check_output([sys.executable, "-I", "-c", program], text=True).split())
    heavy = {"argparse", "asyncio", "dataclasses", "datetime", "inspect", "logging", "msgspec", "pathlib", "socket"}
    heavy |= {"subprocess", "tempfile", "typing", "fcntl", "contextlib", "selectors"}
    # an editable install's finder loads some of these before us, which is why the difference is taken
    assert not loaded & heavy


def test_an_append_survives_a_daemon_that_is_killed_and_adds_nothing_twice(daemon: RunningDaemon) -> None:
    """The answer is lost with the daemon; the client starts another one and asks it with the same ids."""
    with Client(home=daemon.home) as client:
        client.call("sessions.create", session_id="mink-1")
        client.append("mink-1", [{"type": "user_message", "metadata": {"content": "one"}}])
        pending = client.begin_append("mink-1", [{"type": "user_message", "metadata": {"content": "two"}}])
        daemon.kill()
        assert pending.wait()["last_seq"] == 2
        contents = [
            event["metadata"]["content"] for event in client.call("sessions.read", session_id="mink-1")["events"]
        ]
        assert contents == ["one", "two"]
        client.call("daemon.shutdown")
    for process in blocking.discovery._started:
        process.wait(20)

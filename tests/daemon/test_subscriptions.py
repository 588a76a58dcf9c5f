"""Subscriptions: replay, then live, nothing missing and nothing twice; and what happens to who lags (store rule 13)."""

from __future__ import annotations

import json
import select
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.daemon import Connection, RunningDaemon
from tests.support.logs import shape_c
from tests.support.store import (
    LAYOUTS,
    append,
    configure,
    contents_of,
    create,
    event,
    events_of,
    generation_of,
    refusal,
    until_closed,
)


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningDaemon]:
    home = tmp_path_factory.mktemp("subscriptions") / "home"
    configure(home, idle_close_s=0.1, flush_interval_ms=20)
    with (home / "config.toml").open("a") as file:
        file.write("[limits]\nsubscriber_backlog_mib = 1\n")
    running = RunningDaemon(home).wait_ready()
    yield running
    running.kill()


@pytest.fixture
def watcher(daemon: RunningDaemon) -> Iterator[Connection]:
    with daemon.connect() as opened:
        yield opened


def subscribe(watcher: Connection, session_id: str, since: tuple[str, int] | None = None) -> dict[str, Any]:
    params: dict[str, Any] = {"session_id": session_id}
    if since is not None:
        params["since"] = {"generation": since[0], "seq": since[1]}
    return dict(watcher.call("sessions.subscribe", **params))


def next_events(watcher: Connection, count: int) -> list[dict[str, Any]]:
    """The parameters of the next notifications, all of them events."""
    found = []
    for _ in range(count):
        message = watcher.next_notification()
        assert message["method"] == "session.event", message
        found.append(message["params"])
    return found


def seqs(notifications: list[dict[str, Any]]) -> list[int]:
    return [params["event"]["seq"] for params in notifications]


def assert_silent(watcher: Connection) -> None:
    """Nothing was sent up to now: the next thing that comes is the answer to a question."""
    watcher.call("daemon.hello")
    assert watcher.notifications == []


def test_live_events_come_as_they_lie_in_the_log(connection: Connection, watcher: Connection) -> None:
    session_id = create(connection)
    append(connection, session_id, event("before"))
    made = subscribe(watcher, session_id)
    assert made["head_seq"] == 1
    append(connection, session_id, event("one"), event("two"))
    append(connection, session_id, event("three"))
    found = next_events(watcher, 3)
    assert {params["subscription"] for params in found} == {made["subscription"]}
    assert {(params["session_id"], params["generation"]) for params in found} == {(session_id, made["generation"])}
    assert [params["event"] for params in found] == events_of(connection, session_id)[1:]
    assert made["generation"] == generation_of(connection, session_id)


@pytest.mark.parametrize("flavour", LAYOUTS.values(), ids=list(LAYOUTS))
@pytest.mark.parametrize("closed", [False, True])
def test_a_cursor_replays_what_came_behind_it(
    connection: Connection, watcher: Connection, flavour: str, closed: bool
) -> None:
    session_id = create(connection, flavour)
    for start in range(0, 1200, 300):
        append(connection, session_id, *(event(number) for number in range(start, start + 300)))
    if closed:
        until_closed(connection)
    generation = generation_of(connection, session_id)
    subscribe(watcher, session_id, (generation, 0))
    assert seqs(next_events(watcher, 1200)) == list(range(1, 1201))
    subscribe(watcher, session_id, (generation, 1198))
    assert seqs(next_events(watcher, 2)) == [1199, 1200]
    subscribe(watcher, session_id, (generation, 1200))
    assert_silent(watcher)
    append(connection, session_id)
    assert seqs(next_events(watcher, 3)) == [1201] * 3


@pytest.mark.parametrize("cursor", [("f" * 16, 1), (None, 4), (None, 1 << 40)])
def test_a_cursor_of_another_history_replays_from_the_beginning(
    connection: Connection, watcher: Connection, cursor: tuple[str | None, int]
) -> None:
    session_id = create(connection)
    append(connection, session_id, event(1), event(2), event(3))
    generation = generation_of(connection, session_id)
    made = subscribe(watcher, session_id, (cursor[0] or generation, cursor[1]))
    assert (made["generation"], made["head_seq"]) == (generation, 3)
    found = next_events(watcher, 3)
    assert seqs(found) == [1, 2, 3]
    assert {params["generation"] for params in found} == {generation}


@pytest.mark.parametrize("flavour", LAYOUTS.values(), ids=list(LAYOUTS))
def test_replays_meet_live_events_without_gap_or_double(
    daemon: RunningDaemon, connection: Connection, flavour: str
) -> None:
    """Subscribers come, each with another cursor, while two clients append without a pause."""
    session_id = create(connection, flavour)
    append(connection, session_id, *(event("x" * 500) for _ in range(1000)))
    generation = generation_of(connection, session_id)
    cursors = [0, 1, 400, 999, 1000, 1500, 77]
    watchers = []
    with daemon.connect() as other:
        for round_number in range(len(cursors)):
            for one in (connection, other):
                for number in range(20):
                    one.send("sessions.append", session_id=session_id, events=[event(number), event(round_number)])
            watchers.append(daemon.connect())
            subscribe(watchers[-1], session_id, (generation, cursors[round_number]))
        for one in (connection, other):
            for _ in range(20 * len(cursors)):
                assert "result" in one.read_message()
    head = 1000 + 2 * 2 * 20 * len(cursors)
    for opened, cursor in zip(watchers, cursors, strict=True):
        first = cursor + 1 if cursor <= 1000 else 1
        assert seqs(next_events(opened, head - first + 1)) == list(range(first, head + 1))
        assert_silent(opened)
        opened.socket.close()


def test_many_closed_sessions_in_one_batch_are_all_replayed(connection: Connection, watcher: Connection) -> None:
    """More than are kept read: each still gets what it has missed."""
    sessions = [create(connection) for _ in range(40)]
    for session_id in sessions:
        append(connection, session_id, event("one"), event("two"))
    until_closed(connection)
    since = {session_id: {"generation": generation_of(connection, session_id), "seq": 1} for session_id in sessions}
    calls = [
        {
            "jsonrpc": "2.0",
            "id": number,
            "method": "sessions.subscribe",
            "params": {"session_id": one, "since": since[one]},
        }
        for number, one in enumerate(sessions)
    ]
    watcher.send_line(json.dumps(calls).encode())
    replies = watcher.read_message()
    assert all("result" in reply for reply in replies)
    found = next_events(watcher, 40)
    assert {params["session_id"] for params in found} == set(sessions)
    assert set(seqs(found)) == {2}


def test_a_long_replay_is_not_cut_short_by_other_reading(
    daemon: RunningDaemon, connection: Connection, watcher: Connection
) -> None:
    """The log that is replayed falls out of what is kept read, again and again."""
    session_id = create(connection)
    for _ in range(6):
        append(connection, session_id, *(event("x" * 1000) for _ in range(1000)))
    others = [create(connection) for _ in range(20)]
    until_closed(connection)
    generation = generation_of(connection, session_id)
    subscribe(watcher, session_id, (generation, 0))
    with daemon.connect() as reader:
        for number in range(6):
            found = next_events(watcher, 1000)
            assert seqs(found) == list(range(number * 1000 + 1, number * 1000 + 1001))
            for other in others:
                reader.call("sessions.read", session_id=other)
    assert_silent(watcher)


def test_what_others_append_is_sent_too(daemon: RunningDaemon, connection: Connection, watcher: Connection) -> None:
    """A stranger's line has a number of its own: whoever watches gets it before the next of ours."""
    session_id = create(connection)
    append(connection, session_id, event("one"))
    subscribe(watcher, session_id)
    with (daemon.root / session_id / "events.jsonl").open("ab") as file:
        file.write(shape_c(content="theirs") + b"\n")
    while len(events_of(connection, session_id)) < 2:
        select.select([], [], [], 0.01)
    append(connection, session_id, event("two"))
    found = next_events(watcher, 2)
    assert [params["event"]["metadata"]["content"] for params in found] == ["theirs", "two"]
    assert seqs(found) == [2, 3]


def test_a_session_without_a_generation_of_its_own_has_its_first_chain(
    daemon: RunningDaemon, connection: Connection, watcher: Connection
) -> None:
    name = "mink-20260101T000000-0b0b0b0b"
    (daemon.root / name).mkdir()
    made = subscribe(watcher, name)
    assert (made["generation"], made["head_seq"]) == ("", 0)
    chain = append(connection, name, event("one"))["chain"]
    append(connection, name, event("two"))
    found = next_events(watcher, 2)
    assert {params["generation"] for params in found} == {chain}
    subscribe(watcher, name, (chain, 1))
    assert seqs(next_events(watcher, 1)) == [2]


def test_all_sessions_are_watched_under_one_name(connection: Connection, watcher: Connection) -> None:
    made = subscribe(watcher, "*")
    sessions = [create(connection, flavour) for flavour in LAYOUTS.values()]
    for session_id in sessions:
        append(connection, session_id, event("one"), event("two"))
    found = next_events(watcher, 6)
    assert [params["session_id"] for params in found] == [one for one in sessions for _ in range(2)]
    assert seqs(found) == [1, 2] * 3
    assert {params["subscription"] for params in found} == {made["subscription"]}
    assert [params["generation"] for params in found[::2]] == [generation_of(connection, one) for one in sessions]
    error = refusal(watcher, "sessions.subscribe", session_id="*", since={"generation": "x", "seq": 0})
    assert error.code == -32602


def test_one_connection_may_subscribe_often_and_ends_each_by_name(
    daemon: RunningDaemon, connection: Connection, watcher: Connection
) -> None:
    session_id = create(connection)
    first, second, third = (subscribe(watcher, session_id)["subscription"] for _ in range(3))
    assert watcher.call("sessions.unsubscribe", subscription=second) == {"ok": True}
    assert watcher.call("sessions.unsubscribe", subscription=second) == {"ok": False}
    with daemon.connect() as other:
        assert other.call("sessions.unsubscribe", subscription=first) == {"ok": False}
    append(connection, session_id)
    assert {params["subscription"] for params in next_events(watcher, 2)} == {first, third}
    assert_silent(watcher)


def test_a_reply_precedes_the_notifications_that_it_causes(connection: Connection) -> None:
    session_id = create(connection)
    append(connection, session_id, event("one"), event("two"))
    generation = generation_of(connection, session_id)
    request = connection.send("sessions.subscribe", session_id=session_id, since={"generation": generation, "seq": 0})
    messages = [connection.read_message() for _ in range(3)]
    assert messages[0]["id"] == request
    request = connection.send("sessions.append", session_id=session_id, events=[event("three")])
    assert connection.read_message()["id"] == request
    assert connection.read_message()["params"]["event"]["seq"] == 3


def test_who_does_not_read_lags_and_nobody_else(
    daemon: RunningDaemon, connection: Connection, watcher: Connection
) -> None:
    session_id = create(connection)
    with daemon.connect() as lazy:
        made = subscribe(lazy, session_id)
        everything = subscribe(lazy, "*")
        subscribe(watcher, session_id)
        for number in range(60):
            append(connection, session_id, event(f"{number} " + "x" * 100_000))
            assert seqs(next_events(watcher, 1)) == [number + 1]
        got: dict[str, list[int]] = {made["subscription"]: [], everything["subscription"]: []}
        resume = {}
        while len(resume) < 2:
            message = lazy.next_notification()
            name = message["params"]["subscription"]
            if message["method"] == "session.lagged":
                assert message["params"]["session_id"] == session_id
                resume[name] = message["params"]["resume"]
            else:
                got[name].append(message["params"]["event"]["seq"])
        for name, cursor in resume.items():
            assert got[name] == list(range(1, cursor["seq"] + 1))
            assert cursor["seq"] < 60
        cursor = resume[made["subscription"]]
        subscribe(lazy, session_id, (cursor["generation"], cursor["seq"]))
        assert seqs(next_events(lazy, 60 - cursor["seq"])) == list(range(cursor["seq"] + 1, 61))


def test_who_watches_a_deleted_session_is_told(connection: Connection, watcher: Connection) -> None:
    """And gets nothing of a new session of the same name as if it were the old one's."""
    session_id = create(connection)
    append(connection, session_id, event("old one"), event("old two"))
    made = subscribe(watcher, session_id)
    connection.call("sessions.delete", session_id=session_id)
    message = watcher.next_notification()
    assert message["method"] == "session.lagged"
    assert message["params"]["resume"] == {"generation": made["generation"], "seq": 2}
    create(connection, session_id=session_id)
    append(connection, session_id, event("new one"))
    assert_silent(watcher)
    subscribe(watcher, session_id, (made["generation"], 2))
    [params] = next_events(watcher, 1)
    assert (params["event"]["seq"], params["event"]["metadata"]["content"]) == (1, "new one")
    assert params["generation"] != made["generation"]


def test_who_watches_a_removed_session_is_told(
    daemon: RunningDaemon, connection: Connection, watcher: Connection
) -> None:
    session_id = create(connection)
    append(connection, session_id)
    until_closed(connection)
    assert contents_of(connection, session_id) == ["hello"]
    connection.call("sessions.list")
    subscribe(watcher, session_id)
    shutil.rmtree(daemon.root / session_id)
    assert watcher.next_notification()["method"] == "session.lagged"
    assert refusal(watcher, "sessions.subscribe", session_id=session_id).kind == "session_not_found"


def test_a_cursor_holds_over_a_kill(start_daemon: Callable[..., RunningDaemon], home: Path) -> None:
    daemon = start_daemon()
    with daemon.connect() as connection, daemon.connect() as watcher:
        session_id = create(connection)
        subscribe(watcher, session_id)
        for number in range(10):
            append(connection, session_id, event(number))
        [*_, last] = next_events(watcher, 7)
    daemon.kill()
    daemon = start_daemon()
    with daemon.connect() as connection, daemon.connect() as watcher:
        append(connection, session_id, event(10))
        subscribe(watcher, session_id, (last["generation"], last["event"]["seq"]))
        assert seqs(next_events(watcher, 4)) == [8, 9, 10, 11]

"""The life of a session beside its log: made, finished, renamed, thrown away and fetched back (rules 8, 14, 17)."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.daemon import Connection, RunningDaemon
from tests.support.store import (
    LAYOUTS,
    append,
    contents_of,
    create,
    event,
    events_of,
    foreign_session,
    problems_of,
    refusal,
    replies_of,
    summary_of,
)


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningDaemon]:
    running = RunningDaemon(tmp_path_factory.mktemp("life") / "home").wait_ready()
    yield running
    running.kill()


def ledger_of(daemon: RunningDaemon, session_id: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (daemon.root / ".ledger.jsonl").read_bytes().splitlines()]
    return [line for line in lines if line["session_id"] == session_id]


# -- create


@pytest.mark.parametrize(("layout", "flavour"), LAYOUTS.items())
def test_a_new_session_is_there_with_its_summary(
    daemon: RunningDaemon, connection: Connection, layout: str, flavour: str
) -> None:
    made = connection.call("sessions.create", flavour=flavour, prompt="p", title="t", model="m", cwd="/w", tags=["a"])
    assert made["path"] == str(daemon.root / made["session_id"])
    assert os.listdir(made["path"]) == ["summary.json"]
    summary = summary_of(daemon.root, made["session_id"])
    given = {"prompt": "p", "title": "t", "model": "m", "cwd": "/w", "tags": ["a"], "agent": flavour, "layout": layout}
    assert given.items() <= summary.items()
    assert (summary["ended_at"], summary["success"], summary["state"]) == ("", False, "open")
    assert summary["generation"] == made["generation"]
    assert [name for name in os.listdir(daemon.root) if name.startswith(".new-")] == []


def test_a_repeated_create_of_an_empty_session_answers_the_same(connection: Connection) -> None:
    name = "mink-20260101T000000-0000aaaa"
    made = connection.call("sessions.create", session_id=name)
    assert connection.call("sessions.create", session_id=name) == made
    append(connection, name)
    error = refusal(connection, "sessions.create", session_id=name)
    assert (error.code, error.kind) == (-32020, "session_exists")
    assert len(events_of(connection, name)) == 1


def test_of_many_creates_at_once_all_get_the_same_session(daemon: RunningDaemon) -> None:
    name = "mink-20260101T000000-0000bbbb"
    connections = [daemon.connect() for _ in range(8)]
    sent = [(one, one.send("sessions.create", session_id=name)) for one in connections]
    answers = [one.wait_reply(request) for one, request in sent]
    assert answers == [answers[0]] * 8
    for one in connections:
        one.socket.close()


@pytest.mark.parametrize(
    ("params", "kind"),
    [
        ({"session_id": ".hidden"}, "invalid_id"),
        ({"session_id": "a/b"}, "invalid_id"),
        ({"session_id": "x" * 201}, "invalid_id"),
        ({"flavour": "poodle"}, "invalid_params"),
        ({"layout": "packed"}, "invalid_params"),
        ({"layout": "tar"}, "invalid_params"),
    ],
)
def test_a_session_that_cannot_be_is_refused(connection: Connection, params: dict[str, str], kind: str) -> None:
    assert refusal(connection, "sessions.create", **params).kind == kind


def test_a_folder_of_somebody_else_is_not_taken_over(daemon: RunningDaemon, connection: Connection) -> None:
    (daemon.root / "mink-20260101T000000-0000cccc").mkdir()
    error = refusal(connection, "sessions.create", session_id="mink-20260101T000000-0000cccc")
    assert error.kind == "session_exists"
    assert os.listdir(daemon.root / "mink-20260101T000000-0000cccc") in ([], [".lock"])


def test_what_a_crash_left_half_made_is_removed_at_the_start(
    home: Path, start_daemon: Callable[..., RunningDaemon]
) -> None:
    root = home / "eventlog"
    (root / ".new-0123456789abcdef").mkdir(parents=True)
    (root / ".new-0123456789abcdef" / "summary.json").write_text("{}")
    (root / ".trash" / ".purging-mink-x.00000000").mkdir(parents=True)
    (root / ".trash" / "mink-y.00000000.json").write_text("{}")
    daemon = start_daemon()
    assert not [name for name in os.listdir(root) if name.startswith(".new-")]
    assert os.listdir(root / ".trash") == []
    with daemon.connect() as connection:
        assert connection.call("trash.list")["items"] == []


# -- finish


def test_finish_takes_what_is_given_and_counts_the_rest(daemon: RunningDaemon, connection: Connection) -> None:
    session_id = create(connection, prompt="")
    append(connection, session_id, event("the prompt"), event("x", "tool_call"), event("x", "tool_call"))
    last = append(connection, session_id, event("x", "step_end"))
    given = {"success": True, "cost_usd": 0.25, "input_tokens": 10, "output_tokens": 5}
    summary = connection.call("sessions.finish", session_id=session_id, summary=given)["summary"]
    assert summary == summary_of(daemon.root, session_id)
    assert summary["ended_at"] > summary["started_at"] or summary["ended_at"] == summary["started_at"]
    assert (summary["prompt"], summary["tool_calls_total"], summary["success"]) == ("the prompt", 2, True)
    assert (summary["cost_usd"], summary["cost_source"], summary["total_tokens"]) == (0.25, "provider", 15)
    assert (summary["events"], summary["chain"], summary["state"]) == (4, last["chain"], "finished")


def test_finish_comes_behind_the_appends_before_it(daemon: RunningDaemon, connection: Connection) -> None:
    session_id = create(connection)
    sent = [connection.send("sessions.append", session_id=session_id, events=[event(n)]) for n in range(50)]
    sent.append(connection.send("sessions.finish", session_id=session_id, summary={"success": True}))
    replies = replies_of(connection, sent)
    assert replies[-1]["result"]["summary"]["events"] == 50
    assert append(connection, session_id)["first_seq"] == 51


# -- rename, tag, pin: unknown keys are kept, and the ledger knows how it was


def test_every_change_can_be_taken_back_from_the_ledger(daemon: RunningDaemon, connection: Connection) -> None:
    session_id = create(connection, title="first", tags=["a"])
    before = summary_of(daemon.root, session_id)
    assert connection.call("sessions.rename", session_id=session_id, title="second")["title"] == "second"
    assert connection.call("sessions.rename", session_id=session_id, title="")["title"] is None
    assert connection.call("sessions.tag", session_id=session_id, add=["b", "c"], remove=["a"])["tags"] == ["b", "c"]
    assert connection.call("sessions.pin", session_id=session_id)["pinned"] is True
    assert "title" not in summary_of(daemon.root, session_id)
    for line in reversed(ledger_of(daemon, session_id)):
        if line["action"] == "rename":
            connection.call("sessions.rename", session_id=session_id, title=line["before"] or "")
        elif line["action"] == "tag":
            there = line["after"]["tags"]
            connection.call("sessions.tag", session_id=session_id, add=line["before"]["tags"], remove=there)
        elif line["action"] == "pin":
            connection.call("sessions.pin", session_id=session_id, pinned=bool(line["before"]["pinned"]))
    assert summary_of(daemon.root, session_id) == before


def test_keys_that_we_do_not_know_are_kept_in_their_place(daemon: RunningDaemon, connection: Connection) -> None:
    session_id = create(connection)
    path = daemon.root / session_id / "summary.json"
    summary = {"theirs": {"deep": [1.50, "ä"]}, **summary_of(daemon.root, session_id), "last": None}
    path.write_text(json.dumps(summary))
    connection.call("sessions.rename", session_id=session_id, title="t")
    connection.call("sessions.tag", session_id=session_id, add=["x"])
    connection.call("sessions.pin", session_id=session_id)
    connection.call("sessions.finish", session_id=session_id, summary={"success": False, "error": "e"})
    changed = summary_of(daemon.root, session_id)
    assert (changed["theirs"], changed["last"]) == (summary["theirs"], None)
    assert [key for key in changed if key in summary] == list(summary)


@pytest.mark.parametrize(
    ("summary", "kind"), [(None, "no_summary"), ("{broken", "malformed_summary"), ("[]", "malformed_summary")]
)
def test_a_missing_or_malformed_summary_is_never_replaced(
    daemon: RunningDaemon, connection: Connection, summary: str | None, kind: str
) -> None:
    folder = foreign_session(daemon.root, f"mink-20260101T000000-{abs(hash(summary)) % 10**8:08d}", summary)
    session_id = folder.name
    for method, params in (
        ("sessions.rename", {"title": "t"}),
        ("sessions.tag", {"add": ["x"]}),
        ("sessions.pin", {}),
        ("sessions.finish", {"summary": {"success": True}}),
    ):
        assert refusal(connection, method, session_id=session_id, **params).kind == kind
    assert append(connection, session_id)["first_seq"] == 2
    path = folder / "summary.json"
    assert (path.read_text() if path.exists() else None) == summary


def test_a_session_that_another_program_writes_is_left_alone(daemon: RunningDaemon, connection: Connection) -> None:
    session_id = create(connection)
    with (daemon.root / session_id / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for method, params in (("sessions.rename", {"title": "t"}), ("sessions.delete", {})):
            error = refusal(connection, method, session_id=session_id, **params)
            assert (error.code, error.kind) == (-32018, "locked")
            assert str(os.getpid()) in error.message
    assert connection.call("sessions.rename", session_id=session_id, title="t")["title"] == "t"


# -- delete, restore, purge


@pytest.mark.parametrize("flavour", LAYOUTS.values(), ids=list(LAYOUTS))
@pytest.mark.parametrize("is_open", [True, False])
def test_a_deleted_session_comes_back_as_it_was(
    daemon: RunningDaemon, connection: Connection, flavour: str, is_open: bool
) -> None:
    session_id = create(connection, flavour, title="t")
    append(connection, session_id, event("one"), event("two"))
    if not is_open:
        connection.call(
            "sessions.restore", trash_id=connection.call("sessions.delete", session_id=session_id)["trash_id"]
        )
    before = connection.call("sessions.get", session_id=session_id, events=True)
    trash_id = connection.call("sessions.delete", session_id=session_id)["trash_id"]
    for method, params in (
        ("sessions.read", {}),
        ("sessions.get", {}),
        ("sessions.delete", {}),
        ("sessions.append", {"events": [event()]}),
    ):
        assert refusal(connection, method, session_id=session_id, **params).kind == "session_not_found"
    [item] = [one for one in connection.call("trash.list")["items"] if one["trash_id"] == trash_id]
    assert (item["session_id"], item["title"]) == (session_id, "t")
    assert connection.call("sessions.restore", trash_id=trash_id)["session_id"] == session_id
    assert connection.call("sessions.get", session_id=session_id, events=True) == before
    assert append(connection, session_id, event("three"))["first_seq"] == 3
    assert problems_of(connection, session_id) == []
    assert refusal(connection, "sessions.restore", trash_id=trash_id).kind == "session_not_found"


def test_appends_before_a_delete_are_in_the_trash_and_those_behind_it_are_refused(connection: Connection) -> None:
    session_id = create(connection)
    sent = [connection.send("sessions.append", session_id=session_id, events=[event(n)]) for n in range(30)]
    sent.append(connection.send("sessions.delete", session_id=session_id))
    sent += [connection.send("sessions.append", session_id=session_id, events=[event("late")]) for _ in range(3)]
    replies = replies_of(connection, sent)
    assert {reply["error"]["data"]["kind"] for reply in replies[31:]} == {"session_not_found"}
    connection.call("sessions.restore", trash_id=replies[30]["result"]["trash_id"])
    assert contents_of(connection, session_id) == list(range(30))


def test_two_sessions_of_one_name_lie_in_the_trash_side_by_side(connection: Connection) -> None:
    name = "mink-20260101T000000-0000dddd"
    trash_ids = []
    for text in ("first", "second"):
        create(connection, session_id=name)
        append(connection, name, event(text))
        trash_ids.append(connection.call("sessions.delete", session_id=name)["trash_id"])
    connection.call("sessions.restore", trash_id=trash_ids[0])
    assert contents_of(connection, name) == ["first"]
    error = refusal(connection, "sessions.restore", trash_id=trash_ids[1])
    assert (error.code, error.kind) == (-32020, "session_exists")
    connection.call("sessions.delete", session_id=name)
    connection.call("sessions.restore", trash_id=trash_ids[1])
    assert contents_of(connection, name) == ["second"]


def test_one_of_many_restores_at_once_succeeds(daemon: RunningDaemon, connection: Connection) -> None:
    session_id = create(connection)
    trash_id = connection.call("sessions.delete", session_id=session_id)["trash_id"]
    connections = [daemon.connect() for _ in range(6)]
    for one in connections:
        one.send("sessions.restore", trash_id=trash_id)
    replies = [one.read_message() for one in connections]
    assert len([reply for reply in replies if "result" in reply]) == 1
    assert {reply["error"]["data"]["kind"] for reply in replies if "error" in reply} == {"session_not_found"}
    for one in connections:
        one.socket.close()


def test_the_longest_name_can_be_restored_too(connection: Connection) -> None:
    name = "mink-" + "ä" * 97
    assert len(name.encode()) == 199
    create(connection, session_id=name)
    append(connection, name)
    trash_id = connection.call("sessions.delete", session_id=name)["trash_id"]
    assert connection.call("sessions.restore", trash_id=trash_id)["session_id"] == name
    assert len(events_of(connection, name)) == 1


def test_a_purge_erases_and_the_costs_stay_in_the_ledger(daemon: RunningDaemon, connection: Connection) -> None:
    kept, gone = create(connection), create(connection)
    connection.call("sessions.finish", session_id=gone, summary={"success": True, "cost_usd": 1.5, "model": "m"})
    append(connection, gone, event("x" * 1000))
    ids = {one: connection.call("sessions.delete", session_id=one)["trash_id"] for one in (kept, gone)}
    answer = connection.call("trash.purge", trash_id=ids[gone])
    assert answer["purged"] == [ids[gone]]
    assert answer["bytes"] > 1000
    assert refusal(connection, "sessions.restore", trash_id=ids[gone]).kind == "session_not_found"
    assert refusal(connection, "trash.purge", trash_id=ids[gone]).kind == "session_not_found"
    assert ids[gone] not in "".join(os.listdir(daemon.root / ".trash"))
    [*_, line] = ledger_of(daemon, gone)
    assert (line["action"], line["summary"]["cost_microdollars"], line["summary"]["model"]) == ("purge", 1_500_000, "m")
    assert connection.call("trash.purge", older_than="1h")["purged"] == []
    assert ids[kept] in connection.call("trash.purge")["purged"]
    assert connection.call("trash.list")["items"] == []


def test_a_manifest_written_by_hand_leads_nowhere(
    daemon: RunningDaemon, connection: Connection, tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    trash = daemon.root / ".trash"
    trash.mkdir(exist_ok=True)
    evil = os.path.relpath(outside, trash)
    (trash / "mink-evil.00000000").mkdir()
    (trash / "mink-evil.00000000.json").write_text(
        json.dumps({"trash_id": evil, "session_id": f"../{evil}", "deleted_at": "2020-01-01T00:00:00Z"})
    )
    [item] = [one for one in connection.call("trash.list")["items"] if "evil" in one["trash_id"]]
    assert (item["trash_id"], item["session_id"]) == ("mink-evil.00000000", "mink-evil")
    assert connection.call("trash.purge")["purged"] == ["mink-evil.00000000"]
    assert outside.is_dir()


# -- beside other calls


@pytest.mark.parametrize("flavour", LAYOUTS.values(), ids=list(LAYOUTS))
def test_who_reads_while_it_comes_and_goes_reads_all_or_is_told(
    daemon: RunningDaemon, connection: Connection, flavour: str
) -> None:
    session_id = create(connection, flavour)
    append(connection, session_id, *(event(number) for number in range(20)))
    kinds: set[str] = set()
    with daemon.connect() as reader:
        for _ in range(40):
            sent = [
                reader.send(method, session_id=session_id, **params)
                for method, params in (
                    ("sessions.read", {}),
                    ("sessions.get", {"events": True}),
                    ("sessions.verify", {}),
                    ("sessions.read", {"from_seq": 20}),
                )
            ]
            trash_id = connection.call("sessions.delete", session_id=session_id)["trash_id"]
            connection.call("sessions.restore", trash_id=trash_id)
            for reply in replies_of(reader, sent):
                if "error" in reply:
                    kinds.add(reply["error"]["data"]["kind"])
                else:
                    assert len(reply["result"].get("events", [0])) in (1, 20) or reply["result"]["events"] == 20
    assert kinds <= {"session_not_found"}


def test_a_session_folder_that_is_removed_leaves_the_list(daemon: RunningDaemon, connection: Connection) -> None:
    session_id = create(connection, title="to be removed")
    assert session_id in [one["session_id"] for one in connection.call("sessions.list", limit=0)["sessions"]]
    shutil.rmtree(daemon.root / session_id)
    while session_id in [one["session_id"] for one in connection.call("sessions.list", limit=0)["sessions"]]:
        pass
    assert refusal(connection, "sessions.delete", session_id=session_id).kind == "session_not_found"

"""``context.*`` over a real socket: what the model sees, shortened, taken back and done again, with its files."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from chimera import paths
from chimera.blobs import BlobStore
from chimera.core.file_tracker import FileTracker
from tests.support.daemon import Connection, RpcError, RunningDaemon
from tests.support.files import write_session
from tests.support.logs import our_records, shape_a, shape_b, write_ours
from tests.support.store import append, create, event, events_of, foreign_session, problems_of, refusal

Start = Callable[..., RunningDaemon]
Tool = Callable[[Path, str | None], None]


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningDaemon]:
    running = RunningDaemon(tmp_path_factory.mktemp("context") / "home").wait_ready()
    yield running
    running.kill()


@pytest.fixture
def session_id(connection: Connection) -> str:
    made = create(connection)
    talk(connection, made, *range(12))
    return made


@pytest.fixture
def work(tmp_path: Path) -> Path:
    folder = tmp_path / "work"
    folder.mkdir()
    return folder


@pytest.fixture
def tool(daemon: RunningDaemon, connection: Connection, session_id: str) -> Tool:
    """A turn in which a tool writes this file, or with None removes it."""

    def use(path: Path, text: str | None) -> None:
        blobs = BlobStore(paths.blobs_folder(str(daemon.root / session_id)))
        with FileTracker(blobs, str(path.parent)).writing(path) as accesses:
            if text is None:
                path.unlink()
            else:
                path.write_text(text)
        written = [{"type": "file_access", "metadata": one.to_metadata()} for one in accesses]
        append(connection, session_id, event(f"write {path.name}"), *written, answer("written"))

    return use


def answer(output: str) -> dict[str, Any]:
    return {"type": "agent_result", "metadata": {"output": output, "success": True}}


def talk(connection: Connection, session_id: str, *numbers: int) -> None:
    """A turn of some hundred tokens for each."""
    turns = [(event(f"question {number} " + "why " * 100), answer(f"answer {number}. " * 50)) for number in numbers]
    append(connection, session_id, *[one for turn in turns for one in turn])


def seen(connection: Connection, session_id: str, **params: Any) -> list[dict[str, Any]]:
    """The messages of all pages."""
    page = connection.call("context.messages", session_id=session_id, **params)
    found = list(page["messages"])
    while page["next_cursor"] is not None:
        page = connection.call("context.messages", session_id=session_id, cursor=page["next_cursor"], **params)
        found += page["messages"]
    return found


def compact(connection: Connection, session_id: str, **params: Any) -> dict[str, Any]:
    return dict(connection.call("context.compact", session_id=session_id, **params))


def undo(connection: Connection, session_id: str, **params: Any) -> dict[str, Any]:
    return dict(connection.call("context.undo", session_id=session_id, **params))


def redo(connection: Connection, session_id: str, **params: Any) -> dict[str, Any]:
    return dict(connection.call("context.redo", session_id=session_id, **params))


# -- messages


def test_a_log_with_steps_gives_text_calls_and_results_once_each(connection: Connection) -> None:
    session_id = create(connection)
    call = {"call_id": "c1", "tool": "Read", "args": {"path": "a"}}
    append(
        connection,
        session_id,
        event("what is in a?"),
        {"type": "step_start", "metadata": {"step": 1}},
        {"type": "text_delta", "metadata": {"text": "I look.", "step": 1, "offset": 0}},
        {"type": "tool_call", "metadata": call},
        {"type": "step_end", "metadata": {"step": 1}},
        {"type": "tool_result", "metadata": {"call_id": "c1", "tool": "Read", "result": "hello"}},
        {"type": "step_start", "metadata": {"step": 2}},
        {"type": "text_delta", "metadata": {"text": "It says hello.", "step": 2, "offset": 0}},
        {"type": "step_end", "metadata": {"step": 2}},
        answer("It says hello."),
    )
    found = seen(connection, session_id)
    assert [(one["role"], one["content"]) for one in found] == [
        ("user", "what is in a?"),
        ("assistant", "I look."),
        ("tool", "hello"),
        ("assistant", "It says hello."),
    ]
    assert found[1]["tool_calls"] == [{"id": "c1", "name": "Read", "arguments": {"path": "a"}}]
    assert found[2]["call_id"] == "c1"
    assert all(one["event_id"] for one in found)


def test_the_context_at_an_earlier_event_ends_there(connection: Connection, session_id: str) -> None:
    found = seen(connection, session_id)
    assert seen(connection, session_id, leaf=found[3]["event_id"]) == found[:4]


def test_a_context_over_8_mib_comes_in_pages_with_nothing_missing_or_twice(connection: Connection) -> None:
    session_id = create(connection)
    contents = [f"{number} " + "x" * (2 << 20) for number in range(11)]
    for content in contents:
        append(connection, session_id, event(content))
    first = connection.call("context.messages", session_id=session_id)
    assert len(json.dumps(first)) < (9 << 20)
    assert first["next_cursor"] is not None
    second = connection.call("context.messages", session_id=session_id, cursor=first["next_cursor"])
    assert second["tokens"] == first["tokens"]
    assert [one["content"] for one in seen(connection, session_id)] == contents


def test_twenty_thousand_events_are_seen_shortened_and_restored(connection: Connection) -> None:
    session_id = create(connection)
    for start in range(0, 20_000, 2000):
        append(connection, session_id, *[event(f"message {number}") for number in range(start, start + 2000)])
    before = seen(connection, session_id)
    assert [one["content"] for one in before] == [f"message {number}" for number in range(20_000)]
    done = compact(connection, session_id)
    assert (done["seq"], len(done["kept"]) + len(done["dropped"])) == (20_001, 20_000)
    assert len(seen(connection, session_id)) == len(done["kept"]) + 1
    undo(connection, session_id)
    assert seen(connection, session_id) == before


@pytest.mark.parametrize(
    ("layout", "events"),
    [
        ("stoat", [json.dumps({"type": "user_message", "metadata": {"content": "hi"}}).encode(),
                   json.dumps({"type": "agent_result", "metadata": {"output": "there"}}).encode()]),
        ("otter", [shape_b("e-1", "user_message", content="hi"), shape_b("e-2", "agent_result", output="there")]),
        ("badger", [shape_a(0, "e-1", content="hi"), shape_a(1, "e-2", "agent_result", output="there")]),
    ],
)  # fmt: skip
def test_logs_of_older_writers_give_question_and_answer(
    daemon: RunningDaemon, connection: Connection, layout: str, events: list[bytes]
) -> None:
    folder = daemon.root / f"{layout}-20260101T000000-0000aaaa"
    folder.mkdir()
    for number, body in enumerate(events):
        (folder / f"event-{number:06d}-e-{number}.json").write_bytes(body)
    found = seen(connection, folder.name)
    assert [(one["role"], one["content"]) for one in found] == [("user", "hi"), ("assistant", "there")]


def test_a_foreign_session_has_a_context_and_reading_it_leaves_its_folder_alone(
    daemon: RunningDaemon, connection: Connection
) -> None:
    folder = foreign_session(daemon.root, "mink-20260101T000000-0000bbbb", None)
    assert [(one["role"], one["content"]) for one in seen(connection, folder.name)] == [("user", "theirs")]
    typed = write_session(daemon.root, "weasel-20260101T000000-0000cccc", events=("user_message", "text_delta"))
    assert [one["role"] for one in seen(connection, typed.name)] == ["user"]
    assert [path.name for path in folder.iterdir()] == ["events.jsonl"]


# -- compaction


def test_a_dry_run_says_what_would_go_and_changes_nothing(connection: Connection, session_id: str) -> None:
    before, events = seen(connection, session_id), events_of(connection, session_id)
    planned = compact(connection, session_id, dry_run=True)
    assert planned["tokens_after"] < planned["tokens_before"]
    assert planned["dropped"] + planned["kept"] == [one["event_id"] for one in before]
    assert "question 0" in planned["summary"]
    assert "seq" not in planned
    assert (seen(connection, session_id), events_of(connection, session_id)) == (before, events)


def test_a_compaction_does_what_its_dry_run_said_in_one_event(connection: Connection, session_id: str) -> None:
    before, events = seen(connection, session_id), events_of(connection, session_id)
    planned = compact(connection, session_id, dry_run=True)
    done = compact(connection, session_id)
    assert {**planned, "seq": len(events) + 1} == done
    after = seen(connection, session_id)
    assert (after[0]["role"], after[0]["synthetic"]) == ("user", True)
    assert after[0]["content"].endswith(done["summary"])
    assert after[1:] == before[-len(done["kept"]) :]
    page = connection.call("context.messages", session_id=session_id)
    assert page["tokens"] == done["tokens_after"]
    assert events_of(connection, session_id)[:-1] == events


def test_where_there_is_nothing_to_gain_nothing_is_recorded(connection: Connection) -> None:
    session_id = create(connection)
    append(connection, session_id)
    done = compact(connection, session_id)
    assert (done["tokens_before"], done["dropped"], done["summary"]) == (done["tokens_after"], [], "")
    assert "seq" not in done
    assert len(events_of(connection, session_id)) == 1
    assert compact(connection, create(connection))["kept"] == []


def test_compactions_on_top_of_each_other_are_undone_one_by_one_and_redone(
    connection: Connection, session_id: str
) -> None:
    stages = [seen(connection, session_id)]
    for round_number in range(1, 4):
        compact(connection, session_id)
        stages.append(seen(connection, session_id))
        talk(connection, session_id, round_number * 100)
        stages.append(seen(connection, session_id))
    for stage in reversed(stages[:-1]):
        assert len(undo(connection, session_id)["undone"]) >= 1
        assert seen(connection, session_id) == stage
    for stage in stages[1:]:
        redo(connection, session_id)
        assert seen(connection, session_id) == stage
    undo(connection, session_id, count=len(stages) - 1)
    assert seen(connection, session_id) == stages[0]
    redo(connection, session_id, count=1000)
    assert seen(connection, session_id) == stages[-1]
    assert problems_of(connection, session_id) == []


def test_a_compaction_belongs_to_its_branch(connection: Connection, session_id: str) -> None:
    whole = seen(connection, session_id)
    connection.call("tree.branch", session_id=session_id, name="short")
    compact(connection, session_id)
    short = seen(connection, session_id)
    connection.call("tree.switch", session_id=session_id, to="main")
    assert seen(connection, session_id) == whole
    compact(connection, session_id)
    undo(connection, session_id)
    assert seen(connection, session_id) == whole
    connection.call("tree.switch", session_id=session_id, to="short")
    assert seen(connection, session_id) == short
    undo(connection, session_id)
    assert connection.call("tree.show", session_id=session_id)["current"] == "main"
    assert seen(connection, session_id) == whole


@pytest.mark.parametrize("ending", ["kill", "stop"])
def test_compactions_and_undos_survive_the_daemon(start_daemon: Start, ending: str) -> None:
    daemon = start_daemon()
    with daemon.connect() as connection:
        session_id = create(connection, "ferret")
        talk(connection, session_id, *range(12))
        whole = seen(connection, session_id)
        compact(connection, session_id)
        short = seen(connection, session_id)
        talk(connection, session_id, 99)
        undo(connection, session_id)
    getattr(daemon, ending)()
    with start_daemon().connect() as connection:
        assert seen(connection, session_id) == short
        assert len(redo(connection, session_id)["undone"]) == 1
        assert "question 99" in seen(connection, session_id)[-2]["content"]
        undo(connection, session_id, count=2)
        assert seen(connection, session_id) == whole


# -- undo and redo


def test_an_undo_takes_back_a_turn_and_names_what_it_left_behind(connection: Connection, session_id: str) -> None:
    before, events = seen(connection, session_id), events_of(connection, session_id)
    talk(connection, session_id, 99)
    left = [one["id"] for one in events_of(connection, session_id)[len(events) :]]
    after = seen(connection, session_id)
    assert undo(connection, session_id, dry_run=True)["undone"] == left
    assert seen(connection, session_id) == after
    assert undo(connection, session_id) == {"undone": left, "files": {"restored": [], "conflicts": []}}
    assert seen(connection, session_id) == before
    redo(connection, session_id)
    assert seen(connection, session_id) == after


def test_an_undone_switch_is_back_on_the_branch_it_left(connection: Connection, session_id: str) -> None:
    third = seen(connection, session_id)[2]["event_id"]
    whole = seen(connection, session_id)
    connection.call("tree.switch", session_id=session_id, to=third)
    assert len(seen(connection, session_id)) == 3
    undo(connection, session_id)
    assert seen(connection, session_id) == whole
    assert connection.call("tree.show", session_id=session_id)["current"] == "main"


def test_after_something_new_there_is_nothing_to_redo(connection: Connection, session_id: str) -> None:
    undo(connection, session_id)
    talk(connection, session_id, 50)
    assert "nothing to redo" in refusal(connection, "context.redo", session_id=session_id).message


def test_what_a_tool_wrote_goes_and_comes_back(connection: Connection, session_id: str, tool: Tool, work: Path) -> None:
    kept, made = work / "kept.txt", work / "made.txt"
    kept.write_text("before")
    tool(kept, "after")
    tool(made, "new")
    tool(kept, None)
    planned = undo(connection, session_id, count=3, dry_run=True)
    assert sorted(planned["files"]["restored"]) == [str(kept), str(made)]
    assert (kept.exists(), made.read_text()) == (False, "new")
    done = undo(connection, session_id, count=3)
    assert sorted(done["files"]["restored"]) == [str(kept), str(made)]
    assert (kept.read_text(), made.exists()) == ("before", False)
    redo(connection, session_id)
    assert (kept.read_text(), made.exists()) == ("after", False)
    redo(connection, session_id, count=2)
    assert (kept.exists(), made.read_text()) == (False, "new")
    assert len(seen(connection, session_id)) == 30


def test_what_other_hands_changed_is_a_conflict_until_forced(
    connection: Connection, session_id: str, tool: Tool, work: Path
) -> None:
    file = work / "notes.txt"
    tool(file, "ours")
    file.write_text("theirs")
    planned = undo(connection, session_id, dry_run=True)
    done = undo(connection, session_id)
    assert planned["files"] == done["files"]
    assert (done["files"]["restored"], file.read_text()) == ([], "theirs")
    (conflict,) = done["files"]["conflicts"]
    assert (conflict["path"], "other hands" in conflict["reason"]) == (str(file), True)
    redo(connection, session_id)
    assert file.read_text() == "theirs"
    assert undo(connection, session_id, force=True)["files"] == {"restored": [str(file)], "conflicts": []}
    assert not file.exists()
    redo(connection, session_id)
    assert file.read_text() == "theirs"


def test_files_are_left_alone_when_the_conversation_alone_is_undone(
    connection: Connection, session_id: str, tool: Tool, work: Path
) -> None:
    tool(work / "a", "written")
    assert undo(connection, session_id, files=False)["files"] == {"restored": [], "conflicts": []}
    assert ((work / "a").read_text(), len(seen(connection, session_id))) == ("written", 24)
    redo(connection, session_id, files=False)
    assert ((work / "a").read_text(), len(seen(connection, session_id))) == ("written", 26)


def test_two_clients_that_undo_at_once_take_back_different_turns(
    daemon: RunningDaemon, connection: Connection, session_id: str
) -> None:
    whole = seen(connection, session_id)
    undone: list[str] = []
    failures: list[RpcError] = []

    def take_back() -> None:
        with daemon.connect() as own:
            for _ in range(5):
                try:
                    undone.extend(undo(own, session_id)["undone"])
                except RpcError as error:
                    failures.append(error)

    threads = [threading.Thread(target=take_back) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert len(undone) == len(set(undone))
    assert {one["event_id"] for one in whole} & set(undone) == {one["event_id"] for one in whole[4:]}
    assert seen(connection, session_id) == whole[:4]
    assert problems_of(connection, session_id) == []
    redo(connection, session_id, count=10)
    assert seen(connection, session_id) == whole


# -- what cannot be


@pytest.mark.parametrize("method", ["context.messages", "context.compact", "context.undo", "context.redo"])
def test_a_session_that_is_not_there_or_has_a_gap_is_refused(
    daemon: RunningDaemon, connection: Connection, method: str
) -> None:
    unknown = refusal(connection, method, session_id="mink-20260101T000000-0000ffff")
    assert (unknown.code, unknown.kind) == (-32004, "session_not_found")
    folder = daemon.root / f"otter-20260101T000000-gap{method[8:]}"
    write_ours(folder, "ids", our_records(9))
    for path in sorted(folder.glob("event-*"))[4:6]:
        path.unlink()
    gap = refusal(connection, method, session_id=folder.name)
    assert (gap.code, gap.kind, gap.data["missing"]) == (-32011, "log_gap", [5, 6])


@pytest.mark.parametrize(
    ("method", "params", "says"),
    [
        ("context.undo", {}, "nothing to undo"),
        ("context.redo", {}, "nothing to redo"),
        ("context.undo", {"dry_run": True}, "nothing to undo"),
        ("context.undo", {"count": 0}, "count"),
        ("context.undo", {"count": 1001}, "count"),
        ("context.messages", {"leaf": "evt-none"}, "no event 'evt-none'"),
        ("context.messages", {"cursor": "soon"}, "next_cursor"),
        ("context.messages", {"cursor": "9" * 40}, "next_cursor"),
        ("context.compact", {"instructions": 7}, "instructions"),
    ],
)
def test_what_cannot_be_done_is_said_in_a_sentence(
    connection: Connection, method: str, params: dict[str, Any], says: str
) -> None:
    session_id = create(connection)
    error = refusal(connection, method, session_id=session_id, **params)
    assert (error.code, error.kind) == (-32602, "invalid_params")
    assert says in error.message
    assert events_of(connection, session_id) == []

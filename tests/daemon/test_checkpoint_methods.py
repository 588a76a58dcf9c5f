"""``checkpoints.*`` over a real socket: named points of a session, and going back to conversation, files or both."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from chimera import paths
from chimera.blobs import BlobStore
from chimera.core.file_tracker import FileTracker
from tests.support.daemon import Connection, RunningDaemon
from tests.support.logs import our_records, write_ours
from tests.support.store import append, create, event, events_of, foreign_session, problems_of, refusal

Start = Callable[..., RunningDaemon]
Tool = Callable[[Path, str | None], None]

NO_FILES: dict[str, list[Any]] = {"restored": [], "conflicts": []}


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningDaemon]:
    running = RunningDaemon(tmp_path_factory.mktemp("points") / "home").wait_ready()
    yield running
    running.kill()


@pytest.fixture
def session_id(connection: Connection) -> str:
    made = create(connection)
    say(connection, made, "one", "two")
    return made


@pytest.fixture
def work(tmp_path: Path) -> Path:
    folder = tmp_path / "work"
    folder.mkdir()
    return folder


@pytest.fixture
def tool(daemon: RunningDaemon, connection: Connection, session_id: str) -> Tool:
    """A turn in which a tool writes this file, or with None removes it."""
    return lambda path, text: write(connection, daemon, session_id, path, text)


def write(connection: Connection, daemon: RunningDaemon, session_id: str, path: Path, text: str | None) -> None:
    blobs = BlobStore(paths.blobs_folder(str(daemon.root / session_id)))
    with FileTracker(blobs, str(path.parent)).writing(path) as accesses:
        if text is None:
            path.unlink()
        else:
            path.write_text(text)
    written = [{"type": "file_access", "metadata": one.to_metadata()} for one in accesses]
    append(connection, session_id, event(f"write {path.name}"), *written)


def say(connection: Connection, session_id: str, *contents: str) -> None:
    append(connection, session_id, *[event(content) for content in contents])


def said(connection: Connection, session_id: str) -> list[str]:
    found = connection.call("context.messages", session_id=session_id)["messages"]
    return [message["content"] for message in found]


def save(connection: Connection, session_id: str, name: str) -> int:
    return int(connection.call("checkpoints.save", session_id=session_id, name=name)["seq"])


def points(connection: Connection, session_id: str) -> list[dict[str, Any]]:
    return list(connection.call("checkpoints.list", session_id=session_id)["checkpoints"])


def restore(connection: Connection, session_id: str, name: str, **params: Any) -> dict[str, Any]:
    return dict(connection.call("checkpoints.restore", session_id=session_id, name=name, **params))


def files_in(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in sorted(folder.iterdir())}


# -- save and list


def test_a_checkpoint_is_one_event_and_is_listed(connection: Connection, session_id: str) -> None:
    assert points(connection, session_id) == []
    made = connection.call("checkpoints.save", session_id=session_id, name="before the refactoring ü")
    last = events_of(connection, session_id)[-1]
    assert made == {"name": "before the refactoring ü", "seq": 3}
    assert points(connection, session_id) == [
        {"name": made["name"], "seq": 3, "event_id": last["id"], "ts": last["ts"], "branch": "main"}
    ]
    assert (last["type"], said(connection, session_id)) == ("checkpoint", ["one", "two"])


def test_a_name_that_is_used_again_names_the_new_point(connection: Connection, session_id: str) -> None:
    save(connection, session_id, "good")
    save(connection, session_id, "other")
    say(connection, session_id, "three")
    seq = save(connection, session_id, "good")
    assert {one["name"]: one["seq"] for one in points(connection, session_id)} == {"good": seq, "other": 4}
    say(connection, session_id, "four")
    restore(connection, session_id, "good")
    assert said(connection, session_id) == ["one", "two", "three"]


def test_a_checkpoint_remembers_its_branch(connection: Connection, session_id: str) -> None:
    connection.call("tree.branch", session_id=session_id, name="aside")
    say(connection, session_id, "aside")
    save(connection, session_id, "there")
    assert points(connection, session_id)[0]["branch"] == "aside"
    connection.call("tree.switch", session_id=session_id, to="main")
    assert said(connection, session_id) == ["one", "two"]
    assert restore(connection, session_id, "there") == {"files": NO_FILES, "current": "aside"}
    assert said(connection, session_id) == ["one", "two", "aside"]
    say(connection, session_id, "more")
    assert connection.call("tree.show", session_id=session_id)["current"] == "aside"


def test_an_empty_session_can_be_marked_and_restored(connection: Connection) -> None:
    session_id = create(connection)
    save(connection, session_id, "begin")
    say(connection, session_id, "one")
    restore(connection, session_id, "begin")
    assert said(connection, session_id) == []


# -- restore


def test_conversation_and_files_come_back_and_undo_takes_that_back(
    connection: Connection, session_id: str, tool: Tool, work: Path
) -> None:
    tool(work / "a", "a1")
    save(connection, session_id, "good")
    tool(work / "a", "a2")
    tool(work / "b", "b1")
    late = said(connection, session_id)
    done = restore(connection, session_id, "good")
    assert (sorted(done["files"]["restored"]), done["current"]) == ([str(work / "a"), str(work / "b")], "main")
    assert (files_in(work), said(connection, session_id)) == ({"a": "a1"}, ["one", "two", "write a"])
    connection.call("context.undo", session_id=session_id)
    assert (files_in(work), said(connection, session_id)) == ({"a": "a2", "b": "b1"}, late)
    connection.call("context.redo", session_id=session_id)
    assert (files_in(work), said(connection, session_id)) == ({"a": "a1"}, ["one", "two", "write a"])


def test_a_dry_run_tells_what_would_happen_and_changes_nothing(
    connection: Connection, session_id: str, tool: Tool, work: Path
) -> None:
    save(connection, session_id, "good")
    tool(work / "a", "a1")
    before = events_of(connection, session_id)
    planned = restore(connection, session_id, "good", dry_run=True)
    assert planned["files"] == {"restored": [str(work / "a")], "conflicts": []}
    assert (events_of(connection, session_id), files_in(work)) == (before, {"a": "a1"})
    assert restore(connection, session_id, "good") == planned


def test_the_conversation_alone_leaves_the_files(
    connection: Connection, session_id: str, tool: Tool, work: Path
) -> None:
    save(connection, session_id, "good")
    tool(work / "a", "a1")
    assert restore(connection, session_id, "good", files=False)["files"] == NO_FILES
    assert (files_in(work), said(connection, session_id)) == ({"a": "a1"}, ["one", "two"])


def test_the_files_alone_leave_the_conversation(
    connection: Connection, session_id: str, tool: Tool, work: Path
) -> None:
    tool(work / "a", "a1")
    save(connection, session_id, "good")
    tool(work / "a", None)
    late = said(connection, session_id)
    assert restore(connection, session_id, "good", conversation=False)["files"]["restored"] == [str(work / "a")]
    assert (files_in(work), said(connection, session_id)) == ({"a": "a1"}, late)
    connection.call("context.undo", session_id=session_id)
    assert (files_in(work), said(connection, session_id)) == ({}, late)


def test_what_other_hands_changed_is_a_conflict_until_forced(
    connection: Connection, session_id: str, tool: Tool, work: Path
) -> None:
    save(connection, session_id, "good")
    tool(work / "a", "ours")
    tool(work / "b", "ours")
    (work / "a").write_text("theirs")
    planned = restore(connection, session_id, "good", conversation=False, dry_run=True)
    done = restore(connection, session_id, "good", conversation=False)
    assert planned == done
    assert [one["path"] for one in done["files"]["conflicts"]] == [str(work / "a")]
    assert done["files"]["restored"] == [str(work / "b")]
    assert files_in(work) == {"a": "theirs"}
    forced = restore(connection, session_id, "good", conversation=False, force=True)
    assert forced["files"] == {"restored": [str(work / "a")], "conflicts": []}
    assert files_in(work) == {}
    connection.call("context.undo", session_id=session_id)
    assert files_in(work) == {"a": "theirs"}


def test_files_of_one_branch_make_room_for_those_of_another(
    connection: Connection, session_id: str, tool: Tool, work: Path
) -> None:
    save(connection, session_id, "begin")
    tool(work / "a", "on main")
    save(connection, session_id, "main")
    restore(connection, session_id, "begin")
    connection.call("tree.branch", session_id=session_id, name="aside")
    tool(work / "b", "aside")
    save(connection, session_id, "aside")
    assert sorted(restore(connection, session_id, "main")["files"]["restored"]) == [str(work / "a"), str(work / "b")]
    assert files_in(work) == {"a": "on main"}
    assert restore(connection, session_id, "aside")["current"] == "aside"
    assert files_in(work) == {"b": "aside"}


# -- what lasts


@pytest.mark.parametrize("ending", ["kill", "stop"])
def test_checkpoints_and_what_files_were_survive_the_daemon(start_daemon: Start, work: Path, ending: str) -> None:
    daemon = start_daemon()
    with daemon.connect() as connection:
        session_id = create(connection, "stoat")
        say(connection, session_id, "one")
        write(connection, daemon, session_id, work / "a", "a1")
        save(connection, session_id, "good")
        write(connection, daemon, session_id, work / "a", "a2")
        before = points(connection, session_id)
    getattr(daemon, ending)()
    with start_daemon().connect() as connection:
        assert points(connection, session_id) == before
        assert restore(connection, session_id, "good")["files"] == {"restored": [str(work / "a")], "conflicts": []}
        assert (files_in(work), said(connection, session_id)) == ({"a": "a1"}, ["one", "write a"])
        assert problems_of(connection, session_id) == []


def test_two_clients_that_save_and_restore_at_once_both_get_there(
    daemon: RunningDaemon, connection: Connection, session_id: str
) -> None:
    save(connection, session_id, "begin")
    failures: list[BaseException] = []

    def go(who: str) -> None:
        try:
            with daemon.connect() as own:
                for number in range(20):
                    save(own, session_id, f"{who}-{number}")
                    say(own, session_id, f"{who} {number}")
                    restore(own, session_id, "begin")
        except BaseException as error:  # noqa: BLE001 - shown by the thread that waits
            failures.append(error)

    threads = [threading.Thread(target=go, args=(who,)) for who in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    names = {one["name"] for one in points(connection, session_id)}
    assert names == {"begin", *(f"{who}-{number}" for who in "ab" for number in range(20))}
    assert said(connection, session_id) == ["one", "two"]
    assert len(events_of(connection, session_id)) == 3 + 2 * 20 * 3
    assert problems_of(connection, session_id) == []


# -- what cannot be


@pytest.mark.parametrize(
    ("method", "params"),
    [("checkpoints.save", {"name": "n"}), ("checkpoints.list", {}), ("checkpoints.restore", {"name": "n"})],
)
def test_a_session_that_is_not_there_or_has_a_gap_is_refused(
    daemon: RunningDaemon, connection: Connection, method: str, params: dict[str, Any]
) -> None:
    unknown = refusal(connection, method, session_id="mink-20260101T000000-0000ffff", **params)
    assert (unknown.code, unknown.kind) == (-32004, "session_not_found")
    folder = daemon.root / f"otter-20260101T000000-gap{method[12:]}"
    write_ours(folder, "ids", our_records(5))
    sorted(folder.glob("event-*"))[1].unlink()
    gap = refusal(connection, method, session_id=folder.name, **params)
    assert (gap.code, gap.kind, gap.data["missing"]) == (-32011, "log_gap", [2])


@pytest.mark.parametrize(
    ("method", "params", "says"),
    [
        ("checkpoints.save", {"name": ""}, "name of 1 to 200 bytes"),
        ("checkpoints.save", {"name": "\t"}, "control characters"),
        ("checkpoints.save", {"name": "x" * 201}, "name of 1 to 200 bytes"),
        ("checkpoints.restore", {"name": "never"}, "there is no checkpoint 'never'; there are: good"),
        ("checkpoints.restore", {"name": "good", "conversation": False, "files": False}, "at least one of them"),
        ("checkpoints.restore", {"name": "never", "dry_run": True}, "there is no checkpoint 'never'"),
    ],
)
def test_what_cannot_be_done_is_said_in_a_sentence_and_changes_nothing(
    connection: Connection, session_id: str, method: str, params: dict[str, Any], says: str
) -> None:
    save(connection, session_id, "good")
    before = events_of(connection, session_id)
    error = refusal(connection, method, session_id=session_id, **params)
    assert (error.code, error.kind) == (-32602, "invalid_params")
    assert says in error.message
    assert events_of(connection, session_id) == before


def test_a_session_of_somebody_else_has_no_checkpoints(daemon: RunningDaemon, connection: Connection) -> None:
    folder = foreign_session(daemon.root, "ferret-20260101T000000-0000aaaa", None)
    assert points(connection, folder.name) == []
    assert [path.name for path in folder.iterdir()] == ["events.jsonl"]

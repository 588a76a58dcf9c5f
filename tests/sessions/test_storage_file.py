"""Sessions as files: their place and modes, the documented JSON, what older programs left, what cannot be read."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest
from filelock import FileLock

from chimera.errors import Locked, StorageError
from chimera.sessions.messages import Message, ToolCall
from chimera.sessions.storage import FileSessionStorage, StoredSession
from chimera.sessions.storage import file as file_module
from chimera.sessions.storage.file import write_session_file

CALL = ToolCall("call-1", "Bash", {"command": "ls"})
OLDER = {
    "session_id": "older",
    "system": None,
    "parent_id": None,
    "created_at": 1700000000.5,
    "updated_at": 1700000001.5,
    "metadata": {"model": "m1"},
    "messages": [
        {"role": "user", "content": "hi", "tool_calls": [], "call_id": None},
        {"role": "assistant", "content": "", "tool_calls": [{"id": "1", "name": "Bash", "arguments": {"a": 1}}]},
        {"role": "tool", "content": "ok", "call_id": "1", "timestamp": 5},
    ],
    "written_by": "another version",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "sessions"
    made.mkdir()
    return made


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_sessions_lie_under_the_home_readable_for_their_owner_alone(home: Path) -> None:
    FileSessionStorage().save(StoredSession("mine"))
    assert mode_of(home / "sessions") == 0o700
    assert mode_of(home / "sessions" / "mine.json") == 0o600
    assert mode_of(home / "sessions" / ".lock") == 0o600


def test_a_tilde_is_expanded(tmp_path: Path) -> None:
    FileSessionStorage("~/kept").save(StoredSession("mine"))
    assert (tmp_path / "user" / "kept" / "mine.json").is_file()


def test_nothing_is_made_before_the_first_save(tmp_path: Path) -> None:
    storage = FileSessionStorage(tmp_path / "sessions")
    storage.delete("nobody")
    assert storage.load("nobody") is None
    assert storage.list_sessions() == []
    assert not (tmp_path / "sessions").exists()


def test_a_file_has_the_documented_keys_in_their_order_indented_by_two(folder: Path) -> None:
    messages = [Message("user", "hi"), Message("assistant", "", (CALL,), event_id="evt-1")]
    FileSessionStorage(folder).save(StoredSession("mine", "be kind", None, 1.5, 2.5, {"a": 1}, messages))
    expected = {
        "session_id": "mine",
        "system": "be kind",
        "parent_id": None,
        "created_at": 1.5,
        "updated_at": 2.5,
        "metadata": {"a": 1},
        "messages": [
            {"role": "user", "content": "hi", "tool_calls": [], "call_id": None},
            {
                "role": "assistant",
                "content": "",
                "tool_calls": [{"id": "call-1", "name": "Bash", "arguments": {"command": "ls"}}],
                "call_id": None,
                "event_id": "evt-1",
            },
        ],
    }
    assert (folder / "mine.json").read_text() == json.dumps(expected, indent=2)


def test_a_file_of_an_older_program_is_read_and_keeps_its_created_at(folder: Path) -> None:
    (folder / "older.json").write_text(json.dumps(OLDER, indent=2))
    storage = FileSessionStorage(folder)
    loaded = storage.load("older")
    assert loaded == StoredSession(
        "older",
        created_at=1700000000.5,
        updated_at=1700000001.5,
        metadata={"model": "m1"},
        messages=[
            Message("user", "hi"),
            Message("assistant", "", (ToolCall("1", "Bash", {"a": 1}),)),
            Message("tool", "ok", call_id="1"),
        ],
    )
    storage.save(StoredSession("older", created_at=9.0))
    assert storage.load("older") == StoredSession("older", created_at=1700000000.5)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"session_id": "x"}', StoredSession("x")),
        ('{"session_id": "x", "metadata": null, "messages": null, "created_at": null}', StoredSession("x")),
        ('{"session_id": "x", "created_at": 5, "metadata": {"n": NaN}}',
         StoredSession("x", created_at=5.0, metadata={"n": None})),
        ('{"session_id": "x", "system": "\\ud800"}', StoredSession("x", "\\ud800")),
        ('{"session_id": "x", "messages": [{"role": "assistant", "content": null, "tool_calls": [{"id": "1"}]}]}',
         StoredSession("x", messages=[Message("assistant", "", (ToolCall("1", "", {}),))])),
        ('{"session_id": "another", "messages": [{"role": "user", "content": "of a copied file"}]}',
         StoredSession("x", messages=[Message("user", "of a copied file")])),
    ],
)  # fmt: skip
def test_what_an_older_program_left_out_or_its_json_let_through_is_read(
    folder: Path, text: str, expected: StoredSession
) -> None:
    (folder / "x.json").write_text(text)
    assert FileSessionStorage(folder).load("x") == expected


@pytest.mark.parametrize(
    "body",
    [
        b"", b"{", b"\0" * 40, b"[]", b"null", b"\xff\xfe", b'{"messages": []}', b'{"session_id": 5}',
        b'{"session_id": "bad", "messages": [{"role": "user"}]}',
        b'{"session_id": "bad", "messages": [{"content": "hi"}]}',
        b'{"session_id": "bad", "messages": [5]}', b'{"session_id": "bad", "created_at": "today"}',
        b'{"session_id": "bad", "metadata": []}', b'{"session_id": "bad", "a":' + b"[" * 5000 + b"]" * 5000 + b"}",
    ],
)  # fmt: skip
def test_a_malformed_file_is_named_listed_and_left_alone_until_it_is_deleted(folder: Path, body: bytes) -> None:
    path = folder / "bad.json"
    path.write_bytes(body)
    storage = FileSessionStorage(folder)
    for act in (lambda: storage.load("bad"), lambda: storage.save(StoredSession("bad"))):
        with pytest.raises(StorageError, match=r"/bad\.json is no stored session and was left as it is \(.+\); repair"):
            act()
    assert path.read_bytes() == body
    assert storage.list_sessions() == ["bad"]
    storage.delete("bad")
    assert not path.exists()


def test_only_files_of_sessions_are_listed_in_order(folder: Path) -> None:
    storage = FileSessionStorage(folder)
    for session_id in ("b", "a.json", "A", "c c", "a"):
        storage.save(StoredSession(session_id))
    (folder / "0123456789ab.jsonl").write_text("{}\n")
    (folder / ".hidden.json").write_text("{}")
    (folder / ".json").write_text("{}")
    (folder / "folder.json").mkdir()
    (folder / "notes.txt").write_text("")
    assert storage.list_sessions() == ["A", "a", "a.json", "b", "c c"]


def test_what_a_killed_writer_left_is_removed_at_the_next_save_and_nothing_else(folder: Path) -> None:
    left = folder / "mine.json.new-4711-0a1b2c3d"
    left.write_text("half a sess")
    storage = FileSessionStorage(folder)
    assert storage.list_sessions() == []
    storage.save(StoredSession("x.json.new-4711-0a1b2c3d"))
    FileSessionStorage(folder).save(StoredSession("mine"))
    assert storage.list_sessions() == ["mine", "x.json.new-4711-0a1b2c3d"]
    assert not left.exists()


def test_loading_and_listing_wait_for_no_writer_and_saving_says_who_is_waited_for(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_module, "LOCK_SECONDS", 0.05)
    storage = FileSessionStorage(folder)
    storage.save(StoredSession("mine"))
    with FileLock(folder / ".lock", is_singleton=False):
        assert storage.load("mine") == StoredSession("mine")
        assert storage.list_sessions() == ["mine"]
        with pytest.raises(Locked, match=r"another process has been writing in .* for 0\.05 s"):
            storage.save(StoredSession("mine"))
        with pytest.raises(Locked):
            storage.delete("mine")
    storage.delete("mine")


def test_a_place_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    storage = FileSessionStorage(tmp_path / "file")
    for act in (lambda: storage.save(StoredSession("x")), lambda: storage.load("x"), storage.list_sessions):
        with pytest.raises(StorageError, match=f"the disk refused {tmp_path}/file"):
            act()


def test_a_session_is_written_as_it_is_to_any_path_and_only_whole(tmp_path: Path) -> None:
    path = tmp_path / "new" / "kept.json"
    write_session_file(str(path), StoredSession("mine", created_at=1.0))
    write_session_file(str(path), StoredSession("mine", "again", created_at=2.0))
    assert mode_of(path) == 0o600
    assert FileSessionStorage(path.parent).load("kept") == StoredSession("kept", "again", created_at=2.0)
    with pytest.raises(StorageError, match=f"the disk refused {tmp_path}/new"):
        write_session_file(str(tmp_path / "new"), StoredSession("mine"))
    assert list(path.parent.iterdir()) == [path]
    assert list(tmp_path.glob("new.*")) == []

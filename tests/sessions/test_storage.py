"""What every storage of sessions promises: one suite, run over each backend through its four methods alone."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from chimera.errors import InvalidId, InvalidParams
from chimera.sessions.messages import Message, ToolCall
from chimera.sessions.storage import (
    FileSessionStorage,
    MemorySessionStorage,
    SessionStorage,
    SQLiteSessionStorage,
    StoredSession,
)

BACKENDS: dict[str, Callable[[Path], SessionStorage]] = {
    "memory": lambda folder: MemorySessionStorage(),
    "file": lambda folder: FileSessionStorage(folder / "sessions"),
    "sqlite": lambda folder: SQLiteSessionStorage(folder / "sessions.db"),
}

FULL = StoredSession(
    "mink-20260425T091201-71032a5e",
    system="You are careful.",
    parent_id="mink-20260424T091201-71032a5e",
    created_at=1777108321.25,
    updated_at=1777108334.5,
    metadata={"branch": "main", "cost_usd": 0.0241, "nested": {"list": [1, 2.5, None, True, "x\0y"]}},
    messages=[
        Message("user", "list files\0then read README", event_id="evt-1"),
        Message("assistant", "", (ToolCall("call-1", "Bash", {"command": "ls", "flags": ["-l", {"deep": None}]}),)),
        Message("tool", "README.md", call_id="call-1", synthetic=True),
        Message("assistant", "Grüße, 世界 \U0001f43e"),
    ],
)

words = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
seconds = st.floats(allow_nan=False, allow_infinity=False)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**80), 2**80) | seconds | words,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3),
    max_leaves=6,
)
objects = st.dictionaries(words, json_values, max_size=4)
messages = st.builds(
    Message,
    role=st.sampled_from(["system", "user", "assistant", "tool"]),
    content=words,
    tool_calls=st.lists(st.builds(ToolCall, words, words, objects), max_size=3).map(tuple),
    call_id=st.none() | words,
    event_id=words,
    synthetic=st.booleans(),
)
sessions = st.builds(
    StoredSession,
    session_id=st.from_regex(r"[A-Za-z0-9é][A-Za-z0-9._ é-]{0,30}", fullmatch=True),
    system=st.none() | words,
    parent_id=st.none() | words,
    created_at=seconds,
    updated_at=seconds,
    metadata=objects,
    messages=st.lists(messages, max_size=4),
)
relaxed = settings(
    deadline=None,
    max_examples=60,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)


@pytest.fixture(params=BACKENDS)
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> SessionStorage:
    return BACKENDS[request.param](tmp_path)


def changed(session: StoredSession, **changes: Any) -> StoredSession:
    return msgspec.structs.replace(session, **changes)


def in_threads(number: int, work: Callable[[int], Any]) -> list[Any]:
    """What ``work`` answers in each of several threads that begin at one moment."""
    start = threading.Barrier(number)

    def begin(mine: int) -> Any:
        start.wait()
        return work(mine)

    with ThreadPoolExecutor(number) as threads:
        return list(threads.map(begin, range(number)))


def test_what_was_saved_is_loaded(storage: SessionStorage) -> None:
    storage.save(FULL)
    assert storage.load(FULL.session_id) == FULL
    assert storage.list_sessions() == [FULL.session_id]


def test_an_unknown_session_is_none_and_nothing_is_listed(storage: SessionStorage) -> None:
    assert storage.load("nobody") is None
    assert storage.list_sessions() == []


def test_a_deleted_session_is_gone_and_deleting_again_does_nothing(storage: SessionStorage) -> None:
    storage.delete("nobody")
    storage.save(FULL)
    storage.save(changed(FULL, session_id="other"))
    storage.delete(FULL.session_id)
    storage.delete(FULL.session_id)
    assert storage.load(FULL.session_id) is None
    assert storage.list_sessions() == ["other"]


def test_a_save_replaces_everything_but_the_first_created_at(storage: SessionStorage) -> None:
    storage.save(FULL)
    later = StoredSession(FULL.session_id, "other", None, 99.0, 7.0, {"new": 1}, [Message("user", "hi")])
    storage.save(later)
    assert storage.load(FULL.session_id) == changed(later, created_at=FULL.created_at)
    storage.delete(FULL.session_id)
    storage.save(later)
    assert storage.load(FULL.session_id) == later


def test_a_session_of_defaults_comes_back_as_it_is(storage: SessionStorage) -> None:
    storage.save(StoredSession("bare"))
    assert storage.load("bare") == StoredSession("bare")


def test_saving_leaves_the_given_session_as_it_is(storage: SessionStorage) -> None:
    storage.save(FULL)
    given = changed(FULL, created_at=1.0)
    storage.save(given)
    assert given == changed(FULL, created_at=1.0)


def test_whatever_says_what_is_to_be_stored_can_be_saved(storage: SessionStorage) -> None:
    class Conversation:
        def stored(self) -> StoredSession:
            return FULL

    storage.save(Conversation())
    assert storage.load(FULL.session_id) == FULL


def test_what_changes_after_a_save_or_a_load_does_not_change_what_is_kept(storage: SessionStorage) -> None:
    mine = StoredSession("mine", metadata={"tags": ["a"]}, messages=[Message("user", "hi")])
    storage.save(mine)
    mine.metadata["tags"].append("b")
    mine.messages.clear()
    loaded = storage.load("mine")
    assert loaded == StoredSession("mine", metadata={"tags": ["a"]}, messages=[Message("user", "hi")])
    loaded.metadata["tags"].append("c")
    loaded.messages.clear()
    assert storage.load("mine") == StoredSession("mine", metadata={"tags": ["a"]}, messages=[Message("user", "hi")])


@pytest.mark.parametrize("session_id", ["", ".", "..", "../up", "a/b", "a\\b", "a\0b", ".hidden", "x" * 201, "\udcff"])
def test_an_id_that_is_no_id_is_refused_by_every_method(storage: SessionStorage, session_id: str) -> None:
    with pytest.raises(InvalidId):
        storage.save(StoredSession(session_id))
    with pytest.raises(InvalidId):
        storage.load(session_id)
    with pytest.raises(InvalidId):
        storage.delete(session_id)
    assert storage.list_sessions() == []


def nested(levels: int) -> dict[str, Any]:
    value: dict[str, Any] = {}
    for _ in range(levels - 1):
        value = {"in": value}
    return value


@pytest.mark.parametrize(
    "refused",
    [
        changed(FULL, metadata={"cost_usd": float("nan")}),
        changed(FULL, metadata={"deep": [float("inf")]}),
        changed(FULL, metadata={"raw": b"bytes"}),
        changed(FULL, metadata={"set": {1}}),
        changed(FULL, metadata={1: "not a text key"}),
        changed(FULL, metadata={"big": 10**5000}),
        changed(FULL, metadata=nested(129)),
        changed(FULL, metadata=["no object"]),
        changed(FULL, created_at=float("inf")),
        changed(FULL, updated_at="yesterday"),
        changed(FULL, system=5),
        changed(FULL, messages=[{"role": "user", "content": "a dict"}]),
        changed(FULL, messages=[Message("user", 5)]),  # type: ignore[arg-type]
        changed(FULL, messages=[Message("assistant", "", (ToolCall("1", "Bash", {"x": float("-inf")}),))]),
    ],
    ids=lambda session: "",
)
def test_what_could_not_be_read_again_is_refused_and_what_was_kept_stays(
    storage: SessionStorage, refused: StoredSession
) -> None:
    storage.save(FULL)
    with pytest.raises(InvalidParams, match=f"'{FULL.session_id}' cannot be stored"):
        storage.save(refused)
    assert storage.load(FULL.session_id) == FULL


def test_what_json_has_no_word_for_comes_back_as_documented(storage: SessionStorage) -> None:
    odd = "r\udcffw"  # as surrogateescape reads a byte that is no UTF-8
    metadata = {"pair": (1, 2), odd: odd, "deepest": nested(127)}
    storage.save(StoredSession("odd", system=odd, metadata=metadata, messages=[Message("tool", odd)]))
    escaped = "r\\udcffw"
    assert storage.load("odd") == StoredSession(
        "odd",
        system=escaped,
        metadata={"pair": [1, 2], escaped: escaped, "deepest": nested(127)},
        messages=[Message("tool", escaped)],
    )


@relaxed
@given(st.lists(sessions, min_size=1, max_size=4, unique_by=lambda session: session.session_id))
def test_any_sessions_come_back_equal_whatever_they_hold(storage: SessionStorage, saved: list[StoredSession]) -> None:
    for session in saved:
        storage.save(session)
    assert sorted(storage.list_sessions()) == sorted(session.session_id for session in saved)
    for session in saved:
        assert storage.load(session.session_id) == session
        storage.delete(session.session_id)
    assert storage.list_sessions() == []


@relaxed
@given(st.lists(sessions, min_size=1, max_size=5))
def test_any_saves_under_one_id_leave_the_last_with_the_created_at_of_the_first(
    storage: SessionStorage, saves: list[StoredSession]
) -> None:
    storage.delete("one")
    for session in saves:
        storage.save(changed(session, session_id="one"))
    assert storage.load("one") == changed(saves[-1], session_id="one", created_at=saves[0].created_at)


def test_threads_that_save_their_own_sessions_lose_none(storage: SessionStorage) -> None:
    def work(mine: int) -> None:
        for number in range(5):
            storage.save(changed(FULL, session_id=f"own-{mine}-{number}", updated_at=float(number)))
        storage.delete(f"own-{mine}-0")

    in_threads(6, work)
    expected = {f"own-{mine}-{number}": float(number) for mine in range(6) for number in range(1, 5)}
    assert sorted(storage.list_sessions()) == sorted(expected)
    for session_id, updated_at in expected.items():
        assert storage.load(session_id) == changed(FULL, session_id=session_id, updated_at=updated_at)


def test_threads_that_save_one_session_see_whole_saves_and_one_created_at(storage: SessionStorage) -> None:
    def work(mine: int) -> set[float]:
        seen = set()
        for number in range(5):
            text = f"{mine}-{number} " * 200
            storage.save(StoredSession("one", text, None, mine + 1.0, 0.0, {"text": text}, [Message("user", text)]))
            loaded = storage.load("one")
            assert loaded is not None
            assert loaded.system == loaded.metadata["text"] == loaded.messages[0].content
            seen.add(loaded.created_at)
        return seen

    assert len(set.union(*in_threads(6, work))) == 1
    assert storage.list_sessions() == ["one"]

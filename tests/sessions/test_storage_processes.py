"""Storages that outlive their process: several processes at once, kill -9 in the middle of saves, a full disk."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from chimera.errors import NoSpace, StorageError
from chimera.sessions.messages import Message
from chimera.sessions.storage import FileSessionStorage, SessionStorage, SQLiteSessionStorage, StoredSession

LASTING: dict[str, Callable[[Path], SessionStorage]] = {
    "file": lambda place: FileSessionStorage(place),
    "sqlite": lambda place: SQLiteSessionStorage(place),
}
PROCESSES = 4
SAVES = 15

COMMON = """
import os, sys
from chimera.sessions.messages import Message
from chimera.sessions.storage import FileSessionStorage, SQLiteSessionStorage, StoredSession

backend, place, argument = sys.argv[1:]
storage = {"file": FileSessionStorage, "sqlite": SQLiteSessionStorage}[backend](place)

def session(session_id, number, created_at=1.0):
    text = f"{number} " * (number * 2000 + 1)
    return StoredSession(session_id, text, None, created_at, float(number), {"n": number}, [Message("user", text)] * 3)
"""
WRITE_TOGETHER = f"""
seen = set()
print("ready", flush=True)
sys.stdin.readline()
for number in range({SAVES}):
    storage.save(session("shared", number, float(argument)))
    loaded = storage.load("shared")
    assert loaded.system == loaded.messages[0].content == loaded.messages[2].content, "half a session"
    seen.add(loaded.created_at)
    storage.save(session(f"own-{{argument}}-{{number}}", number))
    storage.delete(f"own-{{argument}}-{{number - 1}}")
    storage.list_sessions()
print(*seen, flush=True)
"""
WRITE_FOR_EVER = """
number = 0
while True:
    number += 1
    storage.save(session("mine", number % 50 + 1, float(number)))
    print(number, flush=True)
"""
DIE_AT_A_CALL = """
import signal
storage.save(session("mine", 1))
print("saved", flush=True)
left = int(argument)

def count(event, arguments):
    global left
    if event in ("open", "os.rename", "os.remove", "os.listdir", "fcntl.flock"):
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        left -= 1

sys.addaudithook(count)
storage.save(session("mine", 2, 9.0))
print("all calls were made", flush=True)
"""
SAVE_AFTER_FORK = """
storage.save(StoredSession("parent"))
child = os.fork()
storage.save(StoredSession("child" if child == 0 else "parent", "again"))
if child:
    assert os.waitpid(child, 0)[1] == 0
"""


@pytest.fixture(params=LASTING)
def backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "kept"


def start(script: str, backend: str, place: Path, argument: object = "") -> subprocess.Popen[str]:
    command = [sys.executable, "-c", COMMON + script, backend, str(place), str(argument)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def require_whole(session: StoredSession | None) -> StoredSession:
    assert session is not None
    number = session.metadata["n"]
    text = f"{number} " * (number * 2000 + 1)
    assert (session.system, session.updated_at) == (text, float(number))
    assert session.messages == [Message("user", text)] * 3
    return session


def test_processes_that_save_at_once_lose_nothing_and_agree_on_created_at(backend: str, place: Path) -> None:
    running = [start(WRITE_TOGETHER, backend, place, number + 1) for number in range(PROCESSES)]
    for process in running:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    answers = [""] * PROCESSES
    for process in running:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    for number, process in enumerate(running):
        answers[number], _ = process.communicate()
    assert [process.returncode for process in running] == [0] * PROCESSES
    assert len(set(answers)) == 1
    storage = LASTING[backend](place)
    assert require_whole(storage.load("shared")).created_at == float(answers[0])
    last = [f"own-{number + 1}-{SAVES - 1}" for number in range(PROCESSES)]
    assert sorted(storage.list_sessions()) == [*last, "shared"]
    for session_id in last:
        require_whole(storage.load(session_id))


@pytest.mark.parametrize("acknowledged", [1, 2, 7, 20, 45])
def test_a_writer_that_is_killed_leaves_what_it_acknowledged_or_the_save_after_it(
    backend: str, place: Path, acknowledged: int
) -> None:
    with start(WRITE_FOR_EVER, backend, place) as process:
        assert process.stdout is not None
        for _ in range(acknowledged):
            process.stdout.readline()
        process.kill()
        told = [acknowledged, *map(int, process.stdout.read().splitlines())]
    storage = LASTING[backend](place)
    kept = require_whole(storage.load("mine"))
    assert kept.created_at == 1.0
    assert kept.metadata["n"] - 1 in {number % 50 for number in (told[-1], told[-1] + 1)}
    storage.save(StoredSession("mine", "after"))
    assert storage.load("mine") == StoredSession("mine", "after", created_at=1.0)
    assert storage.list_sessions() == ["mine"]


def test_a_writer_that_dies_at_any_of_its_calls_leaves_one_whole_session(tmp_path: Path) -> None:
    kept_numbers = []
    for call in range(100):
        place = tmp_path / f"killed-at-{call}"
        with start(DIE_AT_A_CALL, "file", place, call) as process:
            assert process.stdout is not None
            said = process.stdout.read().splitlines()
        storage = FileSessionStorage(place)
        assert storage.list_sessions() == ["mine"]
        kept = require_whole(storage.load("mine"))
        assert kept.created_at == 1.0
        kept_numbers.append(kept.metadata["n"])
        storage.save(StoredSession("other"))
        assert sorted(os.listdir(place)) == [".lock", "mine.json", "other.json"]
        if said[-1] == "all calls were made":
            break
    else:
        pytest.fail("the save made more calls than were looked at")
    assert kept_numbers == sorted(kept_numbers)
    assert set(kept_numbers) == {1, 2}


@contextmanager
def small_files(size: int) -> Iterator[None]:
    """No file may grow beyond ``size`` bytes: writes fail as they do on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_save_that_finds_no_room_says_so_and_leaves_the_session_as_it_was(backend: str, place: Path) -> None:
    storage = LASTING[backend](place)
    small = StoredSession("mine", "small", created_at=1.0)
    storage.save(small)
    with small_files(200_000), pytest.raises((NoSpace, StorageError), match=str(place)):
        storage.save(StoredSession("mine", "x" * 1_000_000))
    assert storage.load("mine") == small
    storage.save(StoredSession("mine", "x" * 1_000_000))
    assert LASTING[backend](place).load("mine") == StoredSession("mine", "x" * 1_000_000, created_at=1.0)


def test_a_storage_goes_on_in_a_child_that_was_forked(backend: str, place: Path) -> None:
    with start(SAVE_AFTER_FORK, backend, place) as process:
        assert process.wait() == 0
    assert sorted(LASTING[backend](place).list_sessions()) == ["child", "parent"]


def test_who_needs_one_backend_loads_no_other() -> None:
    script = """
import sys
import chimera.sessions.storage as storage
assert "msgspec" not in sys.modules
storage.FileSessionStorage
assert not {"sqlite3", "chimera.sessions.storage.memory"} & set(sys.modules)
assert not hasattr(storage, "Unknown")
"""
    subprocess.run([sys.executable, "-c", script], check=True)

"""The power-cut machinery itself: it finds what is known to be wrong, passes what is right, and sees every call."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from chimera import durable
from tests.support import power_strace
from tests.support.power_check import Report, Span, cut_power
from tests.support.power_disk import Disk, State, States, continued
from tests.support.power_recorder import Operation, acknowledge, prefix, read_runs, read_trace, recording


class Kept:
    """Judge of the small programs below: their marks say what a path holds, or may hold from here on."""

    def __init__(self, operations: Sequence[Operation]) -> None:
        self.marks = [(number, operation[1]) for number, operation in enumerate(operations) if operation[0] == "mark"]

    def recover(self, folder: str) -> dict[str, bytes]:
        found = {}
        for parent, _, names in os.walk(folder):
            for name in names:
                path = os.path.join(parent, name)
                found[os.path.relpath(path, folder)] = Path(path).read_bytes()
        return found

    def complaints(self, found: dict[str, bytes], before: int) -> list[str]:
        allowed: dict[str, list[bytes | None]] = {}
        for number, (word, path, body) in self.marks:
            if number < before:
                allowed[path] = [body] if word == "holds" else [*allowed.get(path, [None]), body]
        return [
            f"{path} holds {found.get(path)!r:.60}, not one of {bodies!r:.120}"
            for path, bodies in allowed.items()
            if found.get(path) not in bodies
        ]

    def moments(self, spans: Sequence[Span]) -> Sequence[int]:
        return sorted({moment for start, end in spans for moment in range(start, end + 1)})


Program = Callable[[str], None]


def may(path: str, body: bytes | None) -> None:
    acknowledge(("may", path, body))


def holds(path: str, body: bytes | None) -> None:
    acknowledge(("holds", path, body))


def cut(program: Program, tmp_path: Path, prepare: Program | None = None) -> Report:
    watch = str(tmp_path / "disk")
    os.mkdir(watch)
    if prepare:
        prepare(watch)
    with recording(watch) as operations:
        program(watch)
    return cut_power(operations, Kept(operations), workers=1)


def put(path: str, body: bytes, *, sync: bool = True, flags: int = os.O_CREAT | os.O_TRUNC) -> None:
    descriptor = os.open(path, os.O_WRONLY | flags, 0o600)
    os.write(descriptor, body)
    if sync:
        os.fsync(descriptor)
    os.close(descriptor)


# Programs that are wrong, each in a way that is seen in the wild.


def answers_without_a_sync(watch: str) -> None:
    put(f"{watch}/log", b"old\n")
    durable.sync_folder(watch)
    holds("log", b"old\n")
    may("log", b"old\nnew\n")
    put(f"{watch}/log", b"new\n", sync=False, flags=os.O_APPEND)
    holds("log", b"old\nnew\n")


def answers_before_the_sync(watch: str) -> None:
    put(f"{watch}/log", b"")
    durable.sync_folder(watch)
    holds("log", b"")
    may("log", b"new\n")
    descriptor = os.open(f"{watch}/log", os.O_WRONLY | os.O_APPEND)
    os.write(descriptor, b"new\n")
    holds("log", b"new\n")
    os.fdatasync(descriptor)
    os.close(descriptor)


def forgets_the_folder_of_a_new_file(watch: str) -> None:
    may("log", b"new\n")
    put(f"{watch}/log", b"new\n")
    holds("log", b"new\n")


def forgets_the_folder_of_a_rename(watch: str) -> None:
    durable.create_file(f"{watch}/beside", b"new")
    may("summary", b"new")
    os.rename(f"{watch}/beside", f"{watch}/summary")
    holds("summary", b"new")


def syncs_only_where_a_rename_came_from(watch: str) -> None:
    durable.make_folder(f"{watch}/trash")
    durable.create_file(f"{watch}/session", b"kept")
    may("trash/session", b"kept")
    os.rename(f"{watch}/session", f"{watch}/trash/session")
    durable.sync_folder(watch)
    holds("trash/session", b"kept")


def renames_before_the_bytes_are_down(watch: str) -> None:
    durable.create_file(f"{watch}/summary", b"old")
    holds("summary", b"old")
    put(f"{watch}/beside", b"new", sync=False)
    may("summary", b"new")
    os.rename(f"{watch}/beside", f"{watch}/summary")
    durable.sync_folder(watch)
    holds("summary", b"new")


def rewrites_in_place(watch: str) -> None:
    durable.create_file(f"{watch}/summary", b"o" * 2000)
    holds("summary", b"o" * 2000)
    may("summary", b"n" * 2000)
    put(f"{watch}/summary", b"n" * 2000, flags=0)
    holds("summary", b"n" * 2000)


def truncates_and_writes_again(watch: str) -> None:
    durable.create_file(f"{watch}/summary", b"old")
    holds("summary", b"old")
    may("summary", b"new")
    put(f"{watch}/summary", b"new")
    holds("summary", b"new")


def forgets_the_folder_of_a_removal(watch: str) -> None:
    durable.create_file(f"{watch}/session", b"secret")
    holds("session", b"secret")
    may("session", None)
    os.unlink(f"{watch}/session")
    holds("session", None)


def forgets_the_parent_of_a_new_folder(watch: str) -> None:
    may("made/log", b"new")
    os.mkdir(f"{watch}/made")
    durable.create_file(f"{watch}/made/log", b"new")
    holds("made/log", b"new")


def syncs_another_file(watch: str) -> None:
    durable.create_file(f"{watch}/journal", b"")
    durable.create_file(f"{watch}/log", b"")
    holds("log", b"")
    may("log", b"new\n")
    put(f"{watch}/log", b"new\n", sync=False, flags=os.O_APPEND)
    put(f"{watch}/journal", b"new\n", flags=os.O_APPEND)
    holds("log", b"new\n")


WRONG = [
    answers_without_a_sync,
    answers_before_the_sync,
    forgets_the_folder_of_a_new_file,
    forgets_the_folder_of_a_rename,
    syncs_only_where_a_rename_came_from,
    renames_before_the_bytes_are_down,
    rewrites_in_place,
    truncates_and_writes_again,
    forgets_the_folder_of_a_removal,
    forgets_the_parent_of_a_new_folder,
    syncs_another_file,
]


@pytest.mark.parametrize("program", WRONG)
def test_a_program_that_loses_data_is_caught(program: Program, tmp_path: Path) -> None:
    assert cut(program, tmp_path).failures


# The same done right, with the functions that the store has for it.


def creates(watch: str) -> None:
    durable.make_folder(f"{watch}/a/b")
    durable.create_file(f"{watch}/a/b/log", b"new" * 700)
    holds("a/b/log", b"new" * 700)


def replaces(watch: str) -> None:
    durable.create_file(f"{watch}/summary", b"old")
    holds("summary", b"old")
    may("summary", b"new" * 700)
    durable.replace_file(f"{watch}/summary", b"new" * 700)
    holds("summary", b"new" * 700)


def moves(watch: str) -> None:
    durable.make_folder(f"{watch}/trash")
    durable.make_folder(f"{watch}/session")
    durable.create_file(f"{watch}/session/log", b"kept")
    holds("session/log", b"kept")
    may("session/log", None)
    may("trash/session/log", b"kept")
    durable.move(f"{watch}/session", f"{watch}/trash/session")
    holds("session/log", None)
    holds("trash/session/log", b"kept")


def removes(watch: str) -> None:
    durable.create_file(f"{watch}/session", b"secret")
    holds("session", b"secret")
    may("session", None)
    durable.remove_file(f"{watch}/session")
    holds("session", None)


def preallocates(watch: str) -> None:
    durable.preallocate(f"{watch}/segment", 1 << 16)
    holds("segment", bytes(1 << 16))
    with open(f"{watch}/segment", "r+b", buffering=0) as segment:
        frame = b"frame".ljust(512, b".")
        may("segment", frame + bytes((1 << 16) - 512))
        segment.write(frame)
        durable.sync_data(segment.fileno())
        holds("segment", frame + bytes((1 << 16) - 512))


def makes_many_durable(watch: str) -> None:
    paths = [f"{watch}/{folder}/{name}" for folder in ("a", "b") for name in ("1", "2")]
    for path in paths:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        put(path, b"event", sync=False)
    durable.sync_folder(watch)
    assert durable.make_durable(paths) == []
    for path in paths:
        holds(os.path.relpath(path, watch), b"event")


def makes_very_many_durable(watch: str) -> None:
    paths = [f"{watch}/{number}" for number in range(durable.SYNCFS_FROM + 1)]
    for path in paths:
        put(path, b"event", sync=False)
    assert durable.make_durable(paths) == []
    for path in paths:
        holds(os.path.relpath(path, watch), b"event")


@pytest.mark.parametrize("program", [creates, replaces, moves, removes, preallocates, makes_many_durable])
def test_what_durable_promises_holds(program: Program, tmp_path: Path) -> None:
    report = cut(program, tmp_path)
    assert not report.failures, str(report)
    assert report.distinct > 2


def test_one_sync_of_the_file_system_covers_very_many_files(tmp_path: Path) -> None:
    watch = str(tmp_path / "disk")
    os.mkdir(watch)
    with recording(watch) as operations:
        makes_very_many_durable(watch)
    first_mark = next(number for number, operation in enumerate(operations) if operation[0] == "mark")
    report = cut_power(operations, Kept(operations), workers=1, first=first_mark)
    assert not report.failures, str(report)


def test_an_append_that_extends_a_synced_file_holds_after_its_sync(tmp_path: Path) -> None:
    """The file stood there before the recording: what it held is taken as durable."""

    def program(watch: str) -> None:
        holds("log", b"old\n" * 300)
        may("log", b"old\n" * 300 + b"new\n")
        may("log", b"old\n" * 300 + bytes(4))  # the size without the bytes: readers must know a NUL tail
        durable.append_file(f"{watch}/log", b"new\n")
        holds("log", b"old\n" * 300 + b"new\n")

    report = cut(program, tmp_path, prepare=lambda watch: put(f"{watch}/log", b"old\n" * 300))
    assert not report.failures, str(report)


def test_what_a_killed_process_left_unsynced_is_still_in_danger(tmp_path: Path) -> None:
    """The page cache outlives a process: its successor sees a name that the disk does not have yet."""

    def fails(watch: str) -> None:
        os.mkdir(f"{watch}/session")

    def builds_on_it(watch: str) -> None:
        durable.create_file(f"{watch}/session/log", b"new")
        holds("session/log", b"new")

    def syncs_it_first(watch: str) -> None:
        durable.sync_folder(watch)
        builds_on_it(watch)

    for successor, survives in ((builds_on_it, False), (syncs_it_first, True)):
        watch = str(tmp_path / successor.__name__)
        os.mkdir(watch)
        with recording(watch) as first:
            fails(watch)
        with recording(watch) as second:
            successor(watch)
        operations = continued(first, second)
        assert bool(cut_power(operations, Kept(operations), workers=1).failures) is not survives


def test_names_that_came_back_before_they_had_left_for_good_are_there(tmp_path: Path) -> None:
    """Two renames, there and back; the later one is synced first. In the end both count, in their order."""

    def program(watch: str) -> None:
        durable.make_folder(f"{watch}/trash")
        durable.create_file(f"{watch}/session", b"kept")
        holds("session", b"kept")
        may("session", None)
        os.rename(f"{watch}/session", f"{watch}/trash/session")
        os.rename(f"{watch}/trash/session", f"{watch}/session")
        durable.sync_folder(watch)
        holds("session", b"kept")
        durable.sync_folder(f"{watch}/trash")

    report = cut(program, tmp_path)
    assert not report.failures, str(report)


def test_what_is_written_while_a_sync_runs_is_not_covered_by_it() -> None:
    disk = Disk()
    operations: list[Operation] = [
        ("folder", "/disk", 1),
        ("file", "/disk/log", 2, [], 0),
        ("write", 2, 0, b"before"),
        ("sync_begin", 1, 2),
        ("write", 2, 600, b"while"),
        ("sync_end", 1),
    ]
    for operation in operations:
        disk.apply(operation)
    assert disk.files[2].base_size == 6
    assert disk.files[2].base[0][1].startswith(b"before")
    assert 1 in disk.files[2].pending


def test_the_last_write_is_torn_at_each_sector(tmp_path: Path) -> None:
    disk = Disk()
    operations: list[Operation] = [
        ("folder", "/disk", 1),
        ("file", "/disk/log", 2, [(0, b"o" * 2048)], 2048),
        ("write", 2, 0, b"n" * 2048),
    ]
    for operation in operations:
        disk.apply(operation)
    seen = set()
    for number, state in enumerate(States(disk).systematic()):
        disk.materialise(state, str(tmp_path / str(number)))
        seen.add((tmp_path / str(number) / "log").read_bytes())
    for torn in range(5):
        assert b"n" * 512 * torn + b"o" * 512 * (4 - torn) in seen
        assert b"n" * 512 * torn + bytes(512 * (4 - torn)) in seen
        assert b"o" * 512 * (4 - torn) + b"n" * 512 * torn in seen


def test_equal_states_have_equal_digests_and_others_do_not(tmp_path: Path) -> None:
    watch = str(tmp_path / "disk")
    os.mkdir(watch)
    with recording(watch) as operations:
        put(f"{watch}/a", b"1" * 700)
        durable.sync_folder(watch)
        put(f"{watch}/a", b"2" * 1300, sync=False)
        put(f"{watch}/b", b"3" * 10, sync=False)
        os.rename(f"{watch}/b", f"{watch}/c")
        os.truncate(f"{watch}/a", 520)
    disk = Disk()
    for operation in operations:
        disk.apply(operation)
    states = [*States(disk).systematic(), *States(disk).seeded(1, 50)]
    contents: dict[int, object] = {}
    for number, state in enumerate(states):
        folder = tmp_path / "states" / str(number)
        folder.parent.mkdir(exist_ok=True)
        disk.materialise(state, str(folder))
        content = {path.name: path.read_bytes() for path in folder.iterdir()}
        assert contents.setdefault(disk.digest(state), content) == content
    assert len({repr(content) for content in contents.values()}) == len(contents)


def test_zeros_and_holes_survive_a_materialisation(tmp_path: Path) -> None:
    disk = Disk()
    for operation in (
        ("folder", "/disk", 1),
        ("file", "/disk/segment", 2, [(1 << 20, b"frame")], 1 << 24),
    ):
        disk.apply(operation)
    disk.materialise(State("none"), str(tmp_path / "state"))
    made = tmp_path / "state" / "segment"
    assert made.stat().st_size == 1 << 24
    assert made.stat().st_blocks < 64
    assert [(offset, body.rstrip(b"\0")) for offset, body in read_runs(str(made))] == [(1 << 20, b"frame")]


EVERY_WAY = """
import ctypes, os, pathlib, shutil, sys, tempfile, threading
from chimera import durable
home = os.path.join(sys.argv[1], "home")
os.makedirs(home + "/a/b")
with open(home + "/a/text", "w") as text:
    text.write("line\\n" * 3000)
with open(home + "/a/text", "a", encoding="utf-8", newline="\\n") as text:
    text.write("more")
with open(home + "/a/text", "r+b") as both:
    both.seek(3)
    both.write(b"XX")
    both.truncate(1000)
    os.fsync(both.fileno())
descriptor = os.open(home + "/a/plain", os.O_CREAT | os.O_RDWR)
os.pwrite(descriptor, bytes(4096), 0)
os.writev(descriptor, [b"one", b"two"])
os.pwritev(descriptor, [b"three", b"four"], 100)
os.fdatasync(descriptor)
os.ftruncate(descriptor, 50)
os.posix_fallocate(descriptor, 0, 3000)
os.close(descriptor)
os.truncate(home + "/a/plain", 20)
os.rename(home + "/a/b", home + "/a/c")
os.link(home + "/a/plain", home + "/a/c/linked")
pathlib.Path(home + "/path.txt").write_text("\\u00e4")
shutil.copyfile(home + "/a/plain", home + "/copy")
os.replace(home + "/copy", home + "/path.txt")
handle, name = tempfile.mkstemp(dir=home)
with os.fdopen(handle, "wb") as made:
    made.write(b"temporary")
os.unlink(name)
folder = os.open(home + "/a", os.O_RDONLY)
inner = os.open("inner", os.O_CREAT | os.O_WRONLY, dir_fd=folder)
os.write(inner, b"inner")
os.close(inner)
os.fsync(folder)
library = ctypes.CDLL(None, use_errno=True)
library.syncfs(folder)
library.syncfs(folder)
durable.replace_file(home + "/summary.json", b"{}")
shutil.rmtree(home + "/a")

def append(name):
    for _ in range(20):
        with open(name, "ab") as log:
            log.write(b"event")
        durable.sync_file(name)

threads = [threading.Thread(target=append, args=(f"{home}/{number}",)) for number in range(3)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
"""


@pytest.mark.skipif(not power_strace.AVAILABLE, reason="strace is not installed")
def test_strace_proves_the_recorder_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    watch, trace = tmp_path / "disk", str(tmp_path / "trace")
    watch.mkdir()
    (tmp_path / "every_way.py").write_text(EVERY_WAY)
    repository = str(Path(__file__).parents[2])
    monkeypatch.setenv("PYTHONPATH", f"{repository}:{tmp_path}")
    command = [sys.executable, "-m", "every_way", str(watch)]
    strace = power_strace.prefix(str(tmp_path / "strace"))
    subprocess.run([*strace, *prefix(trace, str(watch)), *command], check=True)
    recorded = power_strace.recorded_story(read_trace(trace))
    kernel = power_strace.kernel_story(str(tmp_path / "strace"), str(watch))
    assert power_strace.differences(kernel, recorded) == []
    assert sum(map(len, kernel.values())) > 150


@pytest.mark.skipif(not power_strace.AVAILABLE, reason="strace is not installed")
def test_strace_shows_what_goes_past_the_recorder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    watch, trace = tmp_path / "disk", str(tmp_path / "trace")
    (watch / "home").mkdir(parents=True)
    (tmp_path / "sneaks.py").write_text(
        "import ctypes, os, sys\n"
        "os.mkdir(sys.argv[1] + '/home/seen')\n"
        "ctypes.CDLL(None).mkdir((sys.argv[1] + '/home/unseen').encode(), 0o700)\n"
    )
    repository = str(Path(__file__).parents[2])
    monkeypatch.setenv("PYTHONPATH", f"{repository}:{tmp_path}")
    strace = power_strace.prefix(str(tmp_path / "strace"))
    subprocess.run([*strace, *prefix(trace, str(watch)), sys.executable, "-m", "sneaks", str(watch)], check=True)
    recorded = power_strace.recorded_story(read_trace(trace))
    kernel = power_strace.kernel_story(str(tmp_path / "strace"), str(watch))
    [difference] = power_strace.differences(kernel, recorded)
    assert difference.startswith("home/unseen")

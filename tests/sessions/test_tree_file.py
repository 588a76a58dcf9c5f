"""The tree's file: every older shape, torn and foreign lines, arbitrary bytes; and the lock of those who append."""

from __future__ import annotations

import hashlib
import json
import os
import resource
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from chimera.errors import EventTooLarge, InvalidParams, Locked, NoSpace, StorageError
from chimera.sessions import tree_file
from chimera.sessions.messages import Message, ToolCall
from chimera.sessions.tree import SessionTree, TreeProblem
from chimera.sessions.tree_file import TreeFile, TreeRecord, default_tree_path

HEADER = {"type": "header", "id": "0" * 12, "parent_id": None, "timestamp": 1.5, "version": 1, "cwd": "/w"}


def entry(entry_id: str, parent_id: str | None, kind: str = "message", /, **members: object) -> dict[str, object]:
    return {"type": kind, "id": entry_id, "parent_id": parent_id, "timestamp": 1777108328.25, **members}


def said(entry_id: str, parent_id: str | None, role: str = "user") -> dict[str, object]:
    return entry(entry_id, parent_id, message={"role": role, "content": f"text of {entry_id}"})


def write(path: Path, *lines: object) -> SessionTree:
    """The tree over these lines: bytes as they are, anything else as JSON."""
    bodies = [line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines]
    path.write_bytes(b"".join(body + b"\n" for body in bodies))
    return SessionTree(path)


def texts(tree: SessionTree, leaf: str | None = None) -> list[str]:
    return [message.content for message in tree.messages(leaf)]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "tree.jsonl"


# -- what older tools write


def test_a_version_1_file_is_read_whole(path: Path) -> None:
    call = {"id": "c1", "name": "Read", "arguments": {"path": "README.md"}}
    tree = write(
        path,
        HEADER,
        entry("a" * 12, "0" * 12, message={"role": "user", "content": "hi"}),
        entry("b" * 12, "a" * 12, message={"role": "assistant", "content": "", "tool_calls": [call]}),
        entry("c" * 12, "b" * 12, message={"role": "tool", "content": "text", "call_id": "c1"}),
        entry("d" * 12, "c" * 12, "state_change", kind="model", value="glm-5"),
        entry("e" * 12, "d" * 12, "plan", data={"steps": 3}),
    )
    assert tree.problems == []
    assert tree.messages() == [
        Message("user", "hi"),
        Message("assistant", "", (ToolCall("c1", "Read", {"path": "README.md"}),)),
        Message("tool", "text", call_id="c1"),
    ]
    assert (tree.current(), tree.branch) == ("e" * 12, "main")
    assert [node.type for node in tree.iter_history("e" * 12)] == [
        "plan", "state_change", "message", "message", "message", "header",
    ]  # fmt: skip
    assert {node.session_id for node in tree.iter_history("e" * 12)} == {"0" * 12}


def test_the_active_leaf_of_an_older_file_is_its_last_parseable_line(path: Path) -> None:
    tree = write(path, said("a", None), said("b", "a"), said("c", "b"), said("d", "a"), b"{no json", b"")
    assert (tree.current(), tree.branch) == ("d", None)
    assert texts(tree) == ["text of a", "text of d"]
    assert [(branch.name, branch.leaf, branch.active) for branch in tree.list_branches()] == [("main", "c", False)]
    assert (tree.leaves(), tree.branch_points()) == (["c", "d"], ["a"])
    tree.switch("main")
    assert SessionTree(path).current() == "c"


def test_a_label_hangs_on_its_parent_and_whoever_follows_it_follows_that(path: Path) -> None:
    tree = write(
        path,
        said("a", None),
        entry("l", "a", "label", target_id="a", label="start"),
        said("b", "l"),
        entry("m", "b", "label", target_id="b", label="end"),
    )
    assert tree.labels == {"a": "start", "b": "end"}
    assert (tree.current(), tree.branch, texts(tree)) == ("b", "main", ["text of a", "text of b"])
    assert tree.fork("m").parent_id == "b"
    assert tree.problems == []


@pytest.mark.parametrize(
    ("first_kept", "expected"),
    [
        ("b", ["[Session compacted. Summary: so far]", "text of b", "text of c", "text of d"]),
        ("a", ["[Session compacted. Summary: so far]", "text of a", "text of b", "text of c", "text of d"]),
        ("", ["[Session compacted. Summary: so far]", "text of d"]),
        ("nobody", ["[Session compacted. Summary: so far]", "text of d"]),
        ("d", ["[Session compacted. Summary: so far]", "text of d"]),
    ],
)
def test_a_compaction_replaces_what_stands_before_its_first_kept_entry(
    path: Path, first_kept: str, expected: list[str]
) -> None:
    compaction = entry("k", "c", "compaction", summary="so far", first_kept_entry_id=first_kept, tokens_before=9)
    tree = write(path, said("a", None), said("b", "a"), said("c", "b"), compaction, said("d", "k"))
    assert texts(tree) == expected
    assert tree.messages()[0] == Message("user", "[Session compacted. Summary: so far]", event_id="k", synthetic=True)
    assert texts(tree, "c") == ["text of a", "text of b", "text of c"], "before the compaction nothing is replaced"


def test_of_several_compactions_the_newest_on_the_way_counts(path: Path) -> None:
    tree = write(
        path,
        said("a", None),
        said("b", "a"),
        entry("k", "b", "compaction", summary="{one}", first_kept_entry_id="b"),
        said("c", "k"),
        entry("l", "c", "compaction", summary="two", first_kept_entry_id="b"),
        said("d", "c"),
    )
    assert texts(tree, "l") == ["[Session compacted. Summary: two]", "text of b", "text of c"]
    assert texts(tree) == ["[Session compacted. Summary: {one}]", "text of b", "text of c", "text of d"]


# -- what is wrong with a file


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        (b"{", "it is no JSON object"),
        (b"[1, 2]", "it is no JSON object"),
        (b"null", "it is no JSON object"),
        (b"\xff\xfe", "it is no JSON object"),
        (b"[" * 100_000, "it is no JSON object"),
        (b'{"a":' * 100_000, "it is no JSON object"),
        (b'{"foreign": true}', "it has no id or no type"),
        ({"type": "message", "parent_id": "a"}, "it has no id or no type"),
        ({"id": "x", "parent_id": "a"}, "it has no id or no type"),
        ({"type": ["message"], "id": "x"}, "it has no id or no type"),
        (b"\0" * 64, "NUL bytes"),
        (said("a", None), "'a' is that of an earlier line"),
        (entry("x", "a", "label", target_id="nobody", label="l"), "no earlier line has the id 'nobody'"),
        (entry("x", None, "switch"), "it switches to nothing"),
    ],
)
def test_a_line_that_says_nothing_is_a_problem_and_changes_nothing(path: Path, line: object, sentence: str) -> None:
    tree = write(path, said("a", None), line, b"  ", said("b", "a"))
    assert [problem.line for problem in tree.problems] == [2]
    assert sentence in tree.problems[0].message
    assert (texts(tree), tree.labels) == (["text of a", "text of b"], {})
    assert [branch.leaf for branch in tree.list_branches()] == ["b"]


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ({"type": "message", "id": "b", "timestamp": 1.0}, "it has no parent_id"),
        ({"type": "message", "id": "b", "timestamp": 1.0, "parent_id": 7}, "it has no parent_id"),
        (said("b", "c"), "no earlier line has its parent_id 'c'"),
        (said("b", "b"), "no earlier line has its parent_id 'b'"),
        ({"type": "x", "id": "b", "parent_id": "a"}, "it has no timestamp"),
        ({"type": "x", "id": "b", "parent_id": "a", "timestamp": True}, "it has no timestamp"),
        (b'{"type":"x","id":"b","parent_id":"a","timestamp":1' + b"0" * 400 + b"}", "it has no timestamp"),
        (entry("b", "a"), "it holds no message"),
        (entry("b", "a", message={"content": "hi"}), "it holds no message"),
        (entry("b", "a", message={"role": "user", "content": "x", "tool_calls": 5}), "its tool_calls are no list"),
        (entry("b", "a", message={"role": "user", "tool_calls": [{"arguments": "x"}]}), "arguments of a tool call"),
        (entry("b", "a", "fork"), "its branch's name is missing"),
        (entry("b", "a", "fork", name="main"), "its branch's name is missing or taken"),
        (b"\0\0" + json.dumps(said("b", "a")).encode(), "NUL bytes"),
    ],
)
def test_an_entry_that_is_partly_wrong_is_a_problem_and_kept(path: Path, line: object, sentence: str) -> None:
    tree = write(path, said("a", None), line, said("c", "b"))
    assert sentence in " ".join(problem.message for problem in tree.problems)
    assert {problem.line for problem in tree.problems} == {2}
    assert next(tree.iter_history("c")).parent_id == "b"
    assert texts(tree)[-1] == "text of c"


def test_cycles_end_at_the_line_that_came_first(path: Path) -> None:
    tree = write(path, said("a", "c"), said("b", "a"), said("c", "b"))
    assert [node.id for node in tree.iter_history("c")] == ["c", "b", "a"]
    assert tree.problems == [TreeProblem(1, "no earlier line has its parent_id 'c'; it is taken as a root")]


def test_what_other_json_libraries_let_through_is_read(path: Path) -> None:
    line = b'{"type":"message","id":"a","parent_id":null,"timestamp":1,"message":{"role":"user","content":"\\ud800",' \
        b'"tool_calls":[{"id":"1","name":"x","arguments":{"a":NaN}}]}}'  # fmt: skip
    tree = write(path, line)
    assert tree.messages() == [Message("user", "\\ud800", (ToolCall("1", "x", {"a": None}),))]


def test_content_in_parts_is_its_text(path: Path) -> None:
    parts = [{"type": "text", "text": "one "}, {"type": "text", "text": "two"}]
    assert texts(write(path, entry("a", None, message={"role": "user", "content": parts}))) == ["one two"]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(body=st.binary(max_size=300))
def test_arbitrary_bytes_never_raise(path: Path, body: bytes) -> None:
    path.write_bytes(body)
    read_all(SessionTree(path))


_ids = st.sampled_from(["a", "b", "c", "d", "main", ""])
_odd = st.one_of(_ids, st.none(), st.integers(), st.lists(_ids, max_size=2), st.just({"role": "user"}))
_lines = st.dictionaries(
    st.sampled_from(
        ["id", "parent_id", "timestamp", "message", "name", "target_id", "label", "summary", "first_kept_entry_id"]
    ),
    _odd,
).flatmap(
    lambda members: st.sampled_from(["message", "label", "switch", "fork", "session", "compaction", "x"]).map(
        lambda kind: {"id": "a", "parent_id": "b", **members, "type": kind}
    )
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=300)
@given(lines=st.lists(st.one_of(_lines, _lines.map(lambda line: json.dumps(line).encode()[:-7])), max_size=12))
def test_nearly_right_lines_never_raise_and_can_be_appended_to(path: Path, lines: list[object]) -> None:
    tree = write(path, *lines)
    read_all(tree)
    before = len(tree.problems)
    node = tree.append_message(Message("user", "hi"))
    tree.switch(tree.fork(node.id).id)
    assert read_all(SessionTree(path)) == read_all(tree)
    assert len(tree.problems) == before


def read_all(tree: SessionTree) -> list[object]:
    """Everything a reader can ask for; histories end."""
    seen: list[object] = [tree.current(), tree.branch, tree.list_branches(), tree.labels, tree.problems]
    for leaf in tree.leaves():
        history = [node.id for node in tree.iter_history(leaf)]
        assert len(set(history)) == len(history)
        seen += [history, tree.messages(leaf)]
    return [*seen, tree.branch_points(), tree.messages()]


# -- the end of the file


def test_a_torn_last_line_is_left_out_and_then_kept_as_a_line_of_its_own(path: Path) -> None:
    path.write_bytes(json.dumps(said("a", None)).encode() + b'\n{"type":"mess')
    tree = SessionTree(path)
    assert texts(tree) == ["text of a"]
    assert tree.problems == [TreeProblem(2, "its 13 bytes have no end yet; the next append gives them one")]
    tree.append_message(Message("user", "hi"))
    assert path.read_bytes().split(b"\n")[1] == b'{"type":"mess'
    assert texts(tree) == texts(SessionTree(path)) == ["text of a", "hi"]
    assert tree.problems == SessionTree(path).problems == [TreeProblem(2, "it is no JSON object")]


def test_a_whole_last_line_without_an_end_counts_once_the_next_append_has_ended_it(path: Path) -> None:
    path.write_bytes(json.dumps(said("a", None)).encode() + b"\n" + json.dumps(said("b", "a")).encode())
    tree = SessionTree(path)
    assert texts(tree) == ["text of a"]
    assert tree.append_message(Message("user", "hi")).parent_id == "b"
    assert texts(tree) == ["text of a", "text of b", "hi"]
    assert tree.problems == []


def test_a_file_cut_anywhere_reads_as_its_whole_lines(path: Path, tmp_path: Path) -> None:
    tree = SessionTree(path)
    tree.add("s1")
    tree.append_message(Message("user", "hi"))
    tree.fork("s1", "other")
    tree.switch("main")
    body = path.read_bytes()
    cut = tmp_path / "cut.jsonl"
    for size in range(len(body) + 1):
        cut.write_bytes(body[:size])
        found = SessionTree(cut)
        assert len(found.problems) == (size > 0 and body[size - 1 : size] != b"\n")
        assert len(list(TreeFile(str(cut)).read_new())) == body[:size].count(b"\n")


def test_what_others_append_is_read_bit_by_bit(path: Path) -> None:
    tree = SessionTree(path)
    line = json.dumps(said("a", None)).encode() + b"\n"
    with open(path, "ab", buffering=0) as file:
        for byte in line[:-1]:
            file.write(bytes([byte]))
            assert tree.current() is None
        file.write(b"\n")
    assert tree.current() == "a"
    assert tree.problems == []


@pytest.mark.parametrize("replace", [os.unlink, lambda path: os.truncate(path, 0)], ids=["removed", "cut"])
def test_a_file_that_was_replaced_is_read_anew(path: Path, replace: Callable[[Path], None]) -> None:
    tree = SessionTree(path)
    tree.add("s1", "first")
    replace(path)
    assert (tree.current(), tree.branch, tree.list_branches()) == (None, None, [])
    tree.add("s2")
    assert (tree.current(), tree.branch) == ("s2", "main")
    beside = path.with_name("beside.jsonl")
    SessionTree(beside).add("s3", "third")
    os.rename(beside, path)
    assert (tree.current(), tree.branch) == ("s3", "third")


def test_a_large_file_opens_in_linear_time(path: Path) -> None:
    def seconds_for(lines: int) -> float:
        with open(path, "w", encoding="ascii") as file:
            for number in range(lines):
                parent = f'"{number - 1:012x}"' if number else "null"
                member = '"message":{"role":"user","content":"hi"}'
                file.write(f'{{"type":"message","id":"{number:012x}","parent_id":{parent},"timestamp":1,{member}}}\n')
        start = time.process_time()
        tree = SessionTree(path)
        assert len(tree.messages()) == lines
        return time.process_time() - start

    small = seconds_for(10_000)
    assert seconds_for(100_000) < 40 * small


# -- writing


def test_a_line_is_written_as_older_tools_write_it(path: Path) -> None:
    tree = SessionTree(path)
    first = tree.append_message(Message("user", "hi"))
    calls = (ToolCall("c1", "Read", {"path": "a"}),)
    second = tree.append_message(Message("assistant", "", calls))
    tree.append_message(Message("tool", "x", call_id="c1"))
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert list(lines[0]) == ["type", "id", "parent_id", "timestamp", "message"]
    assert [line["parent_id"] for line in lines] == [None, first.id, second.id]
    assert isinstance(lines[0]["timestamp"], float)
    assert [line["message"] for line in lines] == [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "",
         "tool_calls": [{"id": "c1", "name": "Read", "arguments": {"path": "a"}}]},
        {"role": "tool", "content": "x", "call_id": "c1"},
    ]  # fmt: skip
    assert all(len(line["id"]) == 12 and set(line["id"]) <= set("0123456789abcdef") for line in lines)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize("value", [object(), float("nan"), {1, object()}])
def test_what_json_cannot_carry_is_refused_and_nothing_is_written(path: Path, value: object) -> None:
    tree = SessionTree(path)
    with pytest.raises(InvalidParams):
        tree.append_message(Message("assistant", "", (ToolCall("1", "x", {"a": value}),)))
    with pytest.raises(EventTooLarge):
        tree.append_message(Message("user", "x" * 9_000_000))
    assert not path.exists()
    tree.append_message(Message("user", "\ud800"))
    assert texts(SessionTree(path)) == ["\\ud800"]


def test_the_default_file_is_named_for_the_working_directory(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "wörk"
    folder.mkdir()
    monkeypatch.chdir(folder)
    name = hashlib.sha256(str(folder).encode()).hexdigest()[:12]
    assert default_tree_path() == str(home / "sessions" / f"{name}.jsonl")
    tree = SessionTree()
    assert not home.exists(), "who only reads makes nothing"
    tree.add("s1")
    assert SessionTree().current() == "s1"
    assert stat.S_IMODE((home / "sessions").stat().st_mode) == 0o700


def test_readers_need_no_lock_and_writers_say_who_holds_it(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree = SessionTree(path)
    tree.add("s1")
    monkeypatch.setattr(tree_file, "WAIT_SECONDS", 0.1)
    code = "import sys; from chimera.sessions.tree_file import TreeFile\n" \
        "with TreeFile(sys.argv[1]).locked(): print('held', flush=True); sys.stdin.read()"  # fmt: skip
    with subprocess.Popen(
        [sys.executable, "-c", code, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        assert (tree.current(), SessionTree(path).current()) == ("s1", "s1")
        with pytest.raises(Locked, match=rf"process {holder.pid} has been writing"):
            tree.append_message(Message("user", "hi"))
        holder.communicate()
    tree.append_message(Message("user", "hi"))


def test_a_full_disk_is_one_clear_error_and_the_next_append_goes_on(path: Path) -> None:
    tree = SessionTree(path)
    tree.add("s1")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 20, hard))
    try:
        with pytest.raises(NoSpace, match="refused the append"):
            tree.append_message(Message("user", "lost"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (tree.current(), [problem.line for problem in tree.problems]) == ("s1", [2])
    assert tree.append_message(Message("user", "hi")).parent_id == "s1"
    assert texts(SessionTree(path)) == ["hi"]


def test_a_path_that_is_no_file_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="cannot be read"):
        SessionTree(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=r"cannot be read|refused"):
        SessionTree(tmp_path / "file" / "tree.jsonl").add("s1")


def test_a_record_is_read_as_it_was_written(path: Path) -> None:
    file = TreeFile(str(path))
    record = TreeRecord(type="label", id="a", parent_id=None, timestamp=2.5, target_id="b", label="ü\n\u2028")
    with file.locked():
        file.append(record)
    assert [(line.number, line.record) for line in file.read_new()] == [(1, record)]
    assert list(file.read_new()) == []

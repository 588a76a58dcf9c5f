"""``SessionTree``: forks, branches and switching; the position after a restart; threads, processes and kills."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from chimera.errors import InvalidId, InvalidParams, SessionExists
from chimera.sessions.messages import Message
from chimera.sessions.tree import SessionBranch, SessionNode, SessionTree


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "sessions" / "tree.jsonl"


def say(tree: SessionTree, *contents: str) -> list[SessionNode]:
    return [tree.append_message(Message("user", content)) for content in contents]


def texts(tree: SessionTree, leaf: str | None = None) -> list[str]:
    return [message.content for message in tree.messages(leaf)]


# -- one tree


def test_an_empty_tree_has_nothing_and_makes_no_file(path: Path) -> None:
    tree = SessionTree(path)
    assert (tree.current(), tree.branch, tree.list_branches(), tree.labels) == (None, None, [], {})
    assert (tree.leaves(), tree.branch_points(), tree.messages(), tree.problems) == ([], [], [], [])
    with pytest.raises(InvalidParams, match="the tree is empty; add a session or append a message first"):
        tree.fork("s1")
    assert not path.exists()


def test_sessions_are_linked_to_the_one_they_were_forked_from(path: Path) -> None:
    tree = SessionTree(path)
    root = tree.add("mink-20260425T091201-71032a5e")
    child = tree.fork(root.id, "try-again")
    grandchild = tree.fork(child.id, session_id="mink-20260425T091208-0a1b2c3d")
    assert (root.parent_id, root.session_id, root.name, root.type) == (None, root.id, "main", "session")
    assert (child.parent_id, child.session_id, child.name, child.type) == (root.id, child.id, "try-again", "fork")
    assert (grandchild.id, grandchild.name) == ("mink-20260425T091208-0a1b2c3d", "branch_mink-202")
    assert list(tree.iter_history(grandchild.id)) == [grandchild, child, root]
    assert tree.list_branches() == [
        SessionBranch("main", root.id, None, False),
        SessionBranch("try-again", child.id, root.id, False),
        SessionBranch("branch_mink-202", grandchild.id, child.id, True),
    ]


def test_a_fork_leaves_the_past_as_it_is_and_is_switched_to(path: Path) -> None:
    tree = SessionTree(path)
    tree.add("s1")
    one, two = say(tree, "one", "two")
    before = path.read_bytes()
    fork = tree.fork(one.id, "other")
    assert (tree.current(), tree.branch) == (fork.id, "other")
    assert say(tree, "three")[0].session_id == fork.id
    assert texts(tree) == ["one", "three"]
    assert texts(tree, "main") == texts(tree, two.id) == ["one", "two"]
    assert path.read_bytes().startswith(before)
    assert tree.branch_points() == [one.id]
    assert tree.leaves() == [two.id, tree.current()]


def test_switching_goes_to_the_newest_node_of_a_branch_or_to_the_very_node(path: Path) -> None:
    tree = SessionTree(path)
    one, two = say(tree, "one", "two")
    tree.fork(one.id, "other")
    assert tree.switch("main") == two
    assert (tree.current(), tree.branch) == (two.id, "main")
    assert tree.switch(one.id) == one
    assert (tree.current(), tree.branch) == (one.id, None)
    (three,) = say(tree, "three")
    assert (three.parent_id, tree.branch) == (one.id, None)
    assert tree.switch(two.id) == two
    assert tree.branch == "main"
    assert sorted(branch.leaf for branch in tree.list_branches()) == sorted([two.id, tree.node("other").id])
    assert set(tree.leaves()) == {two.id, three.id, tree.node("other").id}


def test_labels_are_replaced_and_taken_away_and_move_nothing(path: Path) -> None:
    tree = SessionTree(path)
    one, two = say(tree, "one", "two")
    tree.label(one.id, "start")
    tree.label("main", "end")
    assert (tree.labels, tree.current()) == ({one.id: "start", two.id: "end"}, two.id)
    tree.label(one.id, "begin")
    tree.label(two.id, "")
    assert tree.labels == SessionTree(path).labels == {one.id: "begin"}
    assert say(tree, "three")[0].parent_id == two.id


def test_names_and_ids_that_are_unknown_are_told_with_those_that_are_there(path: Path) -> None:
    tree = SessionTree(path)
    tree.add("s1")
    tree.fork("s1", "other")
    for ask in (tree.fork, tree.switch, tree.node, tree.iter_history, tree.messages, lambda to: tree.label(to, "x")):
        with pytest.raises(InvalidParams, match=r"'nobody' is neither .* its branches are 'main', 'other'"):
            ask("nobody")
    for number in range(30):
        tree.fork("s1", f"b{number}")
    with pytest.raises(InvalidParams, match=r"one of the 32 ids of the tree; .* 'b17' and 12 more"):
        tree.switch("nobody")


@pytest.mark.parametrize("name", ["main", "other", "s1", "", "  ", "two\nlines", "\ud800"])
def test_a_branch_name_that_is_taken_or_no_text_is_refused(path: Path, name: str) -> None:
    tree = SessionTree(path)
    tree.add("s1")
    tree.fork("s1", "other")
    before = path.read_bytes()
    with pytest.raises(InvalidParams, match=r"another name|plain name"):
        tree.fork("s1", name)
    with pytest.raises(InvalidParams, match=r"another name|plain name"):
        tree.add("s2", name)
    assert path.read_bytes() == before


def test_a_session_that_is_there_or_has_no_valid_id_is_refused(path: Path) -> None:
    tree = SessionTree(path)
    tree.add("s1")
    for known in ("s1", "main"):
        with pytest.raises(SessionExists, match="switch to it, or give another id"):
            tree.add(known)
        with pytest.raises(SessionExists):
            tree.fork("s1", "x", session_id=known)
    with pytest.raises(InvalidId):
        tree.add("../s2")
    with pytest.raises(InvalidParams):
        tree.add("s2", "s2")


def test_several_roots_each_have_a_branch(path: Path) -> None:
    tree = SessionTree(path)
    assert [tree.add(session_id).name for session_id in ("s1", "s2", "main-1")] == [
        "main",
        "branch_s2",
        "branch_main-1",
    ]
    assert tree.add("main-2", "mine").name == "mine"
    assert [branch.parent for branch in tree.list_branches()] == [None] * 4
    assert SessionTree(path.with_name("other.jsonl")).add("main").name == "branch_main"


# -- after a restart


def test_position_branches_and_labels_survive_a_restart(path: Path) -> None:
    tree = SessionTree(path)
    one, _ = say(tree, "one", "two")
    tree.fork(one.id, "other")
    say(tree, "three")
    for to in ("main", "other", one.id):
        tree.switch(to)
        tree.label(to, f"at {to}")
        again = SessionTree(path)
        assert (again.current(), again.branch, again.labels) == (tree.current(), tree.branch, tree.labels)
        assert again.list_branches() == tree.list_branches()
        assert again.messages() == tree.messages()
    assert say(SessionTree(path), "four")[0].parent_id == one.id


def test_nobody_else_moves_a_tree_but_its_branch_grows(path: Path) -> None:
    mine, other = SessionTree(path), SessionTree(path)
    mine.add("s1")
    assert other.current() == "s1"
    other.fork("s1", "other")
    assert (mine.branch, mine.current()) == ("main", "s1")
    other.switch("main")
    (theirs,) = say(other, "theirs")
    assert mine.current() == theirs.id
    assert say(mine, "mine")[0].parent_id == theirs.id
    other.switch("other")
    assert texts(mine) == ["theirs", "mine"]


class TreesAgainstDicts(RuleBasedStateMachine):
    """Two objects on one file do what plain dicts do; a restart at any point changes nothing."""

    @initialize()
    def open(self) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.path = Path(self.folder.name) / "tree.jsonl"
        self.trees = [SessionTree(self.path), SessionTree(self.path)]
        self.positions: list[tuple[str | None, str] | None] = [None, None]  # branch, node
        self.parents: dict[str, str | None] = {}
        self.said: dict[str, Message] = {}
        self.leaves: dict[str, str] = {}  # of branches
        self.begun: dict[str, str | None] = {}
        self.labels: dict[str, str] = {}
        self.newest: tuple[str | None, str] | None = None

    def teardown(self) -> None:
        self.folder.cleanup()

    def leaf(self, who: int) -> str | None:
        position = self.positions[who]
        if position is None:
            return None
        return self.leaves[position[0]] if position[0] is not None else position[1]

    def stand(self, who: int, branch: str | None, node_id: str) -> None:
        self.positions[who] = self.newest = (branch, node_id)
        self.positions = [position or self.newest for position in self.positions]

    def any_node(self, draw: st.DataObject) -> str | None:
        return draw.draw(st.sampled_from([*self.parents, *self.leaves])) if self.parents else None

    def meant(self, to: str) -> str:
        return self.leaves.get(to, to)

    @rule(who=st.integers(0, 1), content=st.text(st.characters(codec="utf-8"), max_size=5), times=st.integers(1, 3))
    def append(self, who: int, content: str, times: int) -> None:
        for _ in range(times):
            leaf, message = self.leaf(who), Message("user", content)
            node = self.trees[who].append_message(message)
            branch = "main" if leaf is None else next((b for b, at in self.leaves.items() if at == leaf), None)
            self.parents[node.id], self.said[node.id] = leaf, message
            if leaf is None:
                self.begun["main"] = None
            if branch is not None:
                self.leaves[branch] = node.id
            self.stand(who, branch, node.id)

    @rule(who=st.integers(0, 1), name=st.sampled_from(["a", "b", "c d", None]), draw=st.data())
    def fork(self, who: int, name: str | None, draw: st.DataObject) -> None:
        parent = self.any_node(draw)
        if parent is None:
            return
        if name in self.leaves:
            with pytest.raises(InvalidParams):
                self.trees[who].fork(parent, name)
            return
        node = self.trees[who].fork(parent, name)
        assert node.name is not None
        assert name in (None, node.name)
        self.parents[node.id] = self.begun[node.name] = self.meant(parent)
        self.leaves[node.name] = node.id
        self.stand(who, node.name, node.id)

    @rule(who=st.integers(0, 1), name=st.sampled_from(["a", "main", None]), number=st.integers(0, 5))
    def add(self, who: int, name: str | None, number: int) -> None:
        session_id = f"s{number}"
        if session_id in self.parents or name in self.leaves:
            with pytest.raises((InvalidParams, SessionExists)):
                self.trees[who].add(session_id, name)
            return
        node = self.trees[who].add(session_id, name)
        assert node.name == (name or (f"branch_{session_id}" if "main" in self.leaves else "main"))
        self.parents[node.id] = self.begun[node.name] = None
        self.leaves[node.name] = node.id
        self.stand(who, node.name, node.id)

    @rule(who=st.integers(0, 1), draw=st.data())
    def switch(self, who: int, draw: st.DataObject) -> None:
        to = self.any_node(draw)
        if to is not None:
            self.trees[who].switch(to)
            node_id = self.meant(to)
            self.stand(who, next((b for b, at in self.leaves.items() if at == node_id), None), node_id)

    @rule(who=st.integers(0, 1), label=st.sampled_from(["x", "y", ""]), draw=st.data())
    def label(self, who: int, label: str, draw: st.DataObject) -> None:
        target, leaf = self.any_node(draw), self.leaf(who)
        if target is not None and leaf is not None:
            self.trees[who].label(target, label)
            self.labels[self.meant(target)] = label
            self.labels = {node_id: text for node_id, text in self.labels.items() if text}
            position = self.positions[who]
            assert position is not None
            self.stand(who, position[0], leaf)

    @rule(who=st.integers(0, 1))
    def restart(self, who: int) -> None:
        self.trees[who] = SessionTree(self.path)
        self.positions[who] = self.newest

    @invariant()
    def all_agree(self) -> None:
        for who, tree in enumerate(self.trees):
            leaf, position = self.leaf(who), self.positions[who]
            branch = position[0] if position is not None else None
            assert (tree.current(), tree.branch) == (leaf, branch)
            assert tree.list_branches() == [
                SessionBranch(name, at, self.begun[name], name == branch) for name, at in self.leaves.items()
            ]
            assert tree.labels == self.labels
            history = []
            while leaf is not None:
                history.append(leaf)
                leaf = self.parents[leaf]
            if history:
                assert [node.id for node in tree.iter_history(history[0])] == history
            assert tree.messages() == [self.said[node_id] for node_id in reversed(history) if node_id in self.said]
            followed = list(self.parents.values())
            assert tree.leaves() == [node_id for node_id in self.parents if node_id not in followed]
            assert tree.branch_points() == [node_id for node_id in self.parents if followed.count(node_id) > 1]
            assert tree.problems == []


TreesAgainstDicts.TestCase.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)
TestTreesAgainstDicts = TreesAgainstDicts.TestCase


# -- threads, processes, kills


def test_threads_share_a_tree_and_lose_nothing(path: Path) -> None:
    tree = SessionTree(path)
    tree.add("s1")

    def work(number: int) -> None:
        for turn in range(8):
            tree.append_message(Message("user", f"{number}.{turn}"))
            tree.fork("main", f"{number}-{turn}")
            tree.switch("main")
            tree.messages()
            tree.leaves()

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    assert len(tree.list_branches()) == 33
    entries = [node for leaf in tree.leaves() for node in tree.iter_history(leaf) if node.type == "message"]
    assert len({node.id for node in entries}) == 32
    assert SessionTree(path).problems == []


WORKER = """
import sys
from chimera.sessions.messages import Message
from chimera.sessions.tree import SessionTree
tree, me, turns = SessionTree(sys.argv[1]), sys.argv[2], int(sys.argv[3])
tree.fork("s1", me)
for turn in range(turns):
    tree.switch(me)
    print(tree.append_message(Message("user", f"{me} {turn}")).id, flush=True)
    print(tree.fork(me, f"{me}-{turn}").id, flush=True)
"""


def worker(path: Path, name: str, turns: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", WORKER, str(path), name, str(turns)], stdout=subprocess.PIPE, text=True
    )


def test_two_processes_fork_and_switch_at_once_and_both_are_seen_whole(path: Path) -> None:
    before = SessionTree(path)
    before.add("s1")
    workers = [worker(path, name, 20) for name in ("left", "right")]
    made = [process.communicate()[0].split() for process in workers]
    assert [process.returncode for process in workers] == [0, 0]
    lines = [json.loads(line) for line in path.read_bytes().splitlines()]
    ids = [line["id"] for line in lines]
    assert len(ids) == len(set(ids)) == 1 + 2 * (1 + 20 * 3)
    for tree in (before, SessionTree(path)):
        assert tree.problems == []
        assert {branch.name for branch in tree.list_branches()} == {
            "main", "left", "right", *(f"{name}-{turn}" for name in ("left", "right") for turn in range(20)),
        }  # fmt: skip
        for name, nodes in zip(("left", "right"), made, strict=True):
            assert texts(tree, name) == [f"{name} {turn}" for turn in range(20)]
            assert [tree.node(node_id).id for node_id in nodes] == nodes
    assert (before.current(), before.branch) == ("s1", "main")


@pytest.mark.parametrize("after", [0, 1, 7, 40])
def test_a_kill_in_the_middle_of_appends_loses_nothing_that_was_acknowledged(path: Path, after: int) -> None:
    SessionTree(path).add("s1")
    with worker(path, "victim", 1_000_000) as process:
        assert process.stdout is not None
        acknowledged = [process.stdout.readline().strip() for _ in range(after)]
        process.send_signal(signal.SIGKILL)
        acknowledged += process.stdout.read().splitlines()
    body = path.read_bytes()
    assert all(isinstance(msgspec.json.decode(line), dict) for line in body.split(b"\n")[:-1])
    tree = SessionTree(path)
    assert [tree.node(node_id).id for node_id in acknowledged] == acknowledged
    (node,) = say(tree, "after the kill")
    assert texts(SessionTree(path))[-1] == "after the kill"
    assert path.read_bytes().startswith(body)
    assert SessionTree(path).current() == node.id

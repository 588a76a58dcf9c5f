"""Tools and other hands in any order: undo and redo against a plain model of who changed what."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from chimera.file_restore import plan_restore
from tests.files.bench import Bench, Tree, tree

NAMES = ("a", "b", "x/c", "x/y/d")
BODIES = (b"", b"text\n", b"text\r\n", b"\x00\xff\xfe" * 700)

acts = st.one_of(
    st.tuples(st.just("write"), st.sampled_from(BODIES)),
    st.tuples(st.just("replace"), st.sampled_from(BODIES)),
    st.tuples(st.just("remove"), st.just(b"")),
    st.tuples(st.just("chmod"), st.sampled_from((b"755", b"600", b"644"))),
    st.tuples(st.just("link"), st.sampled_from((b"elsewhere", b"nowhere"))),
)
Deed = tuple[bool, str, tuple[str, bytes]]
deeds = st.lists(st.tuples(st.booleans(), st.sampled_from(NAMES), acts), min_size=1, max_size=14)


def act(path: Path, kind: str, argument: bytes) -> None:
    """What a tool may do, and others too. A write into a link's place replaces the link."""
    path.parent.mkdir(parents=True, exist_ok=True)
    there = os.path.lexists(path)
    if kind == "remove" or (there and (kind in ("replace", "link") or path.is_symlink())):
        path.unlink(missing_ok=True)
    if kind in ("write", "replace"):
        path.write_bytes(argument)
    elif kind == "link":
        path.symlink_to(argument.decode())
    elif kind == "chmod" and path.exists():
        path.chmod(int(argument, 8))


class Model:
    """What each file was around the tools' accesses."""

    def __init__(self) -> None:
        self.first: dict[str, object] = {}
        self.last: dict[str, object] = {}
        self.interfered: set[str] = set()

    def note(self, name: str, before: object, after: object) -> None:
        if before != self.last.setdefault(name, before) and after != self.last[name]:
            self.interfered.add(name)
        self.first.setdefault(name, before)
        self.last[name] = after

    def restorable(self, name: str, present: object) -> bool:
        """Whether the session alone is responsible for what is there."""
        return name in self.first and name not in self.interfered and present == self.last[name]


def run(bench: Bench, steps: list[Deed]) -> tuple[Model, set[str]]:
    """Do it all; gives the model and the files that other hands were on."""
    model, foreign = Model(), set()
    for by_tool, name, (kind, argument) in steps:
        path = bench.path(name)
        if not by_tool:
            act(path, kind, argument)
            foreign.add(name)
            continue
        before = tree(bench.work).get(name)
        bench.tool(name, lambda path, kind=kind, argument=argument: act(path, kind, argument))
        model.note(name, before, tree(bench.work).get(name))
    return model, foreign


def files(found: Tree) -> dict[str, object]:
    return {name: found.get(name) for name in NAMES}


@settings(deadline=None, max_examples=150)
@given(begun=deeds, steps=deeds)
def test_undo_takes_back_what_the_tools_alone_did_and_redo_does_it_again(begun: list[Deed], steps: list[Deed]) -> None:
    with tempfile.TemporaryDirectory() as made:
        bench = Bench(Path(os.path.realpath(made)))
        for _, name, (kind, argument) in begun:
            act(bench.path(name), kind, argument)
        began = files(tree(bench.work))
        model, foreign = run(bench, steps)
        ended = files(tree(bench.work))

        report = bench.undo()
        undone = files(tree(bench.work))
        for name in NAMES:
            if name not in foreign:
                assert undone[name] == began[name]
            restored = model.restorable(name, ended[name])
            assert undone[name] == (model.first[name] if restored else ended[name])
            assert (str(bench.path(name)) in report.restored) == (restored and model.first[name] != model.last[name])

        again = bench.go(plan_restore(report.accesses, direction="undo"))
        assert sorted(again.restored) == sorted(report.restored)
        assert files(tree(bench.work)) == ended
        bench.undo()
        assert files(tree(bench.work)) == undone

        bench.redo()
        redone = files(tree(bench.work))
        for name in NAMES:
            if name not in foreign:
                assert redone[name] == ended[name]


@settings(deadline=None, max_examples=60)
@given(steps=deeds)
def test_a_forced_undo_goes_back_everywhere_and_can_itself_be_undone(steps: list[Deed]) -> None:
    with tempfile.TemporaryDirectory() as made:
        bench = Bench(Path(os.path.realpath(made)))
        model, _ = run(bench, steps)
        ended = files(tree(bench.work))
        report = bench.undo(force=True)
        undone = files(tree(bench.work))
        for name in NAMES:
            changed = name in model.first and model.first[name] != model.last[name]
            assert undone[name] == (model.first[name] if changed else ended[name])
        assert report.conflicts == []
        bench.go(plan_restore(report.accesses, direction="undo"))
        assert files(tree(bench.work)) == ended

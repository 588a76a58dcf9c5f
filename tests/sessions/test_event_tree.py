"""``EventTree``: branches, leaves and paths over a list of events, whoever wrote it and however its parents stand."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chimera.errors import InvalidParams
from chimera.events.event import Event
from chimera.sessions.event_tree import MAIN_BRANCH, EventTree


def event(number: int, parent: int | str | None, event_type: str = "user_message", **metadata: Any) -> Event:
    """Event ``e<number>`` below ``e<parent>``."""
    parent_id = f"e{parent}" if isinstance(parent, int) else parent
    return Event(seq=number, id=f"e{number}", parent_id=parent_id, type=event_type, ts="", metadata=metadata)


def line(count: int) -> list[Event]:
    """Events ``e1`` to ``e<count>``, each below the one before."""
    return [event(number, number - 1 or None, content=f"message {number}") for number in range(1, count + 1)]


def ids(events: list[Event]) -> list[str]:
    return [one.id for one in events]


def leaves_of(tree: EventTree) -> dict[str, str | None]:
    return {name: branch.leaf for name, branch in tree.branches.items()}


# -- one path


def test_an_empty_tree_stands_on_main() -> None:
    tree = EventTree()
    assert (tree.leaf, tree.current, leaves_of(tree)) == (None, MAIN_BRANCH, {MAIN_BRANCH: None})
    assert (tree.path(), tree.nodes(), tree.leaves(), tree.branch_points()) == ([], [], [], [])
    assert "e1" not in tree
    with pytest.raises(InvalidParams, match="has no event yet"):
        tree.resolve(MAIN_BRANCH)


def test_a_log_without_branches_is_one_path() -> None:
    tree = EventTree(line(4))
    assert ids(tree.path()) == ["e1", "e2", "e3", "e4"]
    assert ids(tree.path("e2")) == ["e1", "e2"]
    assert ids(list(tree.ancestors("e3"))) == ["e3", "e2", "e1"]
    assert (tree.leaves(), tree.branch_points(), tree.leaf) == (["e4"], [], "e4")
    assert "e3" in tree


def test_the_path_is_a_list_of_ones_own() -> None:
    tree = EventTree(line(3))
    tree.path().clear()
    assert len(tree.path()) == 3


def test_a_tree_that_grew_is_as_one_that_was_built_at_once() -> None:
    events = [*line(3), event(4, 1, "branch", name="b", at="e1"), event(5, 4), event(6, 3, "switch", branch="main")]
    grown = EventTree()
    for one in events:
        grown.add(one)
    built = EventTree(events)
    assert (grown.nodes(), grown.branches, grown.current) == (built.nodes(), built.branches, built.current)


# -- branches


def test_a_branch_has_the_events_after_its_beginning_and_leaves_the_other_alone() -> None:
    tree = EventTree([*line(3), event(4, 1, "branch", name="left", at="e1"), event(5, 4)])
    assert (tree.current, leaves_of(tree)) == ("left", {"main": "e3", "left": "e5"})
    assert tree.branches["left"].began_at == "e1"
    assert ids(tree.path()) == ["e1", "e4", "e5"]
    assert ids(tree.path("e3")) == ["e1", "e2", "e3"]
    assert (tree.leaves(), tree.branch_points()) == (["e3", "e5"], ["e1"])


def test_a_switch_goes_on_at_the_end_of_its_branch() -> None:
    tree = EventTree(
        [*line(2), event(3, 1, "branch", name="left"), event(4, 2, "switch", to="e2", branch="main"), event(5, 4)]
    )
    assert (tree.current, leaves_of(tree)) == ("main", {"main": "e5", "left": "e3"})
    assert ids(tree.path()) == ["e1", "e2", "e4", "e5"]


@pytest.mark.parametrize("kind", ["branch", "switch"])
def test_a_branch_that_nobody_named_is_named_after_its_event(kind: str) -> None:
    tree = EventTree([*line(2), event(3, 1, kind), event(4, 1, kind, name=7, branch=["x"])])
    assert list(tree.branches) == ["main", "at-3", "at-4"]
    assert tree.current == "at-4"


def test_a_branch_that_begins_twice_is_one_branch() -> None:
    tree = EventTree([*line(2), event(3, 2, "branch", name="b"), event(4, 1, "branch", name="b")])
    assert leaves_of(tree) == {"main": "e2", "b": "e4"}
    assert tree.branches["b"].began_at == "e2"


def test_an_undo_stands_on_the_branch_that_it_names() -> None:
    away = [*line(2), event(3, 1, "switch", branch="at-1", **{"from": "e2"})]
    back = EventTree([*away, event(4, 2, "undo", branch="main")])
    assert (back.current, leaves_of(back)["main"]) == ("main", "e4")
    silent = EventTree([*away, event(4, 1, "undo")])
    assert (silent.current, leaves_of(silent)["main"]) == ("at-1", "e2")
    unknown = EventTree([*away, event(4, 2, "undo", branch="lost")])
    assert leaves_of(unknown) == {"main": "e2", "at-1": "e3", "lost": "e4"}


# -- labels and checkpoints


def test_the_newest_label_of_an_event_counts_and_an_empty_one_takes_it_away() -> None:
    def label(number: int, of: str, text: object) -> Event:
        return event(number, number - 1, "label", event_id=of, label=text)

    tree = EventTree([*line(2), label(3, "e1", "a"), label(4, "e1", "b"), label(5, "e2", "c"), label(6, "e2", "")])
    assert tree.labels == {"e1": "b"}
    assert [node.label for node in tree.nodes()[:2]] == ["b", None]
    tree.add(label(7, "e2", None))
    tree.add(label(8, "never", ""))
    assert tree.labels == {"e1": "b"}


def test_the_newest_checkpoint_of_a_name_counts() -> None:
    tree = EventTree(
        [*line(1), event(2, 1, "checkpoint", name="a"), event(3, 2, "checkpoint", name="b"),
         event(4, 3, "checkpoint", name="a")]
    )  # fmt: skip
    assert {name: one.id for name, one in tree.checkpoints.items()} == {"a": "e4", "b": "e3"}


# -- logs that others wrote


def test_a_parent_that_is_not_there_makes_a_root() -> None:
    tree = EventTree([event(1, "gone"), event(2, 1), event(3, "gone-too"), event(4, 3)])
    assert ids(tree.path()) == ["e3", "e4"]
    assert ids(tree.path("e2")) == ["e1", "e2"]
    assert tree.leaves() == ["e2", "e4"]


def test_events_that_are_all_roots_are_paths_of_one() -> None:
    tree = EventTree([event(1, None), event(2, None), event(3, None)])
    assert ids(tree.path()) == ["e3"]
    assert tree.leaves() == ["e1", "e2", "e3"]


def test_a_parent_that_comes_later_is_not_followed() -> None:
    tree = EventTree([event(1, 3), event(2, 1), event(3, 2)])
    assert ids(tree.path("e1")) == ["e1"]
    assert ids(tree.path("e3")) == ["e1", "e2", "e3"]


@pytest.mark.parametrize("parents", [(1,), (2, 1), (3, 1, 2), (3, 3, 3), (2, 3, 1)])
def test_a_circle_is_walked_once_at_most(parents: tuple[int, ...]) -> None:
    tree = EventTree([event(number, parent) for number, parent in enumerate(parents, 1)])
    for number in range(1, len(parents) + 1):
        path = ids(tree.path(f"e{number}"))
        assert path[-1] == f"e{number}"
        assert len(path) == len(set(path)) <= len(parents)
    assert len(tree.nodes()) == len(parents)
    tree.leaves()
    tree.branch_points()


def test_of_two_events_with_one_id_the_first_is_found() -> None:
    first, second = event(1, None, content="first"), event(1, None, content="second")
    tree = EventTree([first, second])
    assert tree.event("e1") is first
    assert [node.text for node in tree.nodes()] == ["first", "second"]


def test_a_long_line_and_a_long_comb_are_walked_without_recursion() -> None:
    assert len(EventTree(line(20_000)).path()) == 20_000
    comb = EventTree([*line(20_000), *[event(number, 19_999) for number in range(20_001, 20_101)]])
    assert len(comb.path()) == 20_000
    assert comb.branch_points() == ["e19999"]
    assert len(comb.leaves()) == 101


# -- what is asked for


def test_names_and_ids_are_resolved_with_the_branch_that_ends_there() -> None:
    tree = EventTree([*line(3), event(4, 1, "branch", name="left"), event(5, 4)])
    assert tree.resolve("main") == ("e3", "main")
    assert tree.resolve("left") == ("e5", "left")
    assert tree.resolve("e3") == ("e3", "main")
    assert tree.resolve("e5") == ("e5", "left")
    assert tree.resolve("e2") == ("e2", None)


def test_what_is_neither_a_branch_nor_an_event_is_refused_with_the_branches_that_there_are() -> None:
    tree = EventTree([*line(1), event(2, 1, "branch", name="left")])
    with pytest.raises(InvalidParams, match=r"'nowhere' is neither .*; its branches are main, left"):
        tree.resolve("nowhere")
    for ask in (tree.event, tree.path, lambda event_id: list(tree.ancestors(event_id))):
        with pytest.raises(InvalidParams, match="the session has no event 'nowhere'"):
            ask("nowhere")


def test_nodes_come_in_pages_with_their_labels_and_branches() -> None:
    tree = EventTree([*line(3), event(4, 3, "label", event_id="e2", label="here")])
    assert [(node.id, node.seq, node.parent_id, node.text, node.label, node.branch) for node in tree.nodes(1, 2)] == [
        ("e2", 2, "e1", "message 2", "here", None),
        ("e3", 3, "e2", "message 3", None, None),
    ]
    assert tree.nodes(3)[0].branch == "main"
    assert [tree.nodes(4), tree.nodes(9), tree.nodes(0, 0)] == [[], [], []]


@pytest.mark.parametrize(
    ("metadata", "text"),
    [
        ({}, ""),
        ({"content": "two\n\n lines"}, "two lines"),
        ({"output": "x" * 81}, "x" * 79 + "…"),
        ({"output": "x" * 80}, "x" * 80),
        ({"content": "", "tool": "Read"}, "Read"),
        ({"content": [{"type": "text", "text": "part"}]}, "part"),
        ({"content": None, "message": "m"}, "m"),
        ({"unknown": "not shown"}, ""),
    ],
)
def test_a_node_tells_in_one_line_what_its_event_says(metadata: dict[str, Any], text: str) -> None:
    assert EventTree([event(1, None, **metadata)]).nodes()[0].text == text


# -- against a plain model

MOST = 30


@st.composite
def parents_of(draw: st.DrawFn) -> list[int | str | None]:
    """A parent for each event: an earlier one, a later one, itself, one that is nowhere, or none."""
    count = draw(st.integers(0, MOST))
    parent = st.one_of(st.integers(1, max(count, 1)), st.just("nowhere"), st.none())
    return draw(st.lists(parent, min_size=count, max_size=count))


def model_path(parents: dict[str, str | None], event_id: str) -> list[str]:
    """From the root to the event, over parents that stand earlier."""
    path = [event_id]
    order = list(parents)
    while (parent := parents[path[0]]) in parents and order.index(str(parent)) < order.index(path[0]):
        path.insert(0, str(parent))
    return path


@given(given_parents=parents_of())
def test_any_parents_give_the_paths_leaves_and_branch_points_of_a_plain_model(
    given_parents: list[int | str | None],
) -> None:
    events = [event(number, parent) for number, parent in enumerate(given_parents, 1)]
    parents = {one.id: one.parent_id for one in events}
    tree = EventTree(events)
    for event_id in parents:
        assert ids(tree.path(event_id)) == model_path(parents, event_id)
    named = [parent for parent in parents.values() if parent is not None]
    assert tree.leaves() == [event_id for event_id in parents if event_id not in named]
    assert tree.branch_points() == [event_id for event_id in parents if named.count(event_id) > 1]


@given(moves=st.lists(st.tuples(st.sampled_from(["say", "branch", "switch", "undo"]), st.integers(0, MOST))))
def test_any_moves_leave_each_branch_where_it_was_left(moves: list[tuple[str, int]]) -> None:
    tree = EventTree()
    model: dict[str, str | None] = {MAIN_BRANCH: None}
    parents: dict[str, str | None] = {}
    current, leaf = MAIN_BRANCH, None
    for number, (move, choice) in enumerate(moves, 1):
        anywhere = [None, *parents][choice % (len(parents) + 1)]
        parent, metadata = leaf, {}
        if move == "branch":
            current, parent = f"b{number}", anywhere
            metadata = {"name": current}
        elif move == "switch":
            current = list(model)[choice % len(model)]
            parent, metadata = model[current], {"branch": current}
        elif move == "undo":
            parent, metadata = anywhere, {"branch": current}
        tree.add(event(number, parent, {"say": "user_message"}.get(move, move), **metadata))
        leaf = model[current] = f"e{number}"
        parents[leaf] = parent
        assert (tree.current, tree.leaf, leaves_of(tree)) == (current, leaf, model)
    for name, end in model.items():
        if end is not None:
            assert tree.resolve(name) == (end, name)
            assert ids(tree.path(end)) == model_path(parents, end)

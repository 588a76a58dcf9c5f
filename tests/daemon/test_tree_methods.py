"""``tree.*`` over a real socket: where a session stands among its branches, and going elsewhere."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.support.daemon import Connection, RunningDaemon
from tests.support.logs import our_records, write_ours
from tests.support.store import append, create, event, events_of, foreign_session, problems_of, refusal

Start = Callable[..., RunningDaemon]

MOST_BYTES_OF_A_MOVE = 1000
"""What a branch or a switch may take in the log, however long the session is."""


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningDaemon]:
    running = RunningDaemon(tmp_path_factory.mktemp("tree") / "home").wait_ready()
    yield running
    running.kill()


@pytest.fixture
def session_id(connection: Connection) -> str:
    """A session of three messages."""
    made = create(connection)
    say(connection, made, "one", "two", "three")
    return made


def say(connection: Connection, session_id: str, *contents: str) -> list[str]:
    """Append a message for each; the ids of their events."""
    return list(append(connection, session_id, *[event(content) for content in contents])["ids"])


def show(connection: Connection, session_id: str, **params: Any) -> dict[str, Any]:
    return dict(connection.call("tree.show", session_id=session_id, **params))


def shown_whole(connection: Connection, session_id: str) -> dict[str, Any]:
    """``tree.show`` with the nodes of all its pages."""
    tree = show(connection, session_id)
    while tree["next_seq"] is not None:
        page = show(connection, session_id, from_seq=tree["next_seq"])
        tree = {**page, "nodes": tree["nodes"] + page["nodes"]}
    return tree


def said(connection: Connection, session_id: str, **params: Any) -> list[str]:
    """What the model sees, as text."""
    found = connection.call("context.messages", session_id=session_id, **params)["messages"]
    return [message["content"] for message in found]


# -- show


def test_an_empty_session_stands_on_main_without_a_leaf(connection: Connection) -> None:
    assert show(connection, create(connection)) == {
        "nodes": [],
        "branches": {"main": None},
        "current": "main",
        "leaf": None,
        "next_seq": None,
    }


def test_each_event_is_a_node_below_the_one_it_follows(connection: Connection, session_id: str) -> None:
    tree = show(connection, session_id)
    ids = [node["id"] for node in tree["nodes"]]
    assert [node["seq"] for node in tree["nodes"]] == [1, 2, 3]
    assert [node["parent_id"] for node in tree["nodes"]] == [None, *ids[:-1]]
    assert [node["text"] for node in tree["nodes"]] == ["one", "two", "three"]
    assert [node.get("branch") for node in tree["nodes"]] == [None, None, "main"]
    assert (tree["branches"], tree["current"], tree["leaf"]) == ({"main": ids[-1]}, "main", ids[-1])


def test_a_node_shows_one_short_line_whatever_its_event_says(connection: Connection) -> None:
    session_id = create(connection)
    append(connection, session_id, event("line\nafter\tline " * 9000), event({"not": "text"}), event("ü" * 200))
    for node in show(connection, session_id)["nodes"]:
        assert len(node["text"]) <= 80
        assert "\n" not in node["text"]


def test_a_long_tree_comes_in_pages_and_moves_like_a_short_one(connection: Connection) -> None:
    session_id = create(connection)
    ids: list[str] = []
    for start in range(0, 20_000, 2000):
        ids += say(connection, session_id, *[f"message {number}" for number in range(start, start + 2000)])
    labels = [{"type": "label", "metadata": {"event_id": one, "label": "x" * 900}} for one in ids[:9000]]
    for start in range(0, len(labels), 1000):
        batch = labels[start : start + 1000]
        ids += connection.call("sessions.append", session_id=session_id, events=batch)["ids"]
    first = show(connection, session_id)
    assert 7 << 20 < len(json.dumps(first["nodes"], separators=(",", ":"))) <= 8 << 20
    assert first["next_seq"] == len(first["nodes"]) + 1
    tree = shown_whole(connection, session_id)
    assert [node["id"] for node in tree["nodes"]] == ids
    assert show(connection, session_id, from_seq=29_001)["nodes"] == []
    connection.call("tree.branch", session_id=session_id, name="early", at=ids[9])
    assert said(connection, session_id) == [f"message {number}" for number in range(10)]
    assert connection.call("tree.switch", session_id=session_id, to="main")["current"] == "main"
    assert len(show(connection, session_id, from_seq=29_001)["nodes"]) == 2


# -- branch


def test_a_branch_copies_nothing(connection: Connection) -> None:
    session_id = create(connection)
    ids = say(connection, session_id, *["x" * 5000] * 300)
    before = events_of(connection, session_id)
    made = connection.call("tree.branch", session_id=session_id, name="try", at=ids[150])
    after = events_of(connection, session_id)
    assert after[:-1] == before
    assert (after[-1]["type"], after[-1]["id"], after[-1]["parent_id"]) == ("branch", made["leaf"], ids[150])
    assert len(json.dumps(after[-1])) < MOST_BYTES_OF_A_MOVE
    assert made["name"] == "try"


def test_a_branch_begins_at_the_leaf_unless_told_otherwise(connection: Connection, session_id: str) -> None:
    connection.call("tree.branch", session_id=session_id, name="aside")
    say(connection, session_id, "four")
    assert said(connection, session_id) == ["one", "two", "three", "four"]
    assert show(connection, session_id)["current"] == "aside"


def test_what_is_said_on_a_branch_is_not_said_on_the_other(connection: Connection, session_id: str) -> None:
    first = show(connection, session_id)["nodes"][0]["id"]
    connection.call("tree.branch", session_id=session_id, name="other", at=first)
    say(connection, session_id, "else")
    assert said(connection, session_id) == ["one", "else"]
    tree = show(connection, session_id)
    assert said(connection, session_id, leaf=tree["branches"]["main"]) == ["one", "two", "three"]
    connection.call("tree.switch", session_id=session_id, to="main")
    say(connection, session_id, "four")
    assert said(connection, session_id) == ["one", "two", "three", "four"]
    connection.call("tree.switch", session_id=session_id, to="other")
    assert said(connection, session_id) == ["one", "else"]


def test_an_empty_session_can_be_branched(connection: Connection) -> None:
    session_id = create(connection)
    connection.call("tree.branch", session_id=session_id, name="first")
    say(connection, session_id, "hello")
    tree = show(connection, session_id)
    assert (tree["current"], list(tree["branches"])) == ("first", ["main", "first"])
    assert said(connection, session_id) == ["hello"]


# -- switch


def test_a_switch_answers_where_the_session_stands_now(connection: Connection, session_id: str) -> None:
    connection.call("tree.branch", session_id=session_id, name="other")
    switched = connection.call("tree.switch", session_id=session_id, to="main")
    tree = show(connection, session_id)
    assert switched == {"current": "main", "leaf": tree["leaf"]}
    assert tree["nodes"][-1]["type"] == "switch"
    assert len(json.dumps(events_of(connection, session_id)[-1])) < MOST_BYTES_OF_A_MOVE


def test_a_switch_to_an_event_in_the_middle_begins_a_branch_named_after_it(
    connection: Connection, session_id: str
) -> None:
    second = show(connection, session_id)["nodes"][1]["id"]
    assert connection.call("tree.switch", session_id=session_id, to=second)["current"] == "at-2"
    assert said(connection, session_id) == ["one", "two"]
    assert connection.call("tree.switch", session_id=session_id, to=second)["current"] == "at-2-2"
    assert list(show(connection, session_id)["branches"]) == ["main", "at-2", "at-2-2"]


def test_a_switch_to_the_event_at_a_branchs_end_goes_on_with_that_branch(
    connection: Connection, session_id: str
) -> None:
    end_of_main = show(connection, session_id)["leaf"]
    connection.call("tree.branch", session_id=session_id, name="other")
    assert connection.call("tree.switch", session_id=session_id, to=end_of_main)["current"] == "main"


# -- summaries and merging


def test_a_branch_that_is_left_can_be_summed_up_and_brought_over(connection: Connection, session_id: str) -> None:
    connection.call("tree.branch", session_id=session_id, name="research")
    say(connection, session_id, "find the slow query", "it is the join on orders")
    research = show(connection, session_id)["leaf"]
    connection.call("tree.switch", session_id=session_id, to="main", summarise=True)
    summary = events_of(connection, session_id)[-1]["metadata"]["summary"]
    assert "find the slow query" in summary
    merged = connection.call("tree.merge", session_id=session_id, **{"from": "research"})
    last = events_of(connection, session_id)[-1]
    assert (last["seq"], last["type"]) == (merged["seq"], "merge")
    assert {"from": research, "branch": "research"}.items() <= last["metadata"].items()
    assert summary in last["metadata"]["content"]
    assert said(connection, session_id) == ["one", "two", "three", last["metadata"]["content"]]


def test_a_branch_without_a_summary_is_merged_by_an_extract_of_what_it_alone_holds(
    connection: Connection, session_id: str
) -> None:
    connection.call("tree.branch", session_id=session_id, name="research")
    say(connection, session_id, "find the slow query")
    connection.call("tree.switch", session_id=session_id, to="main")
    connection.call("tree.merge", session_id=session_id, **{"from": "research"})
    content = said(connection, session_id)[-1]
    assert "find the slow query" in content
    assert "three" not in content


def test_chosen_events_are_merged_word_by_word_with_their_lineage(connection: Connection, session_id: str) -> None:
    connection.call("tree.branch", session_id=session_id, name="research")
    chosen = say(connection, session_id, "left out", "this one", "and this")[1:]
    connection.call("tree.switch", session_id=session_id, to="main")
    connection.call("tree.merge", session_id=session_id, events=chosen, **{"from": "research"})
    metadata = events_of(connection, session_id)[-1]["metadata"]
    assert (metadata["events"], metadata["from"], metadata["branch"]) == (chosen, chosen[-1], "research")
    assert "user: this one\nuser: and this" in metadata["content"]
    assert "left out" not in metadata["content"]
    assert said(connection, session_id)[-1] == metadata["content"]


# -- labels


def test_an_event_can_be_named_renamed_and_lose_its_name(connection: Connection, session_id: str) -> None:
    def labels() -> list[str | None]:
        return [node.get("label") for node in show(connection, session_id)["nodes"][:3]]

    second = show(connection, session_id)["nodes"][1]["id"]
    for label, expected in (("good", "good"), ("better ü", "better ü"), ("", None), ("", None)):
        assert connection.call("tree.label", session_id=session_id, event_id=second, label=label) == {"ok": True}
        assert labels() == [None, expected, None]
    assert said(connection, session_id) == ["one", "two", "three"]


# -- what lasts


@pytest.mark.parametrize("ending", ["kill", "stop"])
def test_where_a_session_stands_survives_the_daemon(start_daemon: Start, ending: str) -> None:
    daemon = start_daemon()
    with daemon.connect() as connection:
        session_id = create(connection, "otter")
        ids = say(connection, session_id, "one", "two", "three")
        connection.call("tree.label", session_id=session_id, event_id=ids[0], label="begin")
        connection.call("tree.branch", session_id=session_id, name="left", at=ids[0])
        say(connection, session_id, "on the left")
        connection.call("tree.branch", session_id=session_id, name="right", at=ids[1])
        connection.call("checkpoints.save", session_id=session_id, name="here")
        connection.call("tree.switch", session_id=session_id, to="left")
        before = (show(connection, session_id), said(connection, session_id))
        points = connection.call("checkpoints.list", session_id=session_id)
    getattr(daemon, ending)()
    with start_daemon().connect() as connection:
        assert (show(connection, session_id), said(connection, session_id)) == before
        assert connection.call("checkpoints.list", session_id=session_id) == points
        say(connection, session_id, "more")
        assert said(connection, session_id) == ["one", "on the left", "more"]
        assert show(connection, session_id)["current"] == "left"
        assert problems_of(connection, session_id) == []


def test_two_clients_that_move_a_session_at_once_both_get_there(daemon: RunningDaemon, connection: Connection) -> None:
    rounds = 25
    session_id = create(connection)
    root = say(connection, session_id, "root")[0]
    failures: list[BaseException] = []

    def move(who: str) -> None:
        try:
            with daemon.connect() as own:
                for number in range(rounds):
                    own.call("tree.branch", session_id=session_id, name=f"{who}-{number}", at=root)
                    own.call("tree.switch", session_id=session_id, to="main")
                    say(own, session_id, f"{who} {number}")
                    own.call("tree.label", session_id=session_id, event_id=root, label=f"{who} {number}")
        except BaseException as error:  # noqa: BLE001 - shown by the thread that waits
            failures.append(error)

    threads = [threading.Thread(target=move, args=(who,)) for who in ("a", "b")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    tree = show(connection, session_id)
    assert set(tree["branches"]) == {"main", *(f"{who}-{number}" for who in "ab" for number in range(rounds))}
    assert len(tree["nodes"]) == 1 + 2 * rounds * 4
    contents = [node["text"] for node in tree["nodes"] if node["type"] == "user_message"]
    assert sorted(contents) == sorted(["root", *(f"{who} {number}" for who in "ab" for number in range(rounds))])
    assert problems_of(connection, session_id) == []


# -- logs of others, and what cannot be


def test_a_log_without_parents_is_one_path(daemon: RunningDaemon, connection: Connection) -> None:
    folder = foreign_session(daemon.root, "stoat-20260101T000000-0000aaaa", None)
    tree = show(connection, folder.name)
    assert [(node["text"], node["branch"]) for node in tree["nodes"]] == [("theirs", "main")]
    assert tree["leaf"] == tree["nodes"][0]["id"]


@pytest.mark.parametrize(
    ("method", "params"),
    [
        ("tree.show", {}),
        ("tree.branch", {"name": "b"}),
        ("tree.switch", {"to": "main"}),
        ("tree.merge", {"from": "main"}),
        ("tree.label", {"event_id": "evt-1", "label": "l"}),
    ],
)
def test_a_session_that_is_not_there_or_has_a_gap_is_refused(
    daemon: RunningDaemon, connection: Connection, method: str, params: dict[str, Any]
) -> None:
    unknown = refusal(connection, method, session_id="mink-20260101T000000-0000ffff", **params)
    assert (unknown.code, unknown.kind) == (-32004, "session_not_found")
    folder = daemon.root / f"otter-20260101T000000-gap{method[5:]}"
    write_ours(folder, "ids", our_records(6))
    sorted(folder.glob("event-*"))[2].unlink()
    gap = refusal(connection, method, session_id=folder.name, **params)
    assert (gap.code, gap.kind, gap.data["missing"]) == (-32011, "log_gap", [3])
    assert len(list(folder.glob("event-*"))) == 5


@pytest.mark.parametrize(
    ("method", "params", "says"),
    [
        ("tree.branch", {"name": ""}, "name of 1 to 200 bytes"),
        ("tree.branch", {"name": "  "}, "name of 1 to 200 bytes"),
        ("tree.branch", {"name": "a\nb"}, "control characters"),
        ("tree.branch", {"name": "ü" * 101}, "name of 1 to 200 bytes"),
        ("tree.branch", {"name": "main"}, "there is a branch 'main' already"),
        ("tree.branch", {"name": "new", "at": "evt-none"}, "no event 'evt-none'"),
        ("tree.switch", {"to": "nowhere"}, "its branches are main"),
        ("tree.merge", {"from": "nowhere"}, "its branches are main"),
        ("tree.merge", {"from": "main", "events": ["evt-none"]}, "'evt-none' is not on the branch 'main'"),
        ("tree.label", {"event_id": "evt-none", "label": "l"}, "no event 'evt-none'"),
        ("tree.show", {"from_seq": 0}, "from_seq"),
    ],
)
def test_what_cannot_be_done_is_said_in_a_sentence_and_changes_nothing(
    connection: Connection, session_id: str, method: str, params: dict[str, Any], says: str
) -> None:
    before = show(connection, session_id)
    error = refusal(connection, method, session_id=session_id, **params)
    assert (error.code, error.kind) == (-32602, "invalid_params")
    assert says in error.message
    assert show(connection, session_id) == before


def test_names_that_would_be_mistaken_for_another_thing_are_refused(connection: Connection, session_id: str) -> None:
    nodes = show(connection, session_id)["nodes"]
    taken = refusal(connection, "tree.branch", session_id=session_id, name=nodes[0]["id"])
    assert "is the id of an event" in taken.message
    long = refusal(connection, "tree.label", session_id=session_id, event_id=nodes[0]["id"], label="x" * 1001)
    assert "longer than 1000 bytes" in long.message
    connection.call("checkpoints.save", session_id=session_id, name="point")
    point = show(connection, session_id)["leaf"]
    empty = refusal(connection, "tree.merge", session_id=session_id, events=[point], **{"from": "main"})
    assert "holds no message" in empty.message
    assert {error.kind for error in (taken, long, empty)} == {"invalid_params"}


def test_there_is_nothing_to_switch_to_in_an_empty_session(connection: Connection) -> None:
    error = refusal(connection, "tree.switch", session_id=create(connection), to="main")
    assert (error.kind, "no event yet" in error.message) == ("invalid_params", True)

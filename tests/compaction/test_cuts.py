"""Where a context may be cut, and where it is."""

from __future__ import annotations

from chimera.compaction.cuts import choose_cut, head_length, legal_cuts, summary_in_force
from chimera.compaction.tokens import estimate_tokens
from chimera.sessions.context import SUMMARY_HEAD
from chimera.sessions.messages import Message, ToolCall
from tests.compaction.conversations import MEMORY, Path, long_session

BIG = "word " * 200


def user(text: str, event_id: str) -> Message:
    return Message("user", text, event_id=event_id)


def test_a_tool_result_is_never_first() -> None:
    messages = long_session().messages
    roles = {messages[place].role for place in legal_cuts(messages)}
    assert roles == {"user", "assistant"}


def test_a_cut_never_parts_a_call_from_a_result_that_comes_late() -> None:
    call = ToolCall("c1", "Bash", {})
    messages = [
        user("go", "e1"),
        Message("assistant", "", (call,), event_id="e2"),
        user("one more thing", "e3"),
        Message("tool", "done", call_id="c1", event_id="e4"),
        Message("assistant", "ok", event_id="e5"),
    ]
    assert legal_cuts(messages) == [1, 4]


def test_call_ids_that_a_provider_uses_again_are_told_apart() -> None:
    call = ToolCall("call_0", "Bash", {})
    step = [Message("assistant", "", (call,), event_id="e"), Message("tool", "", call_id="call_0", event_id="f")]
    assert legal_cuts([user("go", "e1"), *step, *step]) == [1, 3]


def test_a_turn_boundary_is_preferred() -> None:
    path = Path()
    for _ in range(4):
        path.user("go on")
        path.step(BIG)
        path.step(BIG)
    messages = path.messages
    newest_turn = estimate_tokens(messages[-3:])
    assert choose_cut(messages, newest_turn + 300) == len(messages) - 3


def test_a_single_huge_turn_is_split_at_its_steps() -> None:
    path = Path()
    path.user("do everything")
    for _ in range(10):
        path.step(BIG, ("Bash", {"command": "make"}, BIG))
    messages = path.messages
    assert choose_cut(messages, estimate_tokens(messages[-6:])) == len(messages) - 6


def test_a_short_last_message_does_not_cost_a_huge_turn_before_it_all_its_steps() -> None:
    path = Path()
    path.user("do everything")
    for _ in range(10):
        path.step(BIG)
    path.user("thanks")
    messages = path.messages
    assert choose_cut(messages, estimate_tokens(messages[-4:])) == len(messages) - 4


def test_the_newest_step_is_kept_even_when_it_is_too_large() -> None:
    path = Path()
    path.user("read it")
    path.step("", ("Read", {"path": "big"}, BIG * 10))
    assert choose_cut(path.messages, 10) == 1


def test_the_newest_user_message_is_kept_even_when_it_is_too_large() -> None:
    path = Path()
    path.user("first")
    path.step("done")
    path.user(BIG * 10)
    assert choose_cut(path.messages, 0) == 2


def test_nothing_is_cut_where_everything_fits() -> None:
    messages = long_session().messages
    assert choose_cut(messages, estimate_tokens(messages)) is None
    assert choose_cut([], 0) is None
    assert choose_cut(messages[:1], 0) is None


def test_what_an_earlier_compaction_left_is_the_head() -> None:
    summary = Message("user", SUMMARY_HEAD + "text", event_id="e9", synthetic=True)
    messages = [user(MEMORY, "e1"), summary, user("go", "e5"), Message("assistant", "ok", event_id="e6")]
    assert head_length(messages) == 2
    assert legal_cuts(messages) == [3]
    assert summary_in_force(messages) == "text"


def test_memory_that_a_compaction_without_a_summary_left_is_the_head() -> None:
    messages = [user(MEMORY, "e1"), user(f"{MEMORY}\n{MEMORY}", "e3"), user("go", "e5"), user("on", "e6")]
    assert head_length(messages) == 2
    assert legal_cuts(messages) == [3]
    assert summary_in_force(messages) == ""


def test_what_a_user_types_is_no_summary() -> None:
    messages = [user(SUMMARY_HEAD + "mine", "e1"), user("go", "e2")]
    assert head_length(messages) == 0
    assert summary_in_force(messages) == ""


def test_memory_without_an_event_behind_it_is_not_dropped() -> None:
    messages = [user("a", "e1"), user("b", "e2"), user(f"x {MEMORY}", ""), user("c", "e3")]
    assert legal_cuts(messages) == [1]

"""Summaries: their text, their size, and what happens when nobody can write one."""

from __future__ import annotations

import asyncio

import pytest

from chimera.compaction import (
    CompactionFailed,
    CompactionRequest,
    FileAwareCompaction,
    SummaryCompaction,
)
from chimera.compaction.extract import extract_outline
from chimera.compaction.outline import render_outline
from chimera.compaction.tokens import text_tokens
from chimera.sessions.context import memory_blocks
from chimera.sessions.messages import Message
from tests.compaction.conversations import MEMORY, Path, long_session, request_for

HEADINGS = ["## Goal", "## Decisions", "## Open questions", "## Files read", "## Files modified", "## Commands run"]


def grow(path: Path) -> None:
    for event in long_session().events[1:]:
        path.add(event.type, **event.metadata)


def headings_of(summary: str) -> list[str]:
    return [line for line in summary.splitlines() if line.startswith("## ")]


def test_the_extract_has_the_headings_and_what_was_said() -> None:
    path = long_session()
    path.user("Yes, push it.")
    request = request_for(path.messages, keep_tokens=10, read_files=["a.py"], modified_files=["b.py"])
    plan = asyncio.run(SummaryCompaction().plan(request))
    assert plan is not None
    assert headings_of(plan.summary) == HEADINGS
    for line in [
        "- Please do task 0.",
        "- Task 0 is done. Shall I push it?",
        "- Shall I push it?",
        "- a.py",
        "- b.py",
        "- make task-0-0",
    ]:
        assert line in plan.summary.splitlines()


def test_the_same_messages_give_the_same_extract() -> None:
    messages = long_session().messages
    plans = [asyncio.run(SummaryCompaction().plan(request_for(messages))) for _ in range(2)]
    assert plans[0] == plans[1]


def test_the_extract_leaves_memory_to_the_memory_blocks() -> None:
    plan = asyncio.run(SummaryCompaction().plan(request_for(long_session().messages)))
    assert plan is not None
    assert "Always run the tests" not in plan.summary


def test_an_earlier_summary_is_taken_in() -> None:
    path = long_session()
    path.events[0].metadata["content"] = f"{MEMORY}\nBuild me a ship."
    for _ in range(4):
        plan = asyncio.run(SummaryCompaction().plan(request_for(path.messages)))
        assert plan is not None
        path.compact(plan)
        grow(path)
    assert plan.summary.splitlines()[1] == "- Build me a ship."


def test_a_summary_stays_bounded_however_often_it_is_made() -> None:
    path = Path()
    for round_ in range(12):
        for turn in range(10):
            path.user(f"request {round_}.{turn} " + "please " * 30)
            path.step(
                f"answer {round_}.{turn} " + "done " * 60, ("Bash", {"command": f"run {round_}.{turn}"}, "x" * 900)
            )
            path.step(f"conclusion {round_}.{turn} " + "and so on " * 60)
        plan = asyncio.run(SummaryCompaction(summary_tokens=500).plan(request_for(path.messages)))
        assert plan is not None
        path.compact(plan)
        assert text_tokens(plan.summary) < 600
    lines = plan.summary.splitlines()
    assert lines[1].startswith("- request 0.0 ")
    assert any(line.startswith("- request 11.") for line in lines)
    assert any(line.endswith(" earlier left out)") for line in lines)


def test_an_explicit_earlier_summary_is_preferred_to_the_one_in_the_messages() -> None:
    request = request_for(long_session().messages, previous_summary="## Goal\n- Conquer the moon")
    plan = asyncio.run(SummaryCompaction().plan(request))
    assert plan is not None
    assert "- Conquer the moon" in plan.summary


def test_a_model_is_asked_with_the_conversation_the_earlier_summary_and_the_instructions() -> None:
    prompts: list[str] = []

    async def summariser(prompt: str) -> str:
        prompts.append(prompt)
        return "Here you are.\n**Goal:** do tasks\n# decisions\n- pushed\n  - twice\n## Commands run\n- make\n"

    request = request_for(
        long_session().messages,
        window=10_000,
        force=True,
        previous_summary="once upon a time",
        instructions="mind names",
        modified_files=["b.py"],
    )
    plan = asyncio.run(SummaryCompaction(summariser).plan(request))
    assert plan is not None
    (prompt,) = prompts
    for part in ["once upon a time", "mind names", "user: Please do task 0.", 'calls Bash {"command":"make task-0-0"}']:
        assert part in prompt
    assert "Always run the tests" not in prompt
    assert plan.summary == (
        "## Goal\nHere you are.\ndo tasks\n## Decisions\n- pushed\n  - twice\n## Open questions\n## Files read\n"
        "## Files modified\n- b.py\n## Commands run\n- make"
    )


def test_the_prompt_fits_the_window() -> None:
    prompts: list[str] = []

    async def summariser(prompt: str) -> str:
        prompts.append(prompt)
        return "- all good"

    messages = long_session(turns=400).messages
    plan = asyncio.run(SummaryCompaction(summariser, keep_ratio=0).plan(request_for(messages, window=10_000)))
    assert plan is not None
    assert text_tokens(prompts[0]) < 8_000
    assert "earlier messages are left out]" in prompts[0]


async def hangs(prompt: str) -> str:
    await asyncio.Event().wait()
    return "never"


async def raises(prompt: str) -> str:
    raise RuntimeError("the key sk-123 is wrong")


async def times_out_itself(prompt: str) -> str:
    raise TimeoutError


async def says_nothing(prompt: str) -> str:
    return " \n"


async def gives_headings_alone(prompt: str) -> str:
    return "\n".join(HEADINGS)


async def gives_no_text(prompt: str) -> str:
    return None  # type: ignore[return-value]


async def writes_a_novel(prompt: str) -> str:
    return "and then " * 100_000


@pytest.mark.parametrize(
    ("summariser", "reason"),
    [
        (hangs, "did not answer within 0.01 seconds"),
        (raises, "failed (RuntimeError)"),
        (times_out_itself, "failed (TimeoutError)"),
        (says_nothing, "gave an empty answer"),
        (gives_headings_alone, "gave an empty answer"),
        (gives_no_text, "did not answer with text"),
        (writes_a_novel, "wrote more than what its summary would replace"),
    ],
)
def test_a_summariser_that_is_of_no_use_fails_the_compaction(summariser: object, reason: str) -> None:
    strategy = SummaryCompaction(summariser, timeout_seconds=0.01)  # type: ignore[arg-type]
    with pytest.raises(CompactionFailed) as caught:
        asyncio.run(strategy.plan(request_for(long_session().messages)))
    assert reason in caught.value.message
    assert "sk-123" not in caught.value.message


def test_whoever_cancels_the_compaction_cancels_the_summariser() -> None:
    async def scenario() -> None:
        started = asyncio.Event()

        async def summariser(prompt: str) -> str:
            started.set()
            return await hangs(prompt)

        task = asyncio.create_task(SummaryCompaction(summariser).plan(request_for(long_session().messages)))
        await started.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(scenario())


def test_no_model_is_asked_for_what_a_summary_could_not_shorten() -> None:
    path = Path()
    for _ in range(3):
        path.user("hi")
        path.step("hello")
    request = request_for(path.messages, force=True, read_files=[f"folder/file{n}.py" for n in range(20)])
    assert asyncio.run(SummaryCompaction(raises).plan(request)) is None


def file_request(messages: list[Message], count: int = 200) -> CompactionRequest:
    return request_for(
        messages, window=2000, read_files=[f"src/read{n}.py" for n in range(count)], modified_files=["src/changed.py"]
    )


def test_file_aware_names_every_file_where_a_plain_summary_counts_them() -> None:
    messages = long_session(turns=30).messages
    plain = asyncio.run(SummaryCompaction(summary_tokens=200).plan(file_request(messages)))
    aware = asyncio.run(FileAwareCompaction(summary_tokens=200).plan(file_request(messages)))
    assert plain is not None
    assert aware is not None
    assert "- src/read0.py" not in plain.summary.splitlines()
    for number in range(200):
        assert f"- src/read{number}.py" in aware.summary.splitlines()
    assert plain.read_files == aware.read_files


def test_file_aware_keeps_the_files_of_the_earlier_summary() -> None:
    path = long_session(turns=30)
    first = asyncio.run(FileAwareCompaction().plan(file_request(path.messages)))
    assert first is not None
    path.compact(first)
    for event in long_session(turns=30).events[1:]:
        path.add(event.type, **event.metadata)
    plan = asyncio.run(FileAwareCompaction().plan(request_for(path.messages, window=2000, read_files=["new.py"])))
    assert plan is not None
    assert plan.read_files == [*first.read_files, "new.py"]
    assert plan.modified_files == ["src/changed.py"]
    assert plan.strategy == "file_aware"


def test_file_aware_takes_a_count_of_files_for_no_file() -> None:
    earlier = "## Goal\n- x\n## Files read\n- (3 earlier left out)\n- a.py"
    request = request_for(long_session().messages, previous_summary=earlier)
    plan = asyncio.run(FileAwareCompaction().plan(request))
    assert plan is not None
    assert plan.read_files == ["a.py"]


def test_an_extract_takes_in_the_summary_that_the_messages_begin_with() -> None:
    path = long_session()
    outline = extract_outline(path.messages)
    plan = asyncio.run(SummaryCompaction().plan(request_for(path.messages)))
    assert plan is not None
    path.compact(plan)
    again = extract_outline(path.messages)
    assert again.goal == outline.goal
    assert again.commands == outline.commands


def test_no_text_of_an_outline_can_be_taken_for_memory() -> None:
    outline = extract_outline([Message("assistant", f"I read {MEMORY}", event_id="e1")])
    text = render_outline(outline, 1000)
    assert "- I read &lt;memory source" in text
    assert memory_blocks(text) == []

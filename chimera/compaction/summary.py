"""``SummaryCompaction``: a summary in the place of the oldest messages, written by a model or extracted without one.

The summary has fixed headings (chimera.compaction.outline), takes in the one before it, and stays within a size. Knows
no provider: whoever makes the strategy gives it a function that answers a prompt.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import NoReturn

import msgspec

from chimera.compaction.base import (
    CompactionFailed,
    CompactionPlan,
    CompactionRequest,
    CompactionStrategy,
    keep_budget,
    memory_messages,
    plan_at,
)
from chimera.compaction.cuts import choose_cut, head_length
from chimera.compaction.extract import extract_outline
from chimera.compaction.outline import Outline, as_items, joined, parse_outline, render_outline
from chimera.compaction.prompt import summary_prompt
from chimera.compaction.tokens import BYTES_PER_TOKEN, estimate_tokens, text_tokens
from chimera.sessions.messages import Message

__all__ = ["Summariser", "SummaryCompaction"]

Summariser = Callable[[str], Awaitable[str]]
"""Answers a prompt with the summary's text."""


class SummaryCompaction(CompactionStrategy):
    """Summarises what is dropped."""

    name = "summary"
    whole_file_lists = False

    def __init__(
        self,
        summariser: Summariser | None = None,
        keep_ratio: float = 0.3,
        timeout_seconds: float = 120.0,
        summary_tokens: int = 2000,
    ) -> None:
        """
        Args:
            summariser: None for an extract of the messages themselves.
            keep_ratio: of the window, for the newest messages.
            timeout_seconds: how long the summariser may take.
            summary_tokens: what the summary's lines may take.
        """
        self._summariser = summariser
        self._keep_ratio = keep_ratio
        self._timeout_seconds = timeout_seconds
        self._summary_tokens = summary_tokens

    async def plan(self, request: CompactionRequest) -> CompactionPlan | None:
        """Raises CompactionFailed: the summariser failed, took too long, or its answer is of no use."""
        cut = choose_cut(request.messages, keep_budget(request, self._keep_ratio))
        if cut is None:
            return None
        files = self.files_of(request)
        file_lists = Outline(read_files=as_items(files[0]), modified_files=as_items(files[1]))
        least = plan_at(request, cut, self._text_of(file_lists, 0), self.name, files)
        if least is None:
            return None  # the headings alone take more than what they would stand for
        dropped = request.messages[:cut]
        replaced_tokens = estimate_tokens(dropped) - estimate_tokens(memory_messages(dropped))
        said = dropped[head_length(dropped) :]
        if self._summariser is None:
            outline = joined(parse_outline(request.earlier_summary()), extract_outline(said))
            max_tokens = min(self._summary_tokens, replaced_tokens // 2)
        else:
            outline = await self._ask(self._summariser, request, said, replaced_tokens)
            max_tokens = self._summary_tokens
        outline = msgspec.structs.replace(
            outline, read_files=file_lists.read_files, modified_files=file_lists.modified_files
        )
        return plan_at(request, cut, self._text_of(outline, max_tokens * BYTES_PER_TOKEN), self.name, files)

    def files_of(self, request: CompactionRequest) -> tuple[list[str], list[str]]:
        """The files to name: read, modified."""
        return request.read_files, request.modified_files

    def _text_of(self, outline: Outline, max_bytes: int) -> str:
        return render_outline(outline, max_bytes, whole_file_lists=self.whole_file_lists)

    async def _ask(
        self, summariser: Summariser, request: CompactionRequest, said: Sequence[Message], replaced_tokens: int
    ) -> Outline:
        prompt = summary_prompt(
            said, request.earlier_summary(), request.instructions, request.window, self._summary_tokens
        )
        answer = await self._answer(summariser, prompt)
        if not isinstance(answer, str):
            _fail("did not answer with text")
        outline = parse_outline(answer)
        if not (outline.goal or outline.decisions or outline.open_questions or outline.commands):
            _fail("gave an empty answer")
        if text_tokens(answer) >= replaced_tokens:
            _fail("wrote more than what its summary would replace")
        return outline

    async def _answer(self, summariser: Summariser, prompt: str) -> object:
        try:
            async with asyncio.timeout(self._timeout_seconds) as limit:
                return await summariser(prompt)
        except Exception as error:  # noqa: BLE001 - whatever a summariser raises is one thing here: there is no summary
            if limit.expired():
                _fail(f"did not answer within {self._timeout_seconds:g} seconds", error)
            _fail(f"failed ({type(error).__name__})", error)


def _fail(what: str, cause: Exception | None = None) -> NoReturn:
    raise CompactionFailed(
        f"the summariser {what}; the context is as it was, try again or compact without a model"
    ) from cause

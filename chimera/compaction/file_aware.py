"""``FileAwareCompaction``: a summary that never loses sight of a file. Knows what its base knows, nothing more."""

from __future__ import annotations

from chimera.compaction.base import CompactionRequest
from chimera.compaction.outline import items_of, parse_outline
from chimera.compaction.summary import SummaryCompaction

__all__ = ["FileAwareCompaction"]


class FileAwareCompaction(SummaryCompaction):
    """As ``SummaryCompaction``, with the lists of files whole: those of the session and of the earlier summary."""

    name = "file_aware"
    whole_file_lists = True

    def files_of(self, request: CompactionRequest) -> tuple[list[str], list[str]]:
        earlier = parse_outline(request.earlier_summary())
        return (
            _merged(earlier.read_files, request.read_files),
            _merged(earlier.modified_files, request.modified_files),
        )


def _merged(earlier: list[str], files: list[str]) -> list[str]:
    return list(dict.fromkeys([*items_of(earlier), *files]))

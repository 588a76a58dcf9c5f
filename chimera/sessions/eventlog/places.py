"""Where each event of a session lies, so that any page of a log is read without reading the rest.

Forwards the bytes of our own records as they lie; what an older writer left is kept rendered. Never writes.
"""

from __future__ import annotations

import os
from array import array
from bisect import bisect_left

from chimera.errors import StorageError
from chimera.sessions.eventlog.layouts import LINES_FILE
from chimera.sessions.eventlog.reader import LogReading

__all__ = ["Places"]


class Places:
    """The places of a session's events, by ``seq``; grows as events are appended."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self._seqs = array("Q")
        self._offsets = array("Q")
        self._lengths = array("I")
        self._files: list[str] = []
        self._rendered: dict[int, bytes] = {}

    @classmethod
    def of_reading(cls, reading: LogReading) -> Places:
        """The places of everything that a reading found."""
        places = cls(reading.folder)
        for record in reading.records:
            places.add(record.seq, record.file, record.offset, len(record.raw))
            if not record.ours or record.seq <= reading.packed_count:
                places._rendered[record.seq] = record.wire()
        return places

    def __len__(self) -> int:
        return len(self._seqs)

    def add(self, seq: int, file: str, offset: int, length: int) -> None:
        """Note one more event, behind all the others; ``length`` is the record's, without its newline."""
        self._seqs.append(seq)
        self._offsets.append(offset)
        self._lengths.append(length)
        self._files.append(self._files[-1] if self._files and self._files[-1] == file else file)

    def add_lines(self, first_seq: int, offset: int, records: list[bytes]) -> None:
        """As :meth:`add`, for records that lie one behind the other in ``events.jsonl``, each with its newline."""
        for record in records:
            length = len(record)
            self._offsets.append(offset)
            self._lengths.append(length)
            offset += length + 1
        self._seqs.extend(range(first_seq, first_seq + len(records)))
        self._files.extend([LINES_FILE] * len(records))

    def read(self, from_seq: int, through_seq: int, count: int, most_bytes: int) -> list[tuple[int, bytes]]:
        """Events ``from_seq`` to ``through_seq``: at most ``count``, and as many as fit ``most_bytes`` (at least one).

        Raises:
            StorageError: a file is gone, or other bytes stand in the place of an event.
        """
        first = bisect_left(self._seqs, from_seq)
        last, total = first, 0
        while last < len(self._seqs) and last - first < count and self._seqs[last] <= through_seq:
            total += self._lengths[last]
            if total > most_bytes and last > first:
                break
            last += 1
        page: list[tuple[int, bytes]] = []
        index = first
        while index < last:
            seq = self._seqs[index]
            if seq in self._rendered:
                page.append((seq, self._rendered[seq]))
                index += 1
                continue
            end = self._end_of_run(index, last)
            page.extend(self._read_run(index, end))
            index = end
        return page

    def file_of(self, seq: int) -> str | None:
        """The name of the file that an event lies in; None for one that is not known."""
        index = bisect_left(self._seqs, seq)
        return self._files[index] if index < len(self._seqs) and self._seqs[index] == seq else None

    def files(self, from_seq: int = 1) -> set[str]:
        """The names of the files that the events from a number on lie in."""
        return set(self._files[bisect_left(self._seqs, from_seq) :])

    def _end_of_run(self, index: int, last: int) -> int:
        file, end = self._files[index], index + 1
        while end < last and self._files[end] is file and self._seqs[end] not in self._rendered:
            end += 1
        return end

    def _read_run(self, index: int, end: int) -> list[tuple[int, bytes]]:
        start = self._offsets[index]
        size = self._offsets[end - 1] + self._lengths[end - 1] - start
        path = os.path.join(self.folder, self._files[index])
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
            try:
                body = os.pread(descriptor, size, start)
            finally:
                os.close(descriptor)
        except OSError as error:
            raise StorageError(f"cannot read {path}: {error.strerror}") from error
        run = [
            (self._seqs[at], body[self._offsets[at] - start : self._offsets[at] - start + self._lengths[at]])
            for at in range(index, end)
        ]
        if len(body) != size or not all(record.startswith(b'{"seq":%d,' % seq) for seq, record in run):
            raise StorageError(f"{path} was changed by another program; read the session again")
        return run

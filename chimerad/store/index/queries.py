"""Questions to the index: a page of the list, one row's record, totals, counts. Changes nothing.

A page is found by its keyset, (``started_us``, ``session_id``) descending, so that the thousandth page costs what the
first one does, and sessions that come or go between two pages neither hide nor repeat others.
"""

from __future__ import annotations

import base64
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import msgspec

from chimera.errors import InvalidParams
from chimerad.store.index.rows import MICROSECONDS_A_DAY, UNKNOWN_DAY, UNKNOWN_START
from chimerad.store.index.stamps import Stamp

__all__ = ["IndexCounts", "IndexReader", "ListQuery", "Listing", "Total"]

PAGE_BYTES = 8 << 20
PAGE_ROWS = 1000
"""A list without a limit ends its pages after so many rows."""


class ListQuery(msgspec.Struct, frozen=True, kw_only=True):
    """What ``sessions.list`` asks; None for a filter that is not set.

    Attributes:
        since_us: keeps what started then or later, and what has no readable start.
        limit: 0 for all, in pages.
        cursor: as a Listing gave it.
    """

    flavour: str | None = None
    since_us: int | None = None
    model: str | None = None
    cwd: str | None = None
    tag: str | None = None
    success: bool | None = None
    pinned: bool | None = None
    limit: int = 20
    cursor: str | None = None


class Listing(msgspec.Struct, frozen=True, kw_only=True):
    """One page: records as JSON, where the next page begins, and how many sessions match in all."""

    sessions: list[msgspec.Raw]
    next_cursor: str | None
    total: int


class Total(msgspec.Struct, frozen=True, kw_only=True):
    """What the sessions of one day, model and flavour add up to; ``day`` counts from the epoch (UNKNOWN_DAY: none)."""

    day: int
    model: str
    flavour: str
    runs: int
    successful: int
    unpriced: int
    cost_microdollars: int
    input_tokens: int
    output_tokens: int
    cache_tokens: int
    total_tokens: int


class IndexCounts(msgspec.Struct, frozen=True, kw_only=True):
    """``listed`` of ``folders`` have a readable summary and a flavour; ``events`` are those of all folders."""

    folders: int
    listed: int
    events: int


# Statements are put together from constants of this file (S608); values are always bound.
_GROUPED = (
    "SELECT day, model, flavour, COUNT(*), SUM(success), SUM(unpriced), SUM(cost_microdollars), SUM(input_tokens),"
    " SUM(output_tokens), SUM(cache_tokens), SUM(total_tokens) FROM sessions WHERE {0} GROUP BY day, model, flavour"
)


class IndexReader:
    """Reads over one connection, in one thread at a time."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._counted: dict[tuple[object, ...], int] = {}
        self._counted_at = -1

    def page(self, query: ListQuery) -> Listing:
        """One page of the list, newest first, unreadable start times last, then by id descending.

        Raises:
            InvalidParams: the limit is negative, or the cursor was not given by a list.
        """
        if query.limit < 0:
            raise InvalidParams(f"limit is {query.limit}; give 0 for all, in pages, or a positive number")
        after = None if query.cursor is None else _decode_cursor(query.cursor)
        with self._snapshot():
            total = self._total(query)
            sessions, last = self._page(query, after, query.limit or PAGE_ROWS)
        return Listing(sessions=sessions, next_cursor=_encode_cursor(*last) if last else None, total=total)

    def totals(self, *, flavour: str | None = None, since_us: int | None = None) -> list[Total]:
        """The groups that match, in no promised order; exact to the micro-dollar and to the microsecond of the start.

        Whole days come from the totals; the day that ``since_us`` falls into is added up from its rows. Sessions
        without a readable start are in.
        """
        where = _Where()
        if flavour is not None:
            where.add("flavour = ?", flavour)
        with self._snapshot():
            if since_us is None:
                found = self._rows(f"SELECT * FROM totals WHERE {where}", where.values)  # noqa: S608
            else:
                days, part = _split_at(since_us, where)
                found = self._rows(f"SELECT * FROM totals WHERE {days}", days.values)  # noqa: S608
                found += self._rows(_GROUPED.format(part), part.values)
        return [Total(**dict(zip(Total.__struct_fields__, row, strict=True))) for row in found]

    def counts(self) -> IndexCounts:
        """How many there are; walks every row, so it is for after a rebuild and for tests."""
        row = self._rows("SELECT COUNT(*), TOTAL(listed), TOTAL(events) FROM sessions", [])[0]
        return IndexCounts(folders=row[0], listed=int(row[1]), events=int(row[2]))

    def stamps(self) -> Iterator[dict[str, Stamp]]:
        """What a rescan compares, of every session, in slices so that no thread is kept waiting."""
        cursor = self._connection.execute("SELECT session_id, summary_stamp, log_stamp, log_is_file FROM sessions")
        while found := cursor.fetchmany(1000):
            yield {name: Stamp(summary, log, bool(is_file)) for name, summary, log, is_file in found}

    def close(self) -> None:
        self._connection.close()

    @contextmanager
    def _snapshot(self) -> Iterator[None]:
        """All that is read inside is of one moment; what was counted before it is forgotten if anything changed."""
        self._connection.execute("BEGIN")
        try:
            version = self._connection.execute("PRAGMA data_version").fetchone()[0]
            if version != self._counted_at:
                self._counted.clear()
                self._counted_at = version
            yield
        finally:
            self._connection.execute("COMMIT")

    def _rows(self, statement: str, values: list[object]) -> list[tuple[Any, ...]]:
        return self._connection.execute(statement, values).fetchall()

    def _total(self, query: ListQuery) -> int:
        """How many match, whatever the page; remembered until something changes."""
        key = (query.flavour, query.since_us, query.model, query.cwd, query.tag, query.success, query.pinned)
        known = self._counted.get(key)
        if known is None:
            grouped = query.cwd is None and query.tag is None and query.pinned is None
            known = self._counted[key] = self._total_of_groups(query) if grouped else self._total_of_rows(query)
        return known

    def _total_of_groups(self, query: ListQuery) -> int:
        column = {None: "runs", True: "successful", False: "runs - successful"}[query.success]
        where = _Where()
        for name, value in (("flavour", query.flavour), ("model", query.model)):
            if value is not None:
                where.add(f"{name} = ?", value)
        count = 0
        if query.since_us is not None:
            where, part = _split_at(query.since_us, where)
            if query.success is not None:
                part.add("success = ?", query.success)
            count = self._number(f"SELECT COUNT(*) FROM sessions WHERE {part}", part.values)  # noqa: S608
        return count + self._number(f"SELECT SUM({column}) FROM totals WHERE {where}", where.values)  # noqa: S608

    def _total_of_rows(self, query: ListQuery) -> int:
        return sum(
            self._number(f"SELECT COUNT(*) FROM {chosen.tables} WHERE {chosen.where}", chosen.where.values)  # noqa: S608
            for chosen in _selections(query, None)
        )

    def _number(self, statement: str, values: list[object]) -> int:
        return int(self._connection.execute(statement, values).fetchone()[0] or 0)

    def _page(
        self, query: ListQuery, after: tuple[int, str] | None, rows: int
    ) -> tuple[list[msgspec.Raw], tuple[int, str] | None]:
        """At most ``rows`` records, as many as fit a page, and the place of the last one if more follow it."""
        records: list[msgspec.Raw] = []
        size = 0
        last: tuple[int, str] | None = None
        for chosen in _selections(query, after):
            statement = (
                f"SELECT {chosen.start}, {chosen.name}, record FROM {chosen.tables} WHERE {chosen.where}"  # noqa: S608
                f" ORDER BY {chosen.start} DESC, {chosen.name} DESC LIMIT {rows + 1 - len(records)}"
            )
            for started_us, session_id, record in self._connection.execute(statement, chosen.where.values):
                size += len(record) + 1
                if len(records) == rows or (size > PAGE_BYTES and records):
                    return records, last
                records.append(msgspec.Raw(record))
                last = (started_us, session_id)
        return records, None


class _Where:
    """Conditions that all must hold, and their values."""

    def __init__(self, condition: str = "1") -> None:
        self.conditions = [condition]
        self.values: list[object] = []

    def __str__(self) -> str:
        return " AND ".join(self.conditions)

    def add(self, condition: str, *values: object) -> None:
        self.conditions.append(condition)
        self.values.extend(values)

    def also(self, condition: str, *values: object) -> _Where:
        """A copy with one condition more."""
        copy = _Where()
        copy.conditions, copy.values = [*self.conditions, condition], [*self.values, *values]
        return copy


def _split_at(since_us: int, where: _Where) -> tuple[_Where, _Where]:
    """Since a moment: the whole days after it and the unknown ones (of totals), and the rest of its day (of rows)."""
    first_whole_day = -(-since_us // MICROSECONDS_A_DAY)
    days = where.also("(day >= ? OR day = ?)", first_whole_day, UNKNOWN_DAY)
    rest = where.also(
        "listed = 1 AND started_us >= ? AND started_us < ?", since_us, first_whole_day * MICROSECONDS_A_DAY
    )
    return days, rest


class _Selection:
    """A query as one range of the order: its tables, its conditions, and the two columns that the order goes by."""

    def __init__(self, query: ListQuery, after: tuple[int, str] | None) -> None:
        self.tables, self.start, self.name = "sessions", "started_us", "session_id"
        self.where = _Where("listed = 1")
        if query.tag is not None:
            # CROSS JOIN keeps SQLite from walking the sessions to look each up among the tags
            self.tables = "session_tags AS t CROSS JOIN sessions AS s ON s.session_id = t.session_id"
            self.start, self.name = "t.started_us", "t.session_id"
            self.where.add("tag = ?", query.tag)
        for name, value in (("flavour", query.flavour), ("model", query.model), ("cwd", query.cwd)):
            if value is not None:
                self.where.add(f"{name} = ?", value)
        if query.success is not None:
            self.where.add("success = ?", query.success)
        if query.pinned is not None:
            self.where.add(f"pinned = {query.pinned:d}")  # spelt out: only then may the partial index be used
        if after is not None:
            self.where.add(f"({self.start}, {self.name}) < (?, ?)", *after)


def _selections(query: ListQuery, after: tuple[int, str] | None) -> Iterator[_Selection]:
    """A query as one range or, with ``since``, as two: what is new enough, then what has no start."""
    if query.since_us is None:
        yield _Selection(query, after)
        return
    if after is None or after[0] != UNKNOWN_START:
        newer = _Selection(query, after)
        newer.where.add(f"{newer.start} >= ?", query.since_us)
        yield newer
    unknown = _Selection(query, after)
    unknown.where.add(f"{unknown.start} = ?", UNKNOWN_START)
    yield unknown


def _encode_cursor(started_us: int, session_id: str) -> str:
    return base64.urlsafe_b64encode(f"{started_us} {session_id}".encode()).decode()


def _decode_cursor(cursor: str) -> tuple[int, str]:
    try:
        text = base64.b64decode(cursor.encode(), altchars=b"-_", validate=True).decode()
        started, _, session_id = text.partition(" ")
        place = int(started)
        if not session_id or not UNKNOWN_START <= place < 2**63:
            raise ValueError(text)
    except ValueError:  # not base64, not UTF-8, not a number
        raise InvalidParams("the cursor was not given by sessions.list; ask again without it") from None
    return place, session_id

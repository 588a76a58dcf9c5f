"""The index against a plain model: whatever is put in and taken out, lists and totals say what a recount says."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chimera.flavours import FLAVOUR_NAMES
from chimerad.store.index.queries import IndexReader, ListQuery, Total
from chimerad.store.index.rows import MICROSECONDS_A_DAY, UNKNOWN_START, SessionRow
from chimerad.store.index.schema import open_database, open_reader
from chimerad.store.index.writer import IndexWriter

DAY = MICROSECONDS_A_DAY
STARTS = (UNKNOWN_START, -DAY - 1, 0, 1, DAY - 1, DAY, 2 * DAY, 2 * DAY + 5, 2 * DAY + 5_000_000)
MODELS = ("", "m1", "m\x002", "größer 模型", "m'1")
TAGS = ("red", "with space", "x\x00y")
CWDS = ("", "/srv", "/srv/deep")

numbers = st.integers(min_value=0, max_value=1 << 43)


@st.composite
def rows(draw: st.DrawFn) -> SessionRow:
    flavour = draw(st.sampled_from(FLAVOUR_NAMES[:3]))
    session_id = f"{flavour}-{draw(st.integers(0, 9))}"
    return SessionRow(
        session_id=session_id,
        listed=draw(st.sampled_from((True, True, True, False))),
        flavour=flavour,
        started_us=draw(st.sampled_from(STARTS)),
        model=draw(st.sampled_from(MODELS)),
        cwd=draw(st.sampled_from(CWDS)),
        success=draw(st.booleans()),
        pinned=draw(st.booleans()),
        tags=tuple(sorted(draw(st.sets(st.sampled_from(TAGS))))),
        unpriced=draw(st.booleans()),
        cost_microdollars=draw(numbers),
        input_tokens=draw(numbers),
        output_tokens=draw(numbers),
        cache_tokens=draw(numbers),
        total_tokens=draw(numbers),
        events=draw(st.integers(0, 1000)),
        record=msgspec.json.encode({"session_id": session_id, "nonce": draw(st.integers(0, 99))}),
    )


changes = st.lists(
    st.one_of(st.lists(rows(), max_size=6), st.sets(rows().map(lambda row: row.session_id), min_size=1, max_size=4)),
    max_size=12,
)


def maybe(*values: Any) -> st.SearchStrategy[Any]:
    return st.sampled_from((None, None, None, *values))


queries = st.builds(
    ListQuery,
    flavour=maybe(*FLAVOUR_NAMES[:3]),
    since_us=maybe(*STARTS[1:], 3 * DAY),
    model=maybe(*MODELS),
    cwd=maybe(*CWDS),
    tag=maybe(*TAGS, "unknown"),
    success=maybe(True, False),
    pinned=maybe(True, False),
)


Index = tuple[IndexWriter, IndexReader]


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Index]:
    """One database for all examples; each begins by taking out what the last one left, which must leave nothing."""
    path = str(tmp_path_factory.mktemp("index") / "index.db")
    writer, reader = IndexWriter(open_database(path, "/root")), IndexReader(open_reader(path))
    yield writer, reader
    reader.close()
    writer.close()


def empty(index: Index) -> Index:
    writer, reader = index
    writer.remove([name for stamps in reader.stamps() for name in stamps])
    assert reader.totals() == []
    assert reader.page(ListQuery(tag="red")).total == 0
    return index


def apply(writer: IndexWriter, steps: list[Any]) -> dict[str, SessionRow]:
    model: dict[str, SessionRow] = {}
    for step in steps:
        if isinstance(step, list):
            writer.upsert(step)
            model.update((row.session_id, row) for row in step)
        else:
            writer.remove(step)
            for session_id in step:
                model.pop(session_id, None)
    return model


def recount(model: dict[str, SessionRow], flavour: str | None, since_us: int | None) -> dict[Any, list[int]]:
    groups: dict[Any, list[int]] = defaultdict(lambda: [0] * 8)
    for row in model.values():
        if row.listed and flavour in (None, row.flavour) and is_since(row, since_us):
            share = (
                1,
                row.success,
                row.unpriced,
                row.cost_microdollars,
                row.input_tokens,
                row.output_tokens,
                row.cache_tokens,
                row.total_tokens,
            )
            group = groups[(row.day, row.model, row.flavour)]
            group[:] = [old + new for old, new in zip(group, share, strict=True)]
    return dict(groups)


def is_since(row: SessionRow, since_us: int | None) -> bool:
    return since_us is None or row.started_us == UNKNOWN_START or row.started_us >= since_us


def as_groups(totals: list[Total]) -> dict[Any, list[int]]:
    found = [msgspec.structs.astuple(total) for total in totals]
    groups = {total[:3]: list(total[3:]) for total in found}
    assert len(groups) == len(found), "a group came twice"
    return groups


def matching(model: dict[str, SessionRow], query: ListQuery) -> list[SessionRow]:
    found = [
        row
        for row in model.values()
        if row.listed
        and query.flavour in (None, row.flavour)
        and is_since(row, query.since_us)
        and query.model in (None, row.model)
        and query.cwd in (None, row.cwd)
        and (query.tag is None or query.tag in row.tags)
        and query.success in (None, row.success)
        and query.pinned in (None, row.pinned)
    ]
    return sorted(found, key=lambda row: (row.started_us, row.session_id), reverse=True)


@settings(deadline=None, max_examples=50)
@given(changes, st.sampled_from((None, "mink")), st.sampled_from((None, *STARTS[1:])))
def test_totals_equal_a_full_recount(index: Index, steps: list[Any], flavour: str | None, since_us: int | None) -> None:
    writer, reader = empty(index)
    model = apply(writer, steps)

    assert as_groups(reader.totals(flavour=flavour, since_us=since_us)) == recount(model, flavour, since_us)
    assert reader.counts().folders == len(model)
    assert reader.counts().events == sum(row.events for row in model.values())


@settings(deadline=None, max_examples=100)
@given(changes, queries, st.integers(1, 12))
def test_pages_of_any_size_are_the_filtered_and_sorted_model(
    index: Index, steps: list[Any], query: ListQuery, limit: int
) -> None:
    writer, reader = empty(index)
    expected = matching(apply(writer, steps), query)
    records: list[bytes] = []
    cursor = None
    while True:
        page = reader.page(msgspec.structs.replace(query, limit=limit, cursor=cursor))
        assert page.total == len(expected)
        assert len(page.sessions) == min(limit, len(expected) - len(records))
        records += [bytes(record) for record in page.sessions]
        cursor = page.next_cursor
        if cursor is None:
            break

    assert records == [row.record for row in expected]


@settings(deadline=None, max_examples=25)
@given(changes, changes, queries)
def test_a_reader_that_counted_before_a_change_counts_again_after_it(
    index: Index, before: list[Any], after: list[Any], query: ListQuery
) -> None:
    writer, reader = empty(index)
    apply(writer, before)
    reader.page(query)
    model = apply(writer, [*before, *after])

    assert reader.page(query).total == len(matching(model, query))

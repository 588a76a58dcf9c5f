"""``summary.json``: written in one shape, read in every shape the family has ever written.

:func:`read_summary` gives the file's own object, with every key kept, beside a :class:`Summary` in which each value
has its type or its default. A value that makes no sense never hides a session: it becomes its default and is named
in ``Summary.problems``. Money is whole micro-dollars here, so that sums are exact.

Writes nothing: replacing the file durably is the store's business.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
from decimal import ROUND_HALF_EVEN, Context, InvalidOperation, Overflow

import msgspec

from chimera.errors import MalformedSummary, NoSummary
from chimera.flavours import origin_of
from chimera.paths import summary_path

__all__ = [
    "COST_SOURCES",
    "STATES",
    "Summary",
    "encode_summary",
    "microdollars",
    "new_summary",
    "read_summary",
    "session_record",
    "summary_from_bytes",
    "with_title",
]

STATES = ("running", "open", "finished", "recovered")
COST_SOURCES = ("provider", "computed", "unpriced")

MONEY = Context(prec=40, rounding=ROUND_HALF_EVEN, traps=[InvalidOperation, Overflow])
"""Our own, because an embedding program may have set the thread's to two digits."""

MAX_INTEGER = 2**63 - 1
"""What a column of the index holds; a larger number in a summary is no count of anything."""

TOKEN_ALIASES = {
    "total_tokens": ("total_tokens", "tokens_total"),
    "input_tokens": ("input_tokens", "prompt_tokens", "tokens_input"),
    "output_tokens": ("output_tokens", "completion_tokens", "tokens_output"),
    "cache_tokens": ("cache_tokens", "cache_read_input_tokens", "cache_read_tokens", "cached_tokens"),
}
"""Where older writers put their token counts; the first that holds a number other than 0 counts."""


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """One ``summary.json`` with aliases resolved and defaults filled in.

    Attributes:
        session_id: ``session_id``, else ``run_id``, else the folder's name. The folder's name is what a session
            is found by; a copied folder still carries its original's ids in here.
        run_id: ``run_id``, else ``session_id``, else the folder's name.
        cost_source: "" where an older summary names none.
        events: how many events the log had when the summary was written; None where it does not say.
        chain: the log's chain at that moment; None where it does not say.
        cli_origin: the flavour that the folder's name begins with; "" for none of the seven.
        problems: one sentence for every value that was replaced by its default.
    """

    session_id: str
    run_id: str
    agent: str
    model: str
    prompt: str
    title: str | None
    cwd: str
    started_at: str
    ended_at: str
    steps: int
    tool_calls: int
    success: bool
    cost_microdollars: int
    cost_usd: float
    cost_source: str
    total_tokens: int
    input_tokens: int
    output_tokens: int
    cache_tokens: int
    error: object
    state: str
    tags: tuple[str, ...]
    pinned: bool
    layout: str | None
    generation: str | None
    parent_session: object
    recovered: bool
    events: int | None
    chain: str | None
    cli_origin: str
    problems: tuple[str, ...] = ()


def read_summary(folder: str) -> tuple[dict[str, object], Summary]:
    """The summary of the session in ``folder``: the object as it lies, and its coerced view.

    Raises:
        NoSummary: there is no ``summary.json``.
        MalformedSummary: it cannot be read, is not JSON, or is not an object.
    """
    name = os.path.basename(os.path.normpath(folder))
    try:
        with open(summary_path(folder), "rb", opener=_open_at_once) as file:
            body = file.read()
    except (FileNotFoundError, NotADirectoryError):
        raise NoSummary(
            f"session {name!r} has no summary.json; it may have been aborted before one was written"
        ) from None
    except OSError as error:
        raise MalformedSummary(f"session {name!r} summary.json cannot be read: {error.strerror}") from None
    return summary_from_bytes(body, name)


def _open_at_once(path: str, flags: int) -> int:
    """A pipe somebody left in the place of a file is read as empty, never waited for."""
    return os.open(path, flags | os.O_NONBLOCK)


def summary_from_bytes(body: bytes, folder_name: str) -> tuple[dict[str, object], Summary]:
    """As :func:`read_summary`, for the bytes of a ``summary.json`` that were read already."""
    problems: list[str] = []
    try:
        raw = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raw = _decode_leniently(body, folder_name, problems)
    if not isinstance(raw, dict):
        raise MalformedSummary(f"session {folder_name!r} summary.json is not a JSON object")
    return raw, _View(raw, folder_name, problems).summary()


def microdollars(cost_usd: float | int | str) -> int:
    """Dollars as whole micro-dollars, by their decimal digits: 0.0241 is 24100.

    Raises:
        ValueError: not a finite number, or more than 64 bits of micro-dollars.
    """
    try:
        amount = MONEY.scaleb(MONEY.create_decimal(str(cost_usd).strip()), 6)
        if -MAX_INTEGER <= amount <= MAX_INTEGER:  # first: an exponent of a million must never become an integer
            return int(amount.to_integral_value(context=MONEY))
    except (InvalidOperation, Overflow):
        pass
    raise ValueError(f"{cost_usd!r} is not an amount of dollars")


def new_summary(
    *,
    session_id: str,
    flavour: str,
    prompt: str,
    title: str | None,
    model: str,
    cwd: str,
    started_at: str,
    layout: str,
    tags: list[str],
    generation: str,
) -> dict[str, object]:
    """The summary of a session that was just created: the documented keys in their order, then ours."""
    summary: dict[str, object] = {
        "session_id": session_id,
        "run_id": session_id,
        "agent": flavour,
        "model": model,
        "prompt": prompt,
        "cwd": cwd,
        "started_at": started_at,
        "ended_at": "",
        "steps": 0,
        "tool_calls_total": 0,
        "success": False,
        "cost_usd": 0.0,
        "total_tokens": 0,
        "error": None,
        "input_tokens": 0,
        "output_tokens": 0,
        "cache_tokens": 0,
        "cost_source": "unpriced",
        "state": "open",
        "tags": list(tags),
        "pinned": False,
        "layout": layout,
        "generation": generation,
        "parent_session": None,
        "recovered": False,
    }
    return with_title(summary, title)


def with_title(summary: dict[str, object], title: str | None) -> dict[str, object]:
    """A copy with this title after ``prompt``; without the key for None or a blank one. Every other key stays."""
    kept = title if title is not None and title.strip() else None
    titled: dict[str, object] = {}
    for key, value in summary.items():
        if key != "title":
            titled[key] = value
        if key == "prompt" and kept is not None:
            titled["title"] = kept
    if kept is not None and "title" not in titled:
        titled["title"] = kept
    return titled


def encode_summary(summary: dict[str, object]) -> bytes:
    """The bytes of ``summary.json``: indented by two, non-ASCII escaped, no newline at the end."""
    return json.dumps(summary, indent=2, allow_nan=False).encode()


def session_record(view: Summary, path: str, events: int) -> dict[str, object]:
    """One row of ``sessions.list``. Its id is the name of the folder at ``path``: what every other call takes."""
    return {
        "session_id": os.path.basename(path) or view.session_id,
        "started_at": view.started_at,
        "ended_at": view.ended_at,
        "model": view.model,
        "prompt": view.prompt,
        "title": view.title,
        "success": view.success,
        "cost_usd": view.cost_usd,
        "steps": view.steps,
        "tool_calls": view.tool_calls,
        "path": path,
        "error": view.error,
        "cli_origin": view.cli_origin,
        "cwd": view.cwd,
        "tags": list(view.tags),
        "events": events,
        "cost_source": view.cost_source,
        "state": view.state,
    }


def _decode_leniently(body: bytes, folder_name: str, problems: list[str]) -> object:
    """What Python's own ``json`` writes and strict JSON refuses: NaN, infinities and lone surrogates.

    The numbers become null and the surrogates ``?``, so that whoever passes the object on writes strict JSON.
    """

    def refuse(digits: str) -> None:
        problems.append(f"{digits[:20]} is no JSON number; read as null")

    def finite(digits: str) -> float | None:
        number = float(digits)
        if math.isfinite(number):
            return number
        refuse(digits)
        return None

    try:
        loaded = json.loads(body.decode(), parse_constant=refuse, parse_float=finite)
        return msgspec.json.decode(json.dumps(loaded, ensure_ascii=False).encode(errors="replace"))
    except UnicodeDecodeError:
        why = "it is not UTF-8"
    except RecursionError:
        why = "it is nested too deeply"
    except ValueError as error:
        why = str(error)
    raise MalformedSummary(f"session {folder_name!r} summary.json is malformed: {why}")


class _View:
    """The raw object, read key by key; collects what had to be replaced."""

    def __init__(self, raw: dict[str, object], folder_name: str, problems: list[str]) -> None:
        self.raw = raw
        self.folder_name = folder_name
        self.problems = problems

    def summary(self) -> Summary:
        session_id = self.text("session_id") or self.text("run_id") or self.folder_name
        cost = self.cost()
        success = bool(self.raw.get("success"))
        recovered = self.raw.get("recovered") is True
        fields = {name: self.tokens(name, aliases) for name, aliases in TOKEN_ALIASES.items()}
        return Summary(
            session_id=session_id,
            run_id=self.text("run_id") or session_id,
            agent=self.text("agent"),
            model=self.text("model"),
            prompt=self.text("prompt"),
            title=self.optional_text("title"),
            cwd=self.text("cwd"),
            started_at=self.text("started_at"),
            ended_at=self.text("ended_at"),
            steps=self.count("steps"),
            tool_calls=self.count("tool_calls_total"),
            success=success,
            cost_microdollars=cost,
            cost_usd=cost / 1_000_000,
            cost_source=self.one_of("cost_source", COST_SOURCES),
            error=self.raw.get("error"),
            state=self.state(success, recovered),
            tags=self.tags(),
            pinned=self.raw.get("pinned") is True,
            layout=self.optional_text("layout"),
            generation=self.optional_text("generation"),
            parent_session=self.raw.get("parent_session"),
            recovered=recovered,
            events=None if self.raw.get("events") is None else self.count("events"),
            chain=self.optional_text("chain"),
            cli_origin=origin_of(self.folder_name),
            problems=tuple(self.problems),
            **fields,
        )

    def refuse(self, key: str, default: object) -> None:
        shown = repr(self.raw.get(key))
        shown = shown if len(shown) <= 60 else shown[:57] + "..."
        self.problems.append(f"{key} is {shown}; read as {default!r}")

    def text(self, key: str) -> str:
        value = self.raw.get(key)
        if isinstance(value, str):
            return value
        if isinstance(value, int | float) and not isinstance(value, bool):
            return str(value)
        if value is not None and value is not False:
            self.refuse(key, "")
        return ""

    def optional_text(self, key: str) -> str | None:
        value = self.raw.get(key)
        return value if isinstance(value, str) and value.strip() else None

    def one_of(self, key: str, known: tuple[str, ...]) -> str:
        value = self.raw.get(key)
        if isinstance(value, str) and value in known:
            return value
        if value not in (None, ""):
            self.refuse(key, "")
        return ""

    def count(self, key: str) -> int:
        number = self.whole_number(key)
        if number is None:
            self.refuse(key, 0)
        return number or 0

    def whole_number(self, key: str) -> int | None:
        """The value as an integer of 64 bits; 0 for a missing, null or empty one, None for anything else."""
        value = self.raw.get(key)
        if value is None or value == "":
            return 0
        if isinstance(value, bool) or not isinstance(value, int | float | str):
            return None
        try:
            number = int(value)
        except (ValueError, OverflowError):
            return None
        return number if abs(number) <= MAX_INTEGER else None

    def tokens(self, name: str, aliases: tuple[str, ...]) -> int:
        for key in aliases:
            number = self.whole_number(key)
            if number is None:
                self.refuse(key, f"the next of the keys for {name}")
            elif number:
                return number
        return 0

    def cost(self) -> int:
        value = self.raw.get("cost_usd")
        if value is None or value == "":
            return 0
        if isinstance(value, int | float | str) and not isinstance(value, bool):
            with contextlib.suppress(ValueError):
                return microdollars(value)
        self.refuse("cost_usd", 0.0)
        return 0

    def tags(self) -> tuple[str, ...]:
        value = self.raw.get("tags")
        if value is None:
            return ()
        if isinstance(value, list) and all(isinstance(tag, str) for tag in value):
            return tuple(value)
        self.refuse("tags", [])
        return ()

    def state(self, success: bool, recovered: bool) -> str:
        """What our writers say; else what the keys tell. A foreign writer writes its summary when all is over."""
        stated = self.one_of("state", STATES)
        if stated:
            return stated
        if recovered:
            return "recovered"
        return "open" if self.raw.get("ended_at") == "" and not success else "finished"

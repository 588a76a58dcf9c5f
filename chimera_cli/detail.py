"""One session as text: its summary and the beginning of its transcript. Knows plain dicts as the RPC returns them."""

from __future__ import annotations

import json

from chimera_cli.tables import cost
from chimera_cli.text import cut, one_line, printable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

__all__ = ["EVENTS_SHOWN", "session_text"]

EVENTS_SHOWN = 30
EVENT_WIDTH = 200
LABEL_WIDTH = 12


def session_text(
    detail: dict[str, Any],
    events: list[dict[str, Any]],
    total: int,
    *,
    family: str,
    full: bool,
    with_events: bool = True,
) -> Iterator[str]:
    """The lines of ``show``.

    ``detail`` has session_id, path and summary; ``events`` are the first ``total`` events or fewer. The stoat family
    counts its events and prints them only with ``full``; the others print those given, and how many more there are.
    """
    if family == "stoat":
        yield from _stoat_summary(detail)
    else:
        yield from _mink_summary(detail, family)
    if family == "stoat" and with_events:
        if total:
            yield ""
            yield f"events: {total} record(s)"
        if full:
            yield from _event_lines(events, full)
    elif with_events:
        yield ""
        yield f"Events ({total}):"
        yield from _event_lines(events, full)
        if not total:
            yield "  (no events recorded)"
        elif total > len(events):
            yield f"  … {total - len(events)} more event(s); --full prints them all"


def _mink_summary(detail: dict[str, Any], family: str) -> Iterator[str]:
    summary = detail["summary"]
    yield f"{'Run' if family == 'mink' else 'Session'}: {one_line(detail['session_id'])}"
    rows = [("path", detail["path"]), ("model", summary.get("model"))]
    if _text(summary.get("title")).strip():
        rows.append(("title", summary["title"]))
    rows += [("started", summary.get("started_at")), ("ended", summary.get("ended_at"))]
    if family != "badger":
        rows.append(("cwd", summary.get("cwd")))
    if family == "ferret":
        rows += [("sandbox", summary.get("sandbox")), ("approval", summary.get("approval"))]
    elif family != "badger":
        rows.append(("perm-mode", summary.get("permission_mode")))
    rows += [
        ("steps", summary.get("steps") or 0),
        ("tool calls", summary.get("tool_calls_total") or 0),
        ("cost", _cost(summary)),
        ("success", "yes" if summary.get("success") else "no"),
    ]
    if summary.get("error"):
        rows.append(("error", summary["error"]))
    for label, value in rows:
        yield f"  {label + ':':{LABEL_WIDTH}}{one_line(_text(value))}".rstrip()
    yield ""
    yield "Prompt:"
    yield from _indented(_text(summary.get("prompt")))


def _stoat_summary(detail: dict[str, Any]) -> Iterator[str]:
    summary = detail["summary"]
    for label, value in (
        ("session", detail["session_id"]),
        ("path", detail["path"]),
        ("started", summary.get("started_at")),
        ("ended", summary.get("ended_at")),
        ("model", summary.get("model")),
        ("success", bool(summary.get("success"))),
        ("steps", summary.get("steps") or 0),
    ):
        yield f"{label:9}{one_line(_text(value))}".rstrip()
    yield ""
    yield "prompt:"
    yield printable(_text(summary.get("prompt")))


def _event_lines(events: list[dict[str, Any]], full: bool) -> Iterator[str]:
    for event in events:
        text = _event_text(str(event.get("type") or "?"), event.get("metadata"))
        if full:
            yield from _indented(text)
        else:
            yield f"  {cut(one_line(text), EVENT_WIDTH)}"


def _event_text(event_type: str, metadata: object) -> str:
    if isinstance(metadata, dict) and event_type == "user_message":
        return f"[user] {_text(metadata.get('content'))}"
    if isinstance(metadata, dict) and event_type == "agent_result":
        ok = "yes" if metadata.get("success") else "no"
        return f"[agent] steps={metadata.get('steps') or 0} ok={ok} output={_text(metadata.get('output'))}"
    return f"[{event_type}] {json.dumps(metadata, ensure_ascii=False)}"


def _indented(text: str) -> Iterator[str]:
    for line in printable(text).split("\n"):
        yield f"  {line}".rstrip()


def _cost(summary: dict[str, Any]) -> str:
    try:
        return cost(summary, 6)
    except (TypeError, ValueError):
        return one_line(_text(summary["cost_usd"]))  # an older writer's text; shown as it lies


def _text(value: object) -> str:
    if isinstance(value, str):
        return value
    return (
        "" if value is None else json.dumps(value, ensure_ascii=False) if isinstance(value, dict | list) else str(value)
    )

"""The contract as an OpenRPC document, made from the same definitions that validate calls."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from typing import Any

import msgspec

from chimera.errors import ChimeraError, InternalError, InvalidParams, Overloaded
from chimerad.rpc.contract import METHODS, Method

__all__ = ["NOTIFICATIONS", "document"]

ERRORS_OF_EVERY_CALL = (InvalidParams, Overloaded, InternalError)

NOTIFICATIONS = {
    "session.event": (
        "A new event of a session, or one that is replayed.",
        ("subscription", "session_id", "generation", "event"),
    ),
    "session.lagged": (
        "This subscription has ended, because the client did not keep up or the session changed; "
        "subscribe again with since = resume.",
        ("subscription", "session_id", "resume"),
    ),
}
"""What the daemon sends by itself: when, and the members of its params. OpenRPC has no word for it."""


@cache
def document(version: str) -> dict[str, Any]:
    """The OpenRPC document of a daemon of that version. The caller does not change it."""
    types = [part for method in METHODS.values() for part in (method.parameters, method.result)]
    schemas, components = msgspec.json.schema_components(types, ref_template="#/components/schemas/{name}")
    names = [method.parameters.__name__ for method in METHODS.values()]
    parameter_schemas = [components[name] for name in names]
    for name in set(names):
        del components[name]
    return {
        "openrpc": "1.3.2",
        "info": {
            "title": "chimerad",
            "version": version,
            "description": "JSON-RPC 2.0 over a Unix socket: UTF-8, one JSON message a line, at most 16 MiB a line.",
            "license": {"name": "MIT"},
        },
        "methods": [
            _method(method, parameters, result)
            for method, parameters, result in zip(METHODS.values(), parameter_schemas, schemas[1::2], strict=True)
        ],
        "components": {"schemas": components},
        "x-notifications": [
            {"name": name, "summary": summary, "params": list(members)}
            for name, (summary, members) in NOTIFICATIONS.items()
        ],
    }


def _method(method: Method, parameters: dict[str, Any], result: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": method.name,
        "summary": method.summary,
        "tags": [{"name": method.group}],
        "paramStructure": "by-name",
        "params": _parameters(parameters),
        "result": {"name": "result", "schema": result},
        "errors": _errors((*method.errors, *ERRORS_OF_EVERY_CALL)),
    }


def _parameters(schema: dict[str, Any]) -> list[dict[str, Any]]:
    required = set(schema.get("required", []))
    shown = []
    for name, described in schema["properties"].items():
        rest = dict(described)
        parameter = {"name": name, "required": name in required, "schema": rest}
        if description := rest.pop("description", None):
            parameter["description"] = description
        shown.append(parameter)
    return shown


def _errors(kinds: Iterable[type[ChimeraError]]) -> list[dict[str, Any]]:
    by_kind = {kind.kind: {"code": kind.code, "message": kind.kind, "data": {"kind": kind.kind}} for kind in kinds}
    return list(by_kind.values())

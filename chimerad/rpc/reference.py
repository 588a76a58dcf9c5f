"""``docs/rpc.md`` from the OpenRPC document: ``python -m chimerad.rpc.reference > docs/rpc.md``."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import msgspec

from chimera import __version__
from chimera.errors import ChimeraError, InvalidRequest, MethodNotFound, ParseError
from chimerad.rpc.openrpc import NOTIFICATIONS, document

__all__ = ["render"]

_OF_NO_METHOD: tuple[type[ChimeraError], ...] = (ParseError, InvalidRequest, MethodNotFound)

_INTRODUCTION = """\
# The JSON-RPC interface

<!-- Made by `python -m chimerad.rpc.reference > docs/rpc.md`; a test holds it current. -->

`chimerad` serves JSON-RPC 2.0 over a Unix socket: UTF-8, one JSON message (or one array of them, a batch) a line,
`\\n` at the end, at most 16 MiB a line both ways. The socket is `$CHIMERA_SOCKET`, else
`$CHIMERA_HOME/run/chimerad.sock` when `CHIMERA_HOME` is set, else `$XDG_RUNTIME_DIR/chimera/chimerad.sock`, else
`~/.chimera/run/chimerad.sock`.

```sh
chimera rpc daemon.hello
printf '%s\\n' '{"jsonrpc":"2.0","id":1,"method":"daemon.hello"}' | socat -t 5 - UNIX-CONNECT:"$CHIMERA_SOCKET"
```

`rpc.discover` answers the same contract as an OpenRPC document. Protocol 1 keeps names, parameters and results as they
stand here; more may be added, nothing is renamed.

- Parameters are named; unknown, missing and mistyped ones are named in a `-32602`.
- Calls of one connection are carried out in order, and so are the members of a batch (at most 1,000). Appends that
  follow each other share one sync, so their answers may come in another order than the calls: go by `id`.
- A call without an `id` is a notification and gets no answer, not even an error.
- A reply always precedes the first notification that it causes.
- A line over 16 MiB is answered with `-32600` and the connection is closed. A reply never grows past it: lists and
  reads end a page at 8 MiB and give a cursor; what has no pages is `too_large`.
- A client that ends its side of the connection still gets the answers to what it has sent, and then the end: keep the
  sending side open to go on receiving notifications.
- `overloaded` means: nothing was done, retry in a moment. After an error whose effect is not known, `data.outcome` is
  `"unknown"`: retry with the same event ids, nothing is added twice.
"""


def render(version: str = __version__) -> str:
    """The page, Markdown."""
    described = document(version)
    parts = [_INTRODUCTION]
    group = ""
    for method in described["methods"]:
        if method["tags"][0]["name"] != group:
            group = method["tags"][0]["name"]
            parts.append(f"## {group}\n")
        parts.append("\n".join(_method(method)))
    parts.append("\n".join(_notifications()))
    parts.append("\n".join(_types(described["components"]["schemas"])))
    parts.append("\n".join(_errors()))
    return "\n".join(parts)


def _method(method: dict[str, Any]) -> Iterator[str]:
    yield f"### `{method['name']}`\n"
    yield f"{method['summary']}\n"
    if method["params"]:
        yield "| parameter | type | default | |"
        yield "| --- | --- | --- | --- |"
        for parameter in method["params"]:
            default = "required" if parameter["required"] else _default(parameter["schema"])
            yield (
                f"| `{parameter['name']}` | {_type(parameter['schema'])} | {default} "
                f"| {parameter.get('description', '')} |"
            )
        yield ""
    yield f"Result: {_type(method['result']['schema'])}."
    kinds = ", ".join(f"`{error['message']}`" for error in method["errors"])
    yield f"Errors: {kinds}.\n"


def _notifications() -> Iterator[str]:
    yield "## Notifications to the client\n"
    for name, (summary, members) in NOTIFICATIONS.items():
        yield f"- `{name}` {{{', '.join(members)}}}: {summary}"
    yield ""


def _types(schemas: dict[str, Any]) -> Iterator[str]:
    yield "## Types\n"
    for name in sorted(schemas):
        schema = schemas[name]
        yield f"### {name}\n"
        yield "| member | type | |"
        yield "| --- | --- | --- |"
        for member, described in schema.get("properties", {}).items():
            optional = "" if member in schema.get("required", []) else "optional"
            yield f"| `{member}` | {_type(described)} | {optional} |"
        yield ""


def _errors() -> Iterator[str]:
    yield "## Errors\n"
    yield "Every error carries `data.kind` and a sentence that says what to do.\n"
    yield "| code | kind |"
    yield "| --- | --- |"
    seen: dict[str, int] = {}
    for method in document(__version__)["methods"]:
        seen.update({error["message"]: error["code"] for error in method["errors"]})
    for standard in _OF_NO_METHOD:
        seen[standard.kind] = standard.code
    for kind, code in sorted(seen.items(), key=lambda item: (-item[1], item[0])):
        yield f"| {code} | `{kind}` |"
    yield ""


def _type(schema: dict[str, Any]) -> str:
    """A JSON schema in a few words."""
    if "$ref" in schema:
        name = schema["$ref"].rsplit("/", 1)[1]
        return f"[{name}](#{name.lower()})"
    if "enum" in schema:
        return " or ".join(f"`{choice}`" for choice in schema["enum"])
    if "anyOf" in schema:
        return " or ".join(_type(choice) for choice in schema["anyOf"])
    if schema.get("type") == "array":
        return f"list of {_type(schema.get('items', {}))}"
    return str(schema.get("type", "any JSON"))


def _default(schema: dict[str, Any]) -> str:
    default = schema.get("default")
    return "" if default is None else f"`{msgspec.json.encode(default).decode()}`"


if __name__ == "__main__":
    sys.stdout.write(render())

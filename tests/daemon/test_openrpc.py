"""``rpc.discover`` is an OpenRPC document: the shape its specification requires, and references that lead somewhere."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import jsonschema
import pytest

from chimerad.rpc.openrpc import document
from tests.support.daemon import RunningDaemon

DOCUMENT = document("1.2.3")
METHODS: list[dict[str, Any]] = DOCUMENT["methods"]


def test_the_document_has_what_openrpc_requires() -> None:
    assert re.fullmatch(r"1\.\d+\.\d+", DOCUMENT["openrpc"])
    assert DOCUMENT["info"]["title"] == "chimerad"
    assert DOCUMENT["info"]["version"] == "1.2.3"
    assert set(DOCUMENT) <= {"openrpc", "info", "methods", "components", "x-notifications"}
    names = [method["name"] for method in METHODS]
    assert len(set(names)) == len(names)
    assert "rpc.discover" in names


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method["name"])
def test_a_method_has_what_openrpc_requires(method: dict[str, Any]) -> None:
    assert set(method) == {"name", "summary", "tags", "paramStructure", "params", "result", "errors"}
    assert method["paramStructure"] == "by-name"
    assert method["summary"].endswith(".")
    assert all(set(tag) == {"name"} for tag in method["tags"])
    names = [parameter["name"] for parameter in method["params"]]
    assert len(set(names)) == len(names)
    required = [parameter["required"] for parameter in method["params"]]
    assert required == sorted(required, reverse=True), "required parameters stand before optional ones"
    for parameter in method["params"]:
        assert set(parameter) <= {"name", "required", "schema", "description"}
        assert isinstance(parameter["schema"], dict)
    assert set(method["result"]) == {"name", "schema"}
    for error in method["errors"]:
        assert isinstance(error["code"], int)
        assert isinstance(error["message"], str)
        assert set(error) == {"code", "message", "data"}
    kinds = [error["message"] for error in method["errors"]]
    assert len(set(kinds)) == len(kinds)


def test_every_schema_is_json_schema() -> None:
    for schema in _schemas():
        jsonschema.Draft202012Validator.check_schema(schema)


def test_every_reference_leads_to_a_component_and_every_component_is_used() -> None:
    referred = set(re.findall(r'"\$ref": "([^"]+)"', json.dumps(DOCUMENT)))
    there = {f"#/components/schemas/{name}" for name in DOCUMENT["components"]["schemas"]}
    assert referred == there


def test_defaults_fit_their_own_schemas() -> None:
    for method in METHODS:
        for parameter in method["params"]:
            if "default" in parameter["schema"]:
                validator = jsonschema.Draft202012Validator({**parameter["schema"], **_components()})
                validator.validate(parameter["schema"]["default"])


def test_the_daemon_answers_this_document(daemon: RunningDaemon) -> None:
    with daemon.connect() as connection:
        answered = connection.call("rpc.discover")
    version = answered["info"]["version"]
    assert answered == json.loads(json.dumps(document(version)))


def _schemas() -> Iterator[dict[str, Any]]:
    yield from DOCUMENT["components"]["schemas"].values()
    for method in METHODS:
        yield method["result"]["schema"]
        yield from (parameter["schema"] for parameter in method["params"])


def _components() -> dict[str, Any]:
    return {"components": DOCUMENT["components"]}

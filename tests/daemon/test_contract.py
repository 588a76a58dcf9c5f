"""The daemon against the repository's own copy of the contract, ``tests/rpc_contract.json``: described and real."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest

from chimera import errors
from chimera.flavours import FLAVOUR_NAMES
from chimerad.rpc import parameters, reference
from chimerad.rpc.contract import METHODS
from chimerad.rpc.methods import HANDLERS
from chimerad.rpc.openrpc import NOTIFICATIONS, document
from tests.support.daemon import RpcError, RunningDaemon

REPOSITORY = Path(__file__).parents[2]
CONTRACT: dict[str, Any] = json.loads((REPOSITORY / "tests" / "rpc_contract.json").read_text())
MEMBERS: dict[str, list[str]] = CONTRACT["members"]
NAMES = list(CONTRACT["methods"])


def test_the_daemon_has_the_methods_of_the_contract_and_no_others() -> None:
    assert list(METHODS) == NAMES
    assert set(HANDLERS) == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_discover_describes_the_parameters_of_the_contract(name: str) -> None:
    described = {method["name"]: method for method in document("0")["methods"]}[name]
    wanted = CONTRACT["methods"][name]["params"]
    assert [parameter["name"] for parameter in described["params"]] == list(wanted)
    for parameter in described["params"]:
        agreed = wanted[parameter["name"]]
        assert parameter["required"] == agreed.get("required", False)
        assert _type(parameter["schema"]) == agreed["type"]
        if not parameter["required"]:
            assert parameter["schema"]["default"] == agreed["default"]


@pytest.mark.parametrize("name", [name for name in NAMES if name != "rpc.discover"])
def test_discover_describes_the_results_of_the_contract(name: str) -> None:
    schema = _resolve({method["name"]: method for method in document("0")["methods"]}[name]["result"]["schema"])
    wanted = CONTRACT["methods"][name]["result"]
    assert list(schema["properties"]) == [member.rstrip("?") for member in wanted]
    assert schema["required"] == [member for member in wanted if not member.endswith("?")]


def test_discover_describes_the_members_of_the_contract() -> None:
    names = {
        "event": "Event",
        "new_event": "NewEvent",
        "record": "SessionRecord",
        "finished_summary": "FinishedSummary",
        "cursor": "Cursor",
        "journal": "JournalStatus",
        "index": "IndexStatus",
        "problem": "Problem",
    }
    schemas = document("0")["components"]["schemas"]
    for member, name in names.items():
        assert list(schemas[name]["properties"]) == MEMBERS[member], name


def test_errors_have_the_codes_of_the_contract() -> None:
    known = {kind.kind: kind.code for kind in _leaves(errors.ChimeraError)}
    for kind, code in CONTRACT["errors"].items():
        assert known[kind] == code
    for method in METHODS.values():
        assert {error.kind for error in method.errors} <= set(CONTRACT["errors"])


def test_notifications_are_those_of_the_contract() -> None:
    assert {name: list(members) for name, (_, members) in NOTIFICATIONS.items()} == CONTRACT["notifications"]


def test_flavours_are_those_of_the_table() -> None:
    assert get_args(parameters.FlavourName) == FLAVOUR_NAMES


def test_the_page_in_docs_is_current() -> None:
    page = (REPOSITORY / "docs" / "rpc.md").read_text()
    assert page == reference.render(), "run: python -m chimerad.rpc.reference > docs/rpc.md"


def test_every_real_result_has_the_members_and_types_of_the_contract(daemon: RunningDaemon) -> None:
    answers: dict[str, Any] = {}
    with daemon.connect() as connection:

        def call(method: str, **params: Any) -> Any:
            answers[method] = connection.call(method, **params)
            return answers[method]

        assert call("daemon.hello", client="test")["name"] == "chimerad"
        created = call("sessions.create", flavour="otter", prompt="p", title="t", model="m", cwd="/w", tags=["x"])
        session = {"session_id": created["session_id"]}
        call("sessions.append", **session, events=[{"type": "user_message", "metadata": {"content": "hi"}}])
        call("sessions.read", **session)
        call("sessions.get", **session, events=True)
        subscribed = call("sessions.subscribe", **session, since={"generation": created["generation"], "seq": 0})
        event = connection.next_notification()
        call("sessions.unsubscribe", subscription=subscribed["subscription"])
        call("sessions.finish", **session, summary={"success": True, "cost_usd": 0.25, "cost_source": "provider"})
        call("sessions.rename", **session, title="new")
        call("sessions.tag", **session, add=["y"], remove=["x"])
        call("sessions.pin", **session)
        call("sessions.list")
        call("sessions.verify", **session)
        second = connection.call(
            "sessions.append", **session, events=[{"type": "user_message", "metadata": {"content": "on " * 400}}] * 3
        )
        call("tree.show", **session)
        call("tree.label", **session, event_id=second["ids"][0], label="here")
        call("checkpoints.save", **session, name="point")
        call("checkpoints.list", **session)
        call("tree.branch", **session, name="aside")
        call("tree.switch", **session, to="main")
        call("tree.merge", **session, **{"from": "aside"})
        call("context.messages", **session)
        call("context.compact", **session)
        call("context.undo", **session)
        call("context.redo", **session)
        call("checkpoints.restore", **session, name="point")
        call("sessions.fork", **session)
        call("daemon.status")
        call("index.rebuild")
        trashed = call("sessions.delete", **session)
        call("trash.list")
        call("sessions.restore", trash_id=trashed["trash_id"])
        connection.call("sessions.delete", **session)
        call("trash.purge")
        call("rpc.discover")
        call("daemon.shutdown")
    assert daemon.process.wait(20) == 0
    daemon.stop()
    assert set(answers) == set(NAMES)
    for name, answer in answers.items():
        wanted = CONTRACT["methods"][name]["result"]
        assert list(answer) == [member.rstrip("?") for member in wanted], name
        msgspec.convert(answer, METHODS[name].result, strict=True)
    assert [list(record) for record in answers["sessions.list"]["sessions"]] == [MEMBERS["record"]]
    assert list(answers["sessions.read"]["events"][0]) == MEMBERS["event"]
    assert answers["sessions.get"]["events"] == answers["sessions.read"]["events"]
    assert list(answers["daemon.status"]["journal"]) == MEMBERS["journal"]
    assert list(answers["daemon.status"]["index"]) == MEMBERS["index"]
    assert event["method"] == "session.event"
    assert list(event["params"]) == CONTRACT["notifications"]["session.event"]
    assert event["params"]["event"] == answers["sessions.read"]["events"][0]


@pytest.mark.parametrize("session_id", ["../up", "a/b", "", ".journal", "a\x00b", "x" * 201, "."])
def test_every_method_refuses_an_id_with_path_tricks(daemon: RunningDaemon, session_id: str) -> None:
    more: dict[str, dict[str, Any]] = {
        "sessions.append": {"events": [{"type": "a"}]},
        "sessions.finish": {"summary": {"success": True}},
        "sessions.rename": {"title": "t"},
        "tree.branch": {"name": "n"},
        "tree.merge": {"from": "n"},
        "tree.switch": {"to": "n"},
        "tree.label": {"event_id": "e", "label": "l"},
        "checkpoints.save": {"name": "n"},
        "checkpoints.restore": {"name": "n"},
    }
    before = _sessions_and_surroundings(daemon)
    with daemon.connect() as connection:
        for name, method in CONTRACT["methods"].items():
            if "session_id" not in method["params"]:
                continue
            with pytest.raises(RpcError) as caught:
                connection.call(name, session_id=session_id, **more.get(name, {}))
            assert caught.value.kind == "invalid_id", name
    assert _sessions_and_surroundings(daemon) == before


def _sessions_and_surroundings(daemon: RunningDaemon) -> set[Path]:
    shown = {path for path in daemon.root.iterdir() if not path.name.startswith(".")}
    return shown | set(daemon.home.iterdir()) | set(daemon.home.parent.iterdir())


def _type(schema: dict[str, Any]) -> str:
    if "$ref" in schema:
        return str(_resolve(schema)["type"])
    if "enum" in schema:
        return "string"
    if "anyOf" in schema:
        return next(_type(choice) for choice in schema["anyOf"] if choice.get("type") != "null")
    return str(schema["type"])


def _resolve(schema: dict[str, Any]) -> dict[str, Any]:
    found = document("0")["components"]["schemas"][schema["$ref"].rsplit("/", 1)[1]]
    assert isinstance(found, dict)
    return found


def _leaves(kind: type[errors.ChimeraError]) -> list[type[errors.ChimeraError]]:
    return [kind, *(leaf for branch in kind.__subclasses__() for leaf in _leaves(branch))]

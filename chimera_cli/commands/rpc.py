"""``chimera rpc METHOD [JSON|-]``: any call of the daemon from a shell. Prints the result as JSON."""

from __future__ import annotations

import json

from chimera.client.blocking import Client
from chimera.errors import EXIT_FAILED, ChimeraError, InvalidParams
from chimera_cli.given import on_one_line, parse_json, read_standard_input
from chimera_cli.output import print_error, print_json

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable
    from typing import Any

__all__ = ["add_arguments", "run"]

EXAMPLES = """\
examples:
  chimera rpc daemon.hello
  chimera rpc sessions.list '{"limit":5}' | jq -r '.sessions[].session_id'
  chimera rpc sessions.read - < params.json
  chimera rpc '[{"method":"daemon.hello"},{"method":"daemon.status"}]'      a batch; prints the replies
  chimera rpc rpc.discover                                                  every method there is
"""


def add_arguments(subparsers: argparse._SubParsersAction[Any]) -> None:
    parser = subparsers.add_parser(
        "rpc",
        description="Call a method of the daemon and print its result as JSON. An error goes to standard error, "
        "and the exit code is 1; of a batch all replies are printed, and the exit code is 1 if any is an error.",
        epilog=EXAMPLES,
    )
    parser.add_argument(
        "method", metavar="METHOD", help="a method; or a whole request or batch as JSON; or - to read one"
    )
    parser.add_argument("params", metavar="JSON", nargs="?", help="its parameters; - reads them from standard input")


def run(arguments: Any) -> int:
    with Client(arguments.socket, arguments.home, timeout=None) as client:
        if arguments.method.startswith(("[", "{")) or arguments.method == "-":
            if arguments.params is not None:
                raise InvalidParams("a request given as JSON has its parameters inside; leave the second argument out")
            return _whole(client, _text_of(arguments.method))
        text = _text_of(arguments.params or "{}")
        if not isinstance(_parsed(text, "the parameters"), dict | list):
            raise InvalidParams("the parameters must be a JSON object, or an array")
        return _printed(lambda: client.call_raw(arguments.method, on_one_line(text)))


def _whole(client: Client, text: str) -> int:
    message = _parsed(text, "the request")
    if isinstance(message, list):
        replies = client.send_batch([_completed(member, number) for number, member in enumerate(message, 1)])
        print_json(replies)
        failed = any("error" in reply for reply in (replies if isinstance(replies, list) else [replies]))
        return EXIT_FAILED if failed else 0
    if not isinstance(message, dict) or not isinstance(message.get("method"), str):
        raise InvalidParams('a request is an object with a method: {"method":"daemon.hello"}')
    params = message.get("params", {})
    return _printed(lambda: client.call_raw(message["method"], json.dumps(params).encode()))


def _completed(member: Any, number: int) -> Any:
    """A request of a batch with what everybody leaves out; anything that is no request goes as it is."""
    return {"jsonrpc": "2.0", "id": f"call-{number}", **member} if isinstance(member, dict) else member


def _printed(call: Callable[[], Any]) -> int:
    try:
        result = call()
    except ChimeraError as error:
        print_error(f"{error.message} ({error.kind}, {error.code})")
        return EXIT_FAILED
    print_json(result)
    return 0


def _text_of(argument: str) -> str:
    return read_standard_input() if argument == "-" else argument


def _parsed(text: str, what: str) -> Any:
    try:
        return parse_json(text)
    except InvalidParams as error:
        raise InvalidParams(f"{what} cannot be used: {error.message}") from None

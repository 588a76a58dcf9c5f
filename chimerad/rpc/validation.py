"""From the raw ``params`` of a call to its typed parameters; what is wrong is named, with what would be right.

Knows the shape of msgspec's sentences and no method.
"""

from __future__ import annotations

import re
import types
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import msgspec

from chimera.errors import InvalidParams

__all__ = ["decode_parameters", "explain"]

Parameters = TypeVar("Parameters", bound=msgspec.Struct)

_SENTENCE = re.compile(r"(?P<what>.*?)(?: - at `\$\.?(?P<where>[^`]*)`)?\Z", re.DOTALL)
_MISSING = re.compile(r"Object missing required field `(?P<name>.*)`\Z", re.DOTALL)
_UNKNOWN = re.compile(r"Object contains unknown field `(?P<name>.*)`\Z", re.DOTALL)
_NO_CHOICE = re.compile(r"Invalid enum value (?P<value>.*)\Z", re.DOTALL)


def decode_parameters(method: str, raw: bytes, decoder: msgspec.json.Decoder[Parameters]) -> Parameters:
    """The parameters of a call; ``raw`` is the JSON object as it came, b"" where the call has none.

    Raises:
        InvalidParams: names the parameter that is missing, unknown or of the wrong type.
    """
    if raw[:1] == b"[":
        raise InvalidParams(
            f"{method} takes its parameters by name: give params as an object, not as an array of positions"
        )
    try:
        return decoder.decode(raw or b"{}")
    except msgspec.ValidationError as error:
        raise InvalidParams(explain(method, str(error), decoder.type)) from None
    except (msgspec.DecodeError, RecursionError) as error:
        raise InvalidParams(f"the params of {method} cannot be read: {error}") from None


def explain(method: str, sentence: str, parameters: type[msgspec.Struct]) -> str:
    """msgspec's sentence about a parameter in the words of the contract."""
    match = _SENTENCE.match(sentence)
    what, where = (match["what"], match["where"] or "") if match else (sentence, "")
    inside = f"{where}." if where else ""
    if missing := _MISSING.match(what):
        return f"{method} needs the parameter `{inside}{missing['name']}`"
    if unknown := _UNKNOWN.match(what):
        holder = _struct_at(parameters, where)
        known = f"; known are {', '.join(holder.__struct_encode_fields__) or 'none'}" if holder else ""
        return f"{method} knows no parameter `{_cut(inside + unknown['name'])}`{known}"
    if no_choice := _NO_CHOICE.match(what):
        choices = ", ".join(str(choice) for choice in _choices(_type_at(parameters, where)))
        return f"the parameter `{where}` of {method} cannot be {_cut(no_choice['value'])}; it is one of {choices}"
    return (
        f"the parameter `{where}` of {method}: {_cut(what[:1].lower() + what[1:])}"
        if where
        else (f"the params of {method}: {_cut(what[:1].lower() + what[1:])}")
    )


def _cut(text: str) -> str:
    return text if len(text) <= 200 else text[:197] + "..."


def _struct_at(parameters: type[msgspec.Struct], where: str) -> type[msgspec.Struct] | None:
    found = _type_at(parameters, where) if where else parameters
    return next((part for part in _alternatives(found) if _is_struct(part)), None)


def _type_at(parameters: type[msgspec.Struct], where: str) -> Any:
    """The declared type at a path such as ``summary.cost_source`` or ``events[0]``; None where it leads nowhere."""
    found: Any = parameters
    for step in where.split("."):
        name, _, position = step.partition("[")
        holder = next((part for part in _alternatives(found) if _is_struct(part)), None)
        if holder is None:
            return None
        found = get_type_hints(holder).get(name)
        if position:
            array = next((part for part in _alternatives(found) if get_origin(part) is list), None)
            found = get_args(array)[0] if array else None
    return found


def _alternatives(declared: Any) -> list[Any]:
    """The members of a union; a type that is none, alone."""
    if get_origin(declared) in (Union, types.UnionType):
        return [leaf for member in get_args(declared) for leaf in _alternatives(member)]
    return [declared]


def _choices(declared: Any) -> list[Any]:
    return [choice for part in _alternatives(declared) if get_origin(part) is Literal for choice in get_args(part)]


def _is_struct(declared: Any) -> bool:
    return isinstance(declared, type) and issubclass(declared, msgspec.Struct)

"""Explain the errors of pydantic in words: the field, what was expected, what came."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from fedrec.errors import ConfigError, Fault, did_you_mean

__all__ = ["explain", "shown"]

MAX_SHOWN = 60
WORDS: Mapping[str, Callable[[Mapping[str, Any]], str]] = {
    "bool_parsing": lambda _: "true or false",
    "bool_type": lambda _: "true or false",
    "finite_number": lambda _: "a finite number",
    "float_parsing": lambda _: "a number",
    "float_type": lambda _: "a number",
    "greater_than": lambda limit: f"more than {shown(limit['gt'])}",
    "greater_than_equal": lambda limit: f"{shown(limit['ge'])} or more",
    "int_from_float": lambda _: "a whole number",
    "int_parsing": lambda _: "a whole number",
    "int_parsing_size": lambda _: "a whole number of fewer digits",
    "int_type": lambda _: "a whole number",
    "less_than": lambda limit: f"less than {shown(limit['lt'])}",
    "less_than_equal": lambda limit: f"{shown(limit['le'])} or less",
    "literal_error": lambda known: str(known["expected"]),
    "model_type": lambda _: "a mapping of keys to values",
    "path_type": lambda _: "a path",
    "string_too_short": lambda limit: f"{limit['min_length']} character or more",
    "string_type": lambda _: "text",
    "tuple_type": lambda _: "a list",
}
UNION_TAGS = {"bool", "float", "int", "str"}
NAMED = re.compile(r"([a-z_]\w*): ")


def explain(error: ValidationError, fields: Iterable[str]) -> list[Fault]:
    """Return the faults that pydantic found, each field once.

    A validator of ours may begin its message with ``field: `` to name a field of its section.

    Args:
        error: What pydantic raised.
        fields: The fields of the section.
    """
    texts: dict[Fault, list[str]] = {}
    for each in error.errors():
        where = ".".join(str(key) for key in each["loc"] if not _is_union_tag(key))
        inner = each.get("ctx", {}).get("error")
        faults = inner.faults if isinstance(inner, ConfigError) else [_fault(each, fields)]
        for fault in (fault.within(where) for fault in faults):
            several = texts.setdefault(fault._replace(what=""), [])
            if fault.what not in several:
                several.append(fault.what)
    return [fault._replace(what=_joined(several)) for fault, several in texts.items()]


def shown(value: object) -> str:
    """Return a value as the user would write it in YAML, cut where it is long."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    is_integer = isinstance(value, float) and value.is_integer() and abs(value) < 1e15
    text = f"{value:.0f}" if is_integer else " ".join(repr(value).split())
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}…"


def _fault(fault: Mapping[str, Any], fields: Iterable[str]) -> Fault:
    kind, value, message = fault["type"], fault["input"], fault["msg"]
    if kind == "extra_forbidden":
        nearest = did_you_mean(str(fault["loc"][-1]), fields) if len(fault["loc"]) == 1 else ""
        return Fault("", f"unknown key{nearest}")
    if kind == "missing":
        return Fault("", "is missing")
    if kind in WORDS:
        message = f"expected {WORDS[kind](fault.get('ctx', {}))}"
    message = message.removeprefix("Value error, ").replace("Input should be", "expected")
    named = NAMED.match(message)
    field, text = (named[1], message[named.end() :]) if named else ("", message)
    is_named = ", got " in text or (isinstance(value, str) and repr(value) in text)
    is_scalar = isinstance(value, str | int | float | bool | None)
    if (is_scalar or kind in WORDS) and not is_named:
        text += f", got {shown(value)}"
    return Fault(field, text)


def _joined(several: Sequence[str]) -> str:
    """Join the faults of one field; those of a union as ``expected x or y, got z``."""
    first, comma, came = several[0].partition(", got ")
    rest = [each.removeprefix("expected ") for each in several[1:]]
    alike = all(each.startswith("expected ") and each.endswith(comma + came) for each in several)
    if len(several) == 1 or not alike or not comma:
        return "; ".join(several)
    return " or ".join([first, *(each.removesuffix(comma + came) for each in rest)]) + comma + came


def _is_union_tag(key: object) -> bool:
    return isinstance(key, str) and (
        key in UNION_TAGS or key.startswith(("literal[", "function-", "constrained-"))
    )

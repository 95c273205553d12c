"""Faults of a configuration in words: the field, what was expected, what came."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from pydantic import ValidationError

from fedrec.errors import did_you_mean
from fedrec.plugins import Section

__all__ = ["Fault", "SectionFaults", "explain", "shown"]

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
YAML_TRUTH = "; in YAML, yes and on mean true, no and off mean false, unless quoted"


class Fault(NamedTuple):
    """One fault.

    Args:
        where: The dotted field; "" for the whole.
        what: What is wrong with it.
    """

    where: str
    what: str

    def within(self, section: str) -> Fault:
        """The same fault, seen from outside a section."""
        return Fault(".".join(part for part in (section, self.where) if part), self.what)

    def __str__(self) -> str:
        return f"{self.where}: {self.what}" if self.where else self.what


class SectionFaults(ValueError):
    """The faults of a plug-in's fields; raised as they are, pydantic would lose their section."""

    def __init__(self, faults: Sequence[Fault]) -> None:
        super().__init__("; ".join(map(str, faults)))
        self.faults = tuple(faults)


def explain(error: ValidationError) -> list[Fault]:
    """The faults that pydantic found, each field once.

    A validator of ours may begin its message with ``field: `` to name a field of its section.
    """
    found: dict[str, list[str]] = {}
    for fault in error.errors():
        where = ".".join(str(part) for part in fault["loc"] if not _is_union_tag(part))
        inner = fault.get("ctx", {}).get("error")
        faults = inner.faults if isinstance(inner, SectionFaults) else [_fault(error, fault)]
        for each in faults:
            place, what = each.within(where)
            if what not in found.setdefault(place, []):
                found[place].append(what)
    return [Fault(where, _joined(several)) for where, several in found.items()]


def shown(value: object) -> str:
    """A value as the user would write it in YAML, cut where it is long."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    whole = isinstance(value, float) and value.is_integer() and abs(value) < 1e15
    text = f"{value:.0f}" if whole else repr(value)
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}…"


def _fault(error: ValidationError, fault: Mapping[str, Any]) -> Fault:
    kind, came, message = fault["type"], fault["input"], fault["msg"]
    if kind == "extra_forbidden":
        return Fault("", f"unknown key{_nearest(error.title, fault['loc'])}")
    if kind == "invalid_key":
        return Fault("", "unknown key")
    if kind == "missing":
        return Fault("", "is missing")
    if kind in WORDS:
        message = f"expected {WORDS[kind](fault.get('ctx', {}))}"
    message = message.removeprefix("Value error, ").replace("Input should be", "expected")
    named = NAMED.match(message)
    field, text = (named[1], message[named.end() :]) if named else ("", message)
    told = ", got " in text or (isinstance(came, str) and repr(came) in text)
    scalar = isinstance(came, str | int | float | bool | None)
    if (scalar or kind in WORDS) and not told:
        text += f", got {shown(came)}"
    truth = text.endswith(("got true", "got false"))
    return Fault(field, text + YAML_TRUTH if truth else text)


def _joined(several: Sequence[str]) -> str:
    """The faults of one field; those of the parts of a union as ``expected x or y, got z``."""
    first, comma, came = several[0].partition(", got ")
    rest = [each.removeprefix("expected ") for each in several[1:]]
    alike = all(each.startswith("expected ") and each.endswith(comma + came) for each in several)
    if len(several) == 1 or not alike or not comma:
        return "; ".join(several)
    return " or ".join([first, *(each.removesuffix(comma + came) for each in rest)]) + comma + came


def _is_union_tag(part: object) -> bool:
    return isinstance(part, str) and (
        part in UNION_TAGS or part.startswith(("literal[", "function-", "constrained-"))
    )


def _nearest(title: str, where: Sequence[int | str]) -> str:
    named = (known for known in _all_sections(Section) if known.__name__ == title)
    section: Any = next(named, None)
    for part in where[:-1]:
        field = section.model_fields.get(str(part)) if section is not None else None
        section = field.annotation if field is not None else None
        if not (isinstance(section, type) and issubclass(section, Section)):
            return ""
    return did_you_mean(str(where[-1]), section.model_fields) if section is not None else ""


def _all_sections(root: type[Section]) -> list[type[Section]]:
    below = root.__subclasses__()
    return below + [deeper for each in below for deeper in _all_sections(each)]

"""Read YAML 1.2 (its core schema) and change a document by dotted keys."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from fedrec.errors import ConfigError, did_you_mean
from fedrec.plugins import as_mapping

CORE_SCHEMA = {
    "null": (r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    "bool": (r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    "int": (r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", list("-+0123456789")),
    "float": (
        r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?"
        r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        list("-+0123456789."),
    ),
}
"""Pattern and first characters of the plain values that are not text, see yaml.org/spec/1.2.2."""


def read_document(path: Path) -> dict[str, Any]:
    """Return the mapping that a YAML file holds.

    Args:
        path: The file, UTF-8, or UTF-16 with a byte order mark.

    Raises:
        ConfigError: If there is none, it is not YAML (with the line), has a key twice, or is
            something else than a mapping.
    """
    try:
        # `<(...)` in a shell is a pipe below /dev/fd; nobody may ever write to another pipe.
        if path.is_fifo() and not str(path).startswith(("/dev/fd/", "/proc/")):
            raise ConfigError("is a named pipe; give the path of an experiment in YAML")
        document = parse_yaml(path.read_bytes())
    except OSError as error:
        others = path.parent.glob("[!.]*.yaml") if isinstance(error, FileNotFoundError) else ()
        hint = did_you_mean(str(path), map(str, others), lambda each: Path(each).stem.lower())
        reason = str(error.strerror or error).lower()
        raise ConfigError(
            f"{path}: {reason}{hint}; give the path of an experiment in YAML"
        ) from error
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
    if not isinstance(document, dict):
        kind = "a list" if isinstance(document, list) else f"'{str(document)[:40]}'"
        came = "it is empty" if document is None else f"got {kind}"
        raise ConfigError(
            f"{path}: expected a mapping with sections such as 'data' and 'model', {came}"
        )
    return document


def parse_yaml(text: str | bytes) -> Any:
    """Return the value of a YAML document.

    Raises:
        ConfigError: If it is not YAML, or has a tag that JSON does not know: line and problem.
    """
    try:
        return yaml.load(text, _Loader)
    except yaml.reader.ReaderError as error:
        where = f"character or byte {error.position}"
        raise ConfigError(f"not valid {error.encoding}: {error.reason}, {where}") from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f"line {mark.line + 1}: " if mark is not None else ""
        problem = " ".join(str(error.problem or error.context).split())
        if problem.startswith("but "):
            problem = f"{error.context}, {problem}"
        if problem.endswith("but got '{'"):  # as of {path: ${DATA}/file}
            problem += "; a value with braces needs quote marks here"
        raise ConfigError(f"{line}not valid YAML: {problem}") from error
    except RecursionError as error:
        raise ConfigError("not valid YAML: it is nested too deeply") from error


def dump_yaml(document: Mapping[str, Any]) -> str:
    """Return a document as YAML that readers of YAML 1.1 and 1.2 understand alike."""
    return yaml.dump(dict(document), Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def flatten(document: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return the values of a document by dotted key."""
    values: dict[str, Any] = {}
    for key, value in document.items():
        inner = isinstance(value, Mapping)
        values |= flatten(value, f"{prefix}{key}.") if inner else {f"{prefix}{key}": value}
    return values


def with_overrides(
    document: Mapping[str, Any], sets: Sequence[str] | Mapping[str, Any]
) -> dict[str, Any]:
    """Return a document with some values changed; the one given stays as it is.

    Overrides are texts ``dotted.key=value``, with a value in YAML, or values by dotted key.

    Raises:
        ConfigError: If a key is incomplete, a value stands where a section would have to, or a
            text is not YAML.
    """
    changed = dict(document)
    for key, value, origin in _assignments(sets):
        changed = _override(changed, key, value, origin)
    return changed


def _assignments(sets: Iterable[Any]) -> Iterator[tuple[str, Any, str]]:
    """Yield the key and the value of each override, and how a message names it."""
    if isinstance(sets, Mapping):
        yield from ((str(key), value, f"'{key}'") for key, value in sets.items())
        return
    for assignment in [sets] if isinstance(sets, str) else sets:
        key, equals, text = str(assignment).partition("=")
        origin = f"--set {' '.join(str(assignment).split())}"
        if not equals:
            raise ConfigError(f"{origin}: expected dotted.key=value")
        try:
            yield key, parse_yaml(text), origin
        except ConfigError as error:
            raise ConfigError(f"{origin}: the value is {error}") from None


def _override(document: Mapping[str, Any], key: str, value: Any, source: str) -> dict[str, Any]:
    head, dot, rest = key.strip().partition(".")
    if not head or (dot and not rest):
        raise ConfigError(f"{source}: expected dotted.key=value")
    if dot:
        below = as_mapping(document.get(head, {}))
        if not isinstance(below, Mapping):
            raise ConfigError(f"{source}: '{head}' is a value, it has no keys")
        value = _override(below, rest, value, source)
    return {**document, head: value}


class _Loader(yaml.SafeLoader):
    """Reads the core schema of YAML 1.2, and refuses a key that stands twice in a mapping."""

    def compose_mapping_node(self, anchor: dict[Any, yaml.Node]) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        lines: dict[str, int] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.tag == f"{TAG}merge":
                continue
            if key.value in lines:
                raise yaml.MarkedYAMLError(
                    problem=f"the key '{key.value}' stands in line {lines[key.value]} already",
                    problem_mark=key.start_mark,
                )
            lines[key.value] = key.start_mark.line + 1
        return node

    def construct_value(self, node: yaml.ScalarNode) -> Any:
        """Return the value of a scalar other than text."""
        kind, text = node.tag.removeprefix(TAG), str(self.construct_scalar(node))
        try:
            return VALUES[kind](text)
        except (ValueError, KeyError) as error:  # of a tag, or a number with thousands of digits
            raise yaml.MarkedYAMLError(
                problem=f"{text[:40]!r} is not of the type {kind}", problem_mark=node.start_mark
            ) from error

    def refuse_tag(self, node: yaml.Node) -> Any:
        tag = node.tag.replace(TAG, "!!")
        raise yaml.MarkedYAMLError(
            problem=f"the tag '{tag}' is not supported", problem_mark=node.start_mark
        )


class _Dumper(yaml.SafeDumper):
    """Quotes a text that either version of YAML would take for another type."""


TAG = "tag:yaml.org,2002:"
VALUES: Mapping[str, Callable[[str], Any]] = {
    "null": lambda text: None,
    "bool": lambda text: {"true": True, "false": False}[text.lower()],
    "int": lambda text: int(text, {"0o": 8, "0x": 16}.get(text[:2], 10)),
    "float": lambda text: float(re.sub(r"\.(?=inf|nan)", "", text.lower())),
}
_Loader.yaml_implicit_resolvers = {}
_Loader.yaml_constructors = {
    f"{TAG}{kind}": yaml.SafeLoader.yaml_constructors[f"{TAG}{kind}"]
    for kind in ("str", "seq", "map")
}
for _kind, (_pattern, _first) in CORE_SCHEMA.items():
    for _class in (_Loader, _Dumper):
        _class.add_implicit_resolver(f"{TAG}{_kind}", re.compile(rf"(?:{_pattern})\Z"), _first)
    _Loader.add_constructor(f"{TAG}{_kind}", _Loader.construct_value)
_Loader.add_implicit_resolver(f"{TAG}merge", re.compile(r"<<\Z"), ["<"])  # of YAML 1.1, in wide use
_Loader.add_constructor(None, _Loader.refuse_tag)

"""YAML documents: read from a file, with the line of a fault, and changed by dotted keys."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from fedrec.errors import ConfigError, did_you_mean

__all__ = ["override", "read_document"]


def read_document(path: Path) -> dict[str, Any]:
    """The mapping that a YAML file holds.

    Args:
        path: The file, UTF-8.

    Raises:
        ConfigError: If there is none, it is not YAML (with the line), has a key twice, or is
            something else than a mapping.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise ConfigError(
            f"{path}: no such file{_beside(path)}; give the path of an experiment in YAML"
        ) from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: cannot be read: not UTF-8 at byte {error.start}") from error
    except OSError as error:
        raise ConfigError(
            f"{path}: cannot be read: {error.strerror or error}; give the path of an experiment "
            "in YAML"
        ) from error
    try:
        document = yaml.load(text, _Once)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f"line {mark.line + 1}: " if mark is not None else ""
        problem = getattr(error, "problem", None) or str(error)
        raise ConfigError(f"{path}: {line}not valid YAML: {problem}") from error
    if not isinstance(document, dict):
        what = "it is empty" if document is None else f"got {_kind(document)}"
        raise ConfigError(
            f"{path}: expected a mapping with sections such as 'data' and 'model', {what}"
        )
    return document


def override(document: Mapping[str, Any], assignment: str) -> dict[str, Any]:
    """A document with one value changed; the one given stays as it is.

    Args:
        document: The experiment.
        assignment: ``dotted.key=value``; the value is YAML.

    Raises:
        ConfigError: If it is something else, or a value stands where a section would have to.
    """
    key, equals, text = assignment.partition("=")
    path = key.strip().split(".")
    if not equals or not all(path):
        raise ConfigError(f"--set {assignment}: expected dotted.key=value")
    try:
        value = yaml.load(text, _Once)
    except yaml.YAMLError as error:
        raise ConfigError(f"--set {assignment}: the value is not valid YAML") from error
    return _assign(document, path, value, assignment)


class _Once(yaml.SafeLoader):
    """Refuses what PyYAML takes without a word, or with an error that has no line."""

    def compose_mapping_node(self, frozen_items: dict[Any, yaml.Node]) -> yaml.MappingNode:
        node = super().compose_mapping_node(frozen_items)
        lines: dict[str, int] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.tag == "tag:yaml.org,2002:merge":
                continue
            if key.value in lines:
                raise yaml.MarkedYAMLError(
                    problem=f"the key '{key.value}' stands in line {lines[key.value]} already",
                    problem_mark=key.start_mark,
                )
            lines[key.value] = key.start_mark.line + 1
        return node

    def construct_yaml_timestamp(self, node: yaml.ScalarNode) -> Any:
        try:
            return super().construct_yaml_timestamp(node)
        except ValueError as error:
            raise yaml.MarkedYAMLError(
                problem=f"'{node.value}' is not a date ({error}); put text in quotes",
                problem_mark=node.start_mark,
            ) from error


_Once.add_constructor("tag:yaml.org,2002:timestamp", _Once.construct_yaml_timestamp)


def _beside(path: Path) -> str:
    """The YAML file of nearly that name."""
    if not path.parent.is_dir():
        return ""
    known = [
        str(path.parent / each.name) for each in path.parent.iterdir() if each.suffix == ".yaml"
    ]
    hint = did_you_mean(str(path), known)
    return hint if "did you mean" in hint else ""


def _kind(document: object) -> str:
    return "a list" if isinstance(document, list) else f"'{str(document)[:40]}'"


def _assign(
    document: Mapping[str, Any], path: Sequence[str], value: Any, assignment: str
) -> dict[str, Any]:
    head, rest = path[0], path[1:]
    changed = dict(document)
    if not rest:
        changed[head] = value
        return changed
    below = changed.get(head, {})
    if isinstance(below, str):
        below = {"name": below}
    if not isinstance(below, Mapping):
        raise ConfigError(f"--set {assignment}: '{head}' is a value, it has no keys")
    changed[head] = _assign(below, rest, value, assignment)
    return changed

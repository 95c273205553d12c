"""Write docs/configuration.md: every section and option, from the docstrings that declare them.

python docs/make_configuration.py
"""

import inspect
import json
import re
import sys
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, get_args

sys.path.insert(0, str(Path(__file__).parents[1]))

from pydantic.fields import FieldInfo

from fedrec.config.experiment import Experiment
from fedrec.config.fields import PluginField
from fedrec.models.base import Model
from fedrec.plugins import OURS, Plugin, Section, table

PATH = Path(__file__).with_name("configuration.md")
KINDS = {
    "data": "data sets",
    "features": "encoders of items",
    "models": "client models and centralised baselines",
    "personalization": "personalizations",
    "strategies": "strategies",
}
HEAD = """# Configuration

An experiment is a YAML file, or a mapping in Python, with the sections below. Everything but
`data` has a default. A section that names a plug-in may be the name alone: `model: mf`. Values are
changed on the command line by `--set section.option=value`. What is misspelt, of a wrong type or
without effect is named before the first round. `seed` (default 0) decides every random draw.

[make_configuration.py](make_configuration.py) writes this page from the docstrings.

"""
PRESETS = """These are made of three parts. Each part may be replaced, or given other options, as in
`strategy: {name: fedavg, aggregation: median, server_optimizer: {lr: 0.5}}`. The parts are
described [below](#client_rule-client-rules).

"""


def arguments(section: type[Section]) -> dict[str, str]:
    """Return what the docstrings of a class and its bases say of each option."""
    texts: dict[str, str] = {}
    for base in reversed(section.__mro__):
        _, _, block = inspect.cleandoc(base.__dict__.get("__doc__") or "").partition("Args:\n")
        block = re.split(r"\n(?=\S)", block)[0]
        for name, text in re.findall(r"^    (\w+): (.*(?:\n        .*|\n(?=\n))*)", block, re.M):
            texts[name] = markdown(" ".join(text.split()))
    return texts


def markdown(text: str) -> str:
    """Return reStructuredText as Markdown."""
    text = re.sub(r":math:`([^`]*)`", r"$\1$", text)
    text = re.sub(r"``([^`]*)``|`([^`]*)`", lambda m: f"`{m[1] or m[2]}`", text)
    return text.replace("|", "\\|")


def default_of(field: FieldInfo) -> str:
    """Return the default of an option as YAML."""
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    for mark in field.metadata:
        if _is_part(mark) and mark.default:
            chosen = {"name": mark.default, **mark.options} if mark.options else mark.default
            return f"`{_inline(chosen)}`"
    if isinstance(value, Section):
        return "see below"
    return "none" if value is None else f"`{_inline(value)}`"


def sections_in(section: type[Section]) -> Iterator[tuple[str, type[Section]]]:
    """Yield the options of a section that are sections."""
    for name, field in section.model_fields.items():
        for kind in (field.annotation, *get_args(field.annotation)):
            if inspect.isclass(kind) and issubclass(kind, Section) and not issubclass(kind, Plugin):
                yield name, kind


def parts_in(section: type[Section]) -> Iterator[tuple[str, str]]:
    """Yield the options of a section that name a plug-in, each with its table."""
    for name, field in section.model_fields.items():
        for mark in field.metadata:
            if _is_part(mark):
                yield name, mark.kind


def summary_of(section: type[Section]) -> str:
    """Return the first paragraph of a docstring."""
    return markdown(" ".join(inspect.cleandoc(section.__doc__ or "").split("\n\n")[0].split()))


def rows_of(section: type[Section], names: Collection[str]) -> list[str]:
    """Return a table of some options."""
    texts, rows = arguments(section), ["| option | default | |", "|---|---|---|"]
    for name, field in section.model_fields.items():
        if name in names:
            rows.append(f"| `{name}` | {default_of(field)} | {texts.get(name, '')} |")
    return rows


def presets_of(plugins: Mapping[str, type[Section]]) -> str:
    """Return a table of plug-ins that are made of parts, with the parts of each."""
    options = next(iter(plugins.values())).model_fields
    lines = ["| name | | " + " | ".join(f"`{name}`" for name in options) + " |"]
    lines.append("|---" * (2 + len(options)) + "|")
    for plugin, section in plugins.items():
        defaults = [default_of(field) for field in section.model_fields.values()]
        lines.append(" | ".join([f"| `{plugin}`", summary_of(section), *defaults]) + " |")
    return "\n".join([*lines, "", ""])


def described(title: str, section: type[Section], hidden: Collection[str]) -> str:
    """Return a heading, what the section is, its options, and what it sets in other sections."""
    lines, names = [title, "", summary_of(section), ""], section.model_fields.keys() - hidden
    if names:
        lines += [*rows_of(section, names), ""]
    if issubclass(section, Model):
        shown = ", ".join(f"`{name}: {_inline(v)}`" for name, v in section.defaults.items())
        lines += [f"What it sets where the experiment does not: {shown}.", ""]
    return "\n".join([*lines, ""])


def _inline(value: Any) -> str:
    """Return a value as YAML in one line."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{name}: {_inline(each)}" for name, each in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_inline(each) for each in value) + "]"
    if isinstance(value, str):
        return value if re.fullmatch(r"[\w.-]+", value) else json.dumps(value)
    return json.dumps(value)


def text() -> str:
    """Return the whole page."""
    parts, done, nested = [HEAD], set[type[Section]](), dict[str, str]()

    def add(level: str, title: str, section: type[Section], hidden: frozenset[str]) -> None:
        parts.append(described(f"{level} {title}", section, hidden))
        nested.update((kind, part) for part, kind in parts_in(section))
        inner(level + "#", section)

    def inner(level: str, section: type[Section]) -> None:
        for name, each in sections_in(section):
            if each not in done:
                done.add(each)
                add(level, f"`{name}`", each, frozenset())

    for name, field in Experiment.model_fields.items():
        kind = {"model": "models", "strategy": "strategies"}.get(name, name)
        if kind in KINDS:
            plugins = {n: p for n, p in table(kind).items() if _is_ours(p)}
            common = frozenset.intersection(*(frozenset(p.model_fields) for p in plugins.values()))
            parts.append(f"## `{name}`: {KINDS[kind]}\n\n")
            if common:
                base = next(iter(plugins.values()))
                parts.append("All of them take these options.\n\n")
                parts.append("\n".join([*rows_of(base, common), "", ""]))
                inner("###", base)
            presets = {n: p for n, p in plugins.items() if [*p.model_fields] == _parts_of(p)}
            if presets:
                parts.append(PRESETS + presets_of(presets))
                nested.update((k, part) for p in presets.values() for part, k in parts_in(p))
            for plugin, section in plugins.items():
                if plugin not in presets:
                    add("###", f"`{plugin}`", section, common)
        elif inspect.isclass(field.annotation) and issubclass(field.annotation, Section):
            add("##", f"`{name}`", field.annotation, frozenset())
        else:
            nested.update({each.kind: name for each in field.metadata if _is_part(each)})
    for kind, name in nested.items():
        parts.append(f"## `{name}`: {kind.replace('_', ' ')}\n\n")
        for plugin, section in table(kind).items():
            if _is_ours(section):
                add("###", f"`{plugin}`", section, frozenset())
    parts.append("## Metrics\n\n`evaluate.metrics` names them, such as `ndcg@10`.\n\n")
    for name, metric in table("metrics").items():
        parts.append(f"- `{name}`: {summary_of(metric)}\n")
    return "".join(parts)


def _parts_of(plugin: type[Plugin]) -> list[str]:
    return [name for name, _ in parts_in(plugin)] or [""]


def _is_part(mark: Any) -> bool:
    return isinstance(mark, PluginField)


def _is_ours(plugin: type[Plugin]) -> bool:
    return plugin.__module__.partition(".")[0] in OURS


if __name__ == "__main__":
    PATH.write_text(text(), encoding="utf-8")

"""Every plug-in stands in its package's table, and cites a paper that the bibliography has."""

import importlib
import pkgutil
import re
from inspect import isabstract
from pathlib import Path

import pytest

import fedrec
from fedrec.evaluation.metrics import Metric
from fedrec.plugins import CORE_TABLES, Plugin, table
from fedrec.report.citations import bibliography

KINDS = (
    *CORE_TABLES,
    "strategies",
    "client_rules",
    "aggregations",
    "server_optimizers",
    "selections",
    "plans",
)
KEY = re.compile(r"Reference: ((?:[a-z]+\d{4}[a-z]*(?:; |\.|,|$)\s?)+)", re.MULTILINE)


def plugins_in_files() -> set[type[Plugin]]:
    """All concrete plug-in classes that the packages define."""
    for package_name in ("fedrec", "strategies"):
        package = importlib.import_module(package_name)
        for module in pkgutil.walk_packages(package.__path__, f"{package_name}."):
            if not module.name.endswith("__main__"):
                importlib.import_module(module.name)
    classes = set(descendants(Plugin))
    shipped = ("fedrec.", "strategies.")
    return {c for c in classes if not isabstract(c) and c.__module__.startswith(shipped)}


def descendants(root: type[Plugin]) -> list[type[Plugin]]:
    below = root.__subclasses__()
    return below + [deeper for each in below for deeper in descendants(each)]


def test_every_plugin_stands_in_a_table() -> None:
    listed = {plugin for kind in KINDS for plugin in table(kind).values()}
    unlisted = plugins_in_files() - listed - {Metric}
    missing = sorted(f"{c.__module__}:{c.__name__}" for c in unlisted)
    bases = (".base", ".trial", ".client_rule", ".composed")
    missing = [name for name in missing if not name.partition(":")[0].endswith(bases)]
    assert not missing, f"add a line to the package's table: {missing}"


@pytest.mark.parametrize("kind", KINDS)
def test_names_are_lower_case_and_every_entry_is_concrete(kind: str) -> None:
    for name, plugin in table(kind).items():
        assert re.fullmatch(r"[a-z0-9]+([-_][a-z0-9]+)*", name), name
        assert not isabstract(plugin), name


@pytest.mark.parametrize("kind", KINDS)
def test_every_reference_is_in_the_bibliography(kind: str) -> None:
    entries = {*bibliography()}
    for name, plugin in table(kind).items():
        assert plugin.reference in entries | {""}, f"{kind}.{name}: {plugin.reference}"


def test_references_of_docstrings_are_in_the_bibliography(shipped_files: list[Path]) -> None:
    entries = {*bibliography()}
    cited = {
        key
        for path in shipped_files
        for group in KEY.findall(path.read_text(encoding="utf-8"))
        for key in re.findall(r"[a-z]+\d{4}[a-z]*", group)
    }
    assert cited, "the pattern finds no citation at all"
    assert cited <= entries, f"not in references.bib: {sorted(cited - entries)}"


def test_bibliography_has_each_key_once_and_what_a_citation_needs() -> None:
    text = (Path(fedrec.__path__[0]) / "references.bib").read_text(encoding="utf-8")
    entries = bibliography()
    assert len(entries) == text.count("\n@"), "a key stands twice, or an entry cannot be read"
    for key, entry in entries.items():
        assert {"author", "title", "year"} <= set(entry), key
        fields = text.partition(f"{{{key},")[2].partition("\n}")[0]
        assert len(entry) - 1 == fields.strip().count("\n") + 1, f"{key}: a line is not a field"

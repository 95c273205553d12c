"""Plug-ins are found by name, by reference, and through other distributions."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from fedrec.baselines import BASELINES
from fedrec.errors import ConfigError
from fedrec.models import MODELS, MatrixFactorization
from fedrec.plugins import Plugin, find_beside, find_references, lookup, name_of, table
from strategies import STRATEGIES


class Own(Plugin):
    rate: float = 0.5


@pytest.fixture
def fresh() -> Iterator[None]:
    """Tables are read once; forget them before and after."""
    table.cache_clear()
    yield
    table.cache_clear()


@pytest.mark.parametrize("kind", ["data", "models", "personalization", "metrics", "strategies"])
def test_names_and_classes_are_one_to_one(kind: str) -> None:
    for name, plugin in table(kind).items():
        assert lookup(kind, name) is plugin
    assert len(set(table(kind).values())) == len(table(kind))


def test_an_outer_room_brings_its_table() -> None:
    assert table("strategies") == STRATEGIES


def test_a_reference_needs_no_table() -> None:
    reference = f"{__name__}:Own"
    assert lookup("models", reference) is Own
    assert name_of("models", Own()) == reference
    assert name_of("models", MatrixFactorization()) == "mf"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("mff", r"'mff' is not in the table of models \(did you mean 'mf'\?\)"),
        ("zzzz", r"'zzzz' is not in the table of models \(known: "),
        ("no.such:Thing", r"no\.such:Thing cannot be imported"),
        ("fedrec.models:Nothing", "module 'fedrec.models' has no 'Nothing'"),
        ("fedrec.models:MODELS", "is not a plug-in class of fedrec"),
        ("fedrec.plugins:Section", "is not a plug-in class of fedrec"),
    ],
)
def test_what_is_not_found(name: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        lookup("models", name)


def install(folder: Path, name: str, what: str) -> None:
    """A distribution as pip would leave it."""
    (folder / f"{name}.py").write_text(what, encoding="utf-8")
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[fedrec.models]\nany = {name}:TABLE\n")


def test_another_distribution_brings_more(
    fresh: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = (
        "from fedrec.models import MatrixFactorization\n"
        "class Better(MatrixFactorization):\n    extra: int = 3\n"
        "TABLE = {'better': Better}\n"
    )
    install(tmp_path, "brought", own)
    monkeypatch.syspath_prepend(tmp_path)
    assert set(table("models")) == {*MODELS, *BASELINES, "better"}
    assert lookup("models", "better").model_validate({"extra": 4}).model_dump()["extra"] == 4
    sys.modules.pop("brought")


def test_two_that_bring_one_name_are_an_error(
    fresh: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = (
        "from fedrec.models import MatrixFactorization\n"
        "class Other(MatrixFactorization):\n    pass\n"
        "TABLE = {'mf': Other}\n"
    )
    install(tmp_path, "clashing", own)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match="models: 'mf' is brought by two packages, one is clashi"):
        table("models")
    sys.modules.pop("clashing")


@pytest.fixture
def path(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setattr(sys, "path", list(sys.path))
    return list(sys.path)


def test_an_own_module_is_found_beside_and_nothing_else_is(tmp_path: Path, path: list[str]) -> None:
    (tmp_path / "lone_module.py").write_text("", encoding="utf-8")
    for name in ("mf", "json:Own", "absent_module:Own", ":Own", "not a name:Own"):
        find_beside(name, [tmp_path])
        assert sys.path == path
    find_beside("lone_module:Own", [tmp_path / "elsewhere", tmp_path])
    assert sys.path == [*path, str(tmp_path)]


def test_a_module_that_another_hides_is_refused(tmp_path: Path, path: list[str]) -> None:
    """Else the class of another file would be used, or said to be missing."""
    (tmp_path / "json.py").write_text("", encoding="utf-8")
    (tmp_path / "csv").mkdir()
    for name in ("json", "csv"):
        with pytest.raises(ConfigError, match=rf"{name}.* is hidden by .*{name}.*; rename"):
            find_beside(f"{name}:Own", [tmp_path])
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "twice_module.py").write_text("", encoding="utf-8")
        find_beside("twice_module:Own", [tmp_path / folder])
    assert sys.path == [*path, str(tmp_path / "one")], "copies are no conflict"


def test_references_are_found_at_any_depth(tmp_path: Path, path: list[str]) -> None:
    for name in ("deep", "deeper", "deepest"):
        (tmp_path / name).mkdir()
        (tmp_path / name / f"{name}_module.py").write_text("", encoding="utf-8")
    (tmp_path / "deepest" / "a_package").mkdir()
    values = {
        "model": "deep_module:A",
        "evaluate": {"metrics": ["ndcg@10", "deeper_module:B@5"]},
        "x": [{"y": ({"name": "a_package.inner:C"}, "no.py", "http://host:80", "h:1")}],
    }
    find_references(values, [tmp_path / name for name in ("deep", "deeper", "deepest")])
    folders = {str(tmp_path / name) for name in ("deep", "deeper", "deepest")}
    assert set(sys.path[len(path) :]) == folders


def test_what_an_own_module_raises_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "dying_module.py").write_text("1 / 0\n", encoding="utf-8")
    (tmp_path / "broken_module.py").write_text("def f(:\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="dying_module:X cannot be imported: ZeroDivisionError"):
        lookup("models", "dying_module:X")
    with pytest.raises(ConfigError, match=r"broken_module:X cannot .*\(broken_module.py, line 1\)"):
        lookup("models", "broken_module:X")

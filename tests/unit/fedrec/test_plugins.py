"""Plug-ins are found by name, by reference, and through other distributions."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import ValidationError

from fedrec.baselines import BASELINES
from fedrec.errors import ConfigError
from fedrec.models import MODELS, MatrixFactorization
from fedrec.plugins import Plugin, Section, find_beside, lookup, name_of, table
from strategies import STRATEGIES


class Inner(Section):
    number: int = 1
    flag: bool = False
    either: int | str = 0


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


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"number": True}, "number: expected a number or a word, got true"),
        ({"either": False}, "either: expected a number or a word, got false"),
        ({"number": float("inf")}, "finite"),
        ({"other": 1}, "Extra inputs"),
    ],
)
def test_a_section_refuses(values: dict[str, object], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        Inner.model_validate(values)


def test_a_section_takes_truth_where_it_is_meant() -> None:
    assert Inner.model_validate({"flag": True}).flag
    with pytest.raises(ValidationError, match="frozen"):
        Inner().number = 3  # type: ignore[misc]


def test_an_own_module_is_found_beside_and_nothing_else_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = list(sys.path)
    (tmp_path / "lone_module.py").write_text("", encoding="utf-8")
    (tmp_path / "json.py").write_text("", encoding="utf-8")
    for name in ("mf", "json:Own", "absent_module:Own", ":Own", "not a name:Own"):
        find_beside(name, [tmp_path])
        assert sys.path == before
    find_beside("lone_module:Own", [tmp_path / "elsewhere", tmp_path])
    assert sys.path == [*before, str(tmp_path)]


def test_what_an_own_module_raises_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "dying_module.py").write_text("1 / 0\n", encoding="utf-8")
    (tmp_path / "broken_module.py").write_text("def f(:\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="dying_module:X cannot be imported: ZeroDivisionError"):
        lookup("models", "dying_module:X")
    with pytest.raises(ConfigError, match=r"broken_module:X cannot .*\(broken_module.py, line 1\)"):
        lookup("models", "broken_module:X")

"""Plug-ins are found by name, by reference, and through other distributions."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from fedrec.baselines import BASELINES
from fedrec.errors import ConfigError
from fedrec.imports import searching
from fedrec.models import MODELS, MatrixFactorization
from fedrec.plugins import Plugin, lookup, name_of, table
from strategies import STRATEGIES


class Own(Plugin):
    rate: float = 0.5

    class Inner(Plugin):
        """A class inside another."""


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
    assert lookup("models", name_of("models", Own.Inner())) is Own.Inner
    assert name_of("models", MatrixFactorization()) == "mf"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("mff", r"'mff' is not in the table of models \(did you mean 'mf'\?\)"),
        ("zzzz", r"'zzzz' is not in the table of models \(known: "),
        ("no.such:Thing", r"no\.such:Thing cannot be imported"),
        ("./own/it.py:Own", r"expected package.module:Class, such as own.it:Own"),
        ("own.py:Own", r"expected package.module:Class, such as own:Own"),
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


OWN = "from fedrec.plugins import Plugin\nclass Own(Plugin):\n    rate: float = 0.5\n"


def test_an_own_module_is_found_beside_and_nothing_else_is(tmp_path: Path, path: list[str]) -> None:
    (tmp_path / "lone_module.py").write_text(OWN, encoding="utf-8")
    for name in ("json:Own", "absent_module:Own", ":Own", "not a name:Own"):
        with searching([tmp_path]), pytest.raises(ConfigError):
            lookup("models", name)
        assert sys.path == path
    with searching([tmp_path / "elsewhere", tmp_path]):
        assert lookup("models", "lone_module:Own").__name__ == "Own"
    assert sys.path == [*path, str(tmp_path)]
    sys.modules.pop("lone_module")
    with pytest.raises(ConfigError, match="x:y:z cannot be imported"):
        lookup("models", "x:y:z")


def test_a_module_that_another_hides_is_refused(tmp_path: Path, path: list[str]) -> None:
    """Else the class of another file would be used, or said to be missing."""
    (tmp_path / "json.py").write_text("", encoding="utf-8")
    (tmp_path / "csv").mkdir()
    for name in ("json", "csv"):
        with (
            searching([tmp_path]),
            pytest.raises(ConfigError, match=rf"{name}.* is hidden by .*{name}.*; rename"),
        ):
            lookup("models", f"{name}:Own")
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "twice_module.py").write_text(OWN, encoding="utf-8")
        with searching([tmp_path / folder]):
            lookup("models", "twice_module:Own")
    assert sys.path == [*path, str(tmp_path / "one")], "copies are no conflict"
    sys.modules.pop("twice_module")


def test_a_copy_serves_where_the_module_is_gone(tmp_path: Path, path: list[str]) -> None:
    for folder in ("here", "copies"):
        (tmp_path / folder).mkdir()
    (tmp_path / "copies" / "gone_module.py").write_text(OWN, encoding="utf-8")
    with searching([tmp_path / "here"], [tmp_path / "copies"]):
        lookup("models", "gone_module:Own")
    assert sys.path == [*path, str(tmp_path / "copies")]
    sys.modules.pop("gone_module")


@pytest.mark.parametrize("on_path", [False, True])
def test_a_folder_of_the_same_name_does_not_hide_a_module(
    on_path: bool, tmp_path: Path, path: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder without ``__init__.py`` is a module to Python, if it finds nothing else."""
    (tmp_path / "work" / "shadowed").mkdir(parents=True)
    (tmp_path / "study").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    if on_path:
        sys.path.insert(0, "")
    folders = [tmp_path / "study", Path()]
    with searching(folders), pytest.raises(ConfigError, match=r"no 'Own' \(.*shadowed"):
        lookup("models", "shadowed:Own")
    sys.modules.pop("shadowed")
    (tmp_path / "study" / "shadowed.py").write_text(OWN, encoding="utf-8")
    with searching(folders):
        assert lookup("models", "shadowed:Own").__name__ == "Own"
    sys.modules.pop("shadowed")


def test_a_module_of_a_folder_of_modules_is_found(tmp_path: Path, path: list[str]) -> None:
    (tmp_path / "a_folder").mkdir()
    (tmp_path / "a_folder" / "inner.py").write_text(OWN, encoding="utf-8")
    with searching([tmp_path]):
        assert lookup("models", "a_folder.inner:Own").__name__ == "Own"
    for name in ("a_folder", "a_folder.inner"):
        sys.modules.pop(name)


def test_an_incomplete_plugin_is_refused(tmp_path: Path, path: list[str]) -> None:
    head = "from fedrec.models.base import Model\nclass Half(Model):\n"
    text = f"{head}    def params(self, catalogue): ...\n"
    (tmp_path / "half_module.py").write_text(text, encoding="utf-8")
    with searching([tmp_path]), pytest.raises(ConfigError, match="does not define score"):
        lookup("models", "half_module:Half")
    sys.modules.pop("half_module")


def test_what_an_own_module_raises_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "dying_module.py").write_text("1 / 0\n", encoding="utf-8")
    (tmp_path / "broken_module.py").write_text("def f(:\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="dying_module:X cannot be imported: ZeroDivisionError"):
        lookup("models", "dying_module:X")
    with pytest.raises(ConfigError, match=r"broken_module:X cannot .*\(broken_module.py, line 1\)"):
        lookup("models", "broken_module:X")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("import sys; sys.exit(3)", "SystemExit: 3"),
        ("raise ValueError('one\\ntwo')", "ValueError: one"),
        ("1 / 0", "ZeroDivisionError"),
    ],
)
def test_a_module_that_fails_is_named_in_one_line(text: str, said: str, tmp_path: Path) -> None:
    name = f"failing{abs(hash(text))}"
    (tmp_path / f"{name}.py").write_text(text, "utf-8")
    with pytest.raises(ConfigError) as caught, searching([tmp_path]):
        lookup("models", f"{name}:Own")
    sys.path.remove(str(tmp_path))
    assert f"{name}:Own cannot be imported: {said}" in str(caught.value)
    assert "\n" not in str(caught.value)

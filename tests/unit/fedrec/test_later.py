"""A module that is imported later is the same module, once something of it is used."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest

from fedrec.later import import_later

NAME = "imported_later_in_a_test"


@pytest.fixture
def loads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A package on the path; the file says how often it was really imported."""
    count = tmp_path / "count"
    count.write_text("", encoding="utf-8")
    package = tmp_path / NAME
    package.mkdir()
    (package / "__init__.py").write_text(
        f"from pathlib import Path\nwith Path({str(count)!r}).open('a') as f:\n    f.write('x')\n"
        "class Thing:\n    pass\n",
        encoding="utf-8",
    )
    (package / "part.py").write_text(f"from {NAME} import Thing\n", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    yield count
    for name in [each for each in sys.modules if each.partition(".")[0] == NAME]:
        del sys.modules[name]


def test_nothing_is_loaded_before_something_is_used(loads: Path) -> None:
    import_later(NAME)
    module = import_module(NAME)
    assert import_module(NAME) is module
    assert find_spec(NAME) is not None
    assert inspect.getmodule(test_nothing_is_loaded_before_something_is_used) is not None
    assert loads.read_text() == ""
    thing = module.Thing
    assert loads.read_text() == "x"
    assert import_module(NAME) is not module
    assert module.Thing is thing is import_module(NAME).Thing
    assert loads.read_text() == "x"


def test_parts_of_it_are_found(loads: Path) -> None:
    import_later(NAME)
    early = import_module(NAME)
    part = import_module(f"{NAME}.part")
    assert part.Thing is early.Thing
    assert early.part is part
    assert loads.read_text() == "x"


def test_what_it_lacks_it_lacks(loads: Path) -> None:
    import_later(NAME)
    module = import_module(NAME)
    assert not hasattr(module, "nothing")
    with pytest.raises(AttributeError, match=f"module '{NAME}' has no attribute 'nothing'"):
        _ = module.nothing


def test_what_is_imported_already_is_left_as_it_is(loads: Path) -> None:
    module = import_module(NAME)
    import_later(NAME)
    assert sys.modules[NAME] is module


def test_what_is_not_installed_is_missed_when_it_is_imported() -> None:
    import_later("surely_not_installed")
    with pytest.raises(ModuleNotFoundError, match="surely_not_installed"):
        import_module("surely_not_installed")

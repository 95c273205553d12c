"""What ``import fedrec`` gives."""

import importlib
import subprocess
import sys

import pytest

import fedrec


@pytest.mark.parametrize("name", fedrec.__all__)
def test_every_public_name_is_there_and_stays(name: str) -> None:
    """Also after all modules were imported: a module must not take the place of a function."""
    before = getattr(fedrec, name)
    for module in ("config.experiment", "cli.commands", "runs.run", "runs.result", "errors"):
        importlib.import_module(f"fedrec.{module}")
    assert callable(before)
    assert getattr(fedrec, name) is before


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="nothing"):
        fedrec.nothing  # noqa: B018


def test_importing_fedrec_loads_nothing_heavy() -> None:
    script = "import sys, fedrec; print(sorted({'torch', 'flwr', 'numpy'} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fedrec.cli import commands as cli
from tests.integration.refusal import ROWS, SMALL, TABLE, Done, Fedrec, table


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder of a user who has two experiments and a table of ratings."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    (tmp_path / "small.yaml").write_text(SMALL, encoding="utf-8")
    (tmp_path / "table.yaml").write_text(TABLE, encoding="utf-8")
    table(*ROWS)
    return tmp_path


@pytest.fixture
def command(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Fedrec:
    def call(*arguments: str) -> Done:
        monkeypatch.setattr(sys, "argv", ["fedrec", *arguments])
        capsys.readouterr()
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        captured = capsys.readouterr()
        code = stopped.value.code
        return Done(code if isinstance(code, int) else 0, captured.out, captured.err)

    return call


@pytest.fixture(scope="module")
def shared_ray() -> Iterator[Any]:
    """A Ray of the caller's with two cores: runs use it, so that a module starts Ray once."""
    ray = pytest.importorskip("ray", reason="needs the extra 'sim'")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # or ray.init warns
        ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
        yield ray
        ray.shutdown()

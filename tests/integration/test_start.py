"""A run is on its way before everything is imported that it will ever need."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.refusal import SMALL

pytest.importorskip("numba", reason="needs the extra 'sim'")

pytestmark = pytest.mark.slow

TWO = ("engine.workers=2", "engine.nodes=2")

# The command's own callback is the progress bar; this one looks at what is mapped into memory.
SCRIPT = """
import os, sys
from pathlib import Path
from fedrec import cli
from fedrec.flower.processes import running_processes

def family():
    parents, found = running_processes(), {os.getpid()}
    while grown := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= grown
    return found

def show(self, record):
    maps = [Path("/proc", str(pid), "maps").read_text() for pid in family()]
    print(record.round, sum("libtorch" in each for each in maps))

import_later = cli.import_later

def and_look(name):
    import_later(name)
    from fedrec import progress
    progress.Progress.show = show

cli.import_later = and_look
cli.main()
"""


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs /proc")
@pytest.mark.parametrize(("engine", "ranking"), [("serial", 1), ("ray", 2)])
def test_machine_code_trains_before_torch_is_there(
    engine: str, ranking: int, tmp_path: Path
) -> None:
    """No process has imported torch until one ranks; the driver of a Ray run never does."""
    if engine == "ray":
        pytest.importorskip("ray", reason="needs the extra 'sim'")
    (tmp_path / "small.yaml").write_text(SMALL, encoding="utf-8")
    command = ["run", "small.yaml", "--engine", engine, "--out", "A", "--quiet"]
    for changed in ("train.kernel=compiled", "rounds.count=3", "evaluate.every=3", *TWO):
        command += ["--set", changed]
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, *command],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["1", "0", "2", "0", "3", str(ranking)]

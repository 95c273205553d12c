"""A folder of the user's that stands before ours is named."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from fedrec.flower import processes
from fedrec.flower.processes import check_packages, code_hash

ROOT = Path(processes.__file__).parents[2]
CHECK = """
from fedrec.errors import EngineError
from fedrec.flower.processes import check_packages
try:
    check_packages()
except EngineError as error:
    print(error)
else:
    print("fine")
"""


def check_in(folder: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-c", CHECK],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), str(ROOT)])},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


def test_ours_are_ours(tmp_path: Path) -> None:
    check_packages()
    assert check_in(tmp_path) == "fine"


@pytest.mark.parametrize("file", ["server/__init__.py", "clients.py"])
def test_a_package_or_a_module_that_shadows_ours_is_named(tmp_path: Path, file: str) -> None:
    path = tmp_path / file
    path.parent.mkdir(exist_ok=True)
    path.touch()
    said = check_in(tmp_path)
    shadow = path.parent if path.name == "__init__.py" else path
    assert said.startswith(f"{shadow} shadows fedrec's own '{shadow.stem}'")
    assert "rename it, or run from another folder" in said


def test_the_hash_depends_on_the_sources_alone(tmp_path: Path) -> None:
    """A copy has the same hash, a changed copy another."""
    for name in ("fedrec", *processes.OUTER_PACKAGES):
        for path in (ROOT / name).rglob("*.py"):
            copy = tmp_path / path.relative_to(ROOT)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(path.read_bytes())
        (tmp_path / name).mkdir(exist_ok=True)

    def hash_in_copy() -> str:
        done = subprocess.run(
            [sys.executable, "-c", "from fedrec.flower.processes import *; print(code_hash())"],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(tmp_path)},
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout.strip()

    assert hash_in_copy() == code_hash()
    with (tmp_path / "fedrec" / "errors.py").open("a", encoding="utf-8") as file:
        file.write("# changed\n")
    assert hash_in_copy() != code_hash()

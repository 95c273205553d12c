"""The code of a run goes where a machine has other code or none."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from fedrec.flower import shipped_code
from fedrec.flower.processes import ROOT, code_files, code_hash
from fedrec.flower.shipped_code import (
    hash_of,
    installed_files,
    is_here,
    private_folder,
    source_files,
    unpack,
)

OWN = {
    "own_package/__init__.py": b"",
    "own_package/model.py": b"A = 1\n",
    "own_module.py": b"B = 2",
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where this process puts code for the while."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return tmp_path


@pytest.fixture
def path(tmp_path: Path) -> Iterator[Path]:
    """A folder that Python imports from."""
    sys.path.insert(0, str(tmp_path / "path"))
    yield tmp_path / "path"
    sys.path.remove(str(tmp_path / "path"))


def write(files: dict[str, bytes], folder: Path) -> None:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


def test_the_code_of_this_process_is_here() -> None:
    assert is_here(code_files())
    assert hash_of(code_files()) == code_hash()
    assert is_here(installed_files({*shipped_code.PACKAGES}))


def test_other_code_and_none_are_not_the_same(path: Path) -> None:
    assert not is_here(OWN)
    write(OWN, path)
    assert is_here(OWN)
    assert is_here({"own_module.py": OWN["own_module.py"]})
    (path / "own_package" / "model.py").write_bytes(b"A = 1\r\n")
    assert is_here(OWN)
    (path / "own_package" / "model.py").write_bytes(b"A = 2\n")
    assert not is_here(OWN)


def test_a_file_of_fedrecs_too_many_is_other_code(tmp_path: Path) -> None:
    """In a process that has imported nothing of it."""
    strategies = {name: text for name, text in code_files().items() if name[:11] == "strategies/"}
    write(strategies, tmp_path)
    script = (
        "import sys\nfrom pathlib import Path\n"
        "from fedrec.flower.shipped_code import is_here, source_files\n"
        "sys.path.insert(0, sys.argv[1])\n"
        "files = source_files(Path(sys.argv[2]), ('strategies',))\n"
        "print(is_here(files))\n"
        "(Path(sys.argv[1]) / 'strategies' / 'more.py').touch()\n"
        "print(is_here(files))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path), str(ROOT)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == ["True", "False"]


def test_what_is_unpacked_is_imported_in_place_of_other_code(folder: Path) -> None:
    place = unpack({**code_files(), **OWN})
    assert source_files(place) == code_files()
    (folder / "fedrec").mkdir()  # an empty one, as of another installation
    found = subprocess.run(
        [sys.executable, "-c", "import fedrec.types, own_module; print(fedrec.__file__)"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(place), str(folder)])},
        cwd=folder,
        capture_output=True,
        text=True,
        check=True,
    )
    assert Path(found.stdout.strip()) == place / "fedrec" / "__init__.py"


def test_the_same_code_is_unpacked_once_with_the_same_times(folder: Path) -> None:
    first = unpack(OWN)
    about = {name: (first / name).stat().st_mtime_ns for name in OWN}
    time.sleep(0.01)
    assert unpack(dict(reversed(OWN.items()))) == first
    assert {*about.values()} == {0}
    assert unpack({**OWN, "own_module.py": b"B = 3"}) != first
    (first / "own_module.py").write_bytes(b"damaged")
    again = unpack(OWN)
    assert (again / "own_module.py").read_bytes() == OWN["own_module.py"]
    assert not [each for each in folder.iterdir() if each != private_folder()]


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="needs users")
def test_code_is_put_where_nobody_else_may_write(folder: Path) -> None:
    usual = private_folder()
    assert usual.stat().st_mode & 0o777 == 0o700
    usual.chmod(0o777)
    assert private_folder() != usual
    assert private_folder().stat().st_mode & 0o777 == 0o700


def test_the_names_that_plug_ins_are_found_by_come_along() -> None:
    files = installed_files({*shipped_code.PACKAGES})
    (entries,) = (text for name, text in files.items() if name.endswith("/entry_points.txt"))
    assert b"strategies:STRATEGIES" in entries
    assert installed_files({"fedrec"}) == {}
    assert str(ROOT).encode() not in b"".join(files.values())

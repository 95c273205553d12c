"""Versions, commit and hardware are those of this machine."""

import platform
import shutil
import subprocess
from pathlib import Path

import numpy
import pytest

import fedrec
from fedrec.runs.provenance import commit, hardware, versions


def git(where: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=test", "-c", "user.email=test@example.org")
    done = subprocess.run(
        ("git", "-C", str(where), *identity, *arguments),
        check=True,
        capture_output=True,
        text=True,
    )
    return done.stdout.strip()


def test_versions_name_what_is_installed() -> None:
    installed = versions()
    assert installed["python"] == platform.python_version()
    assert installed["numpy"] == numpy.__version__


def test_hardware_has_cores_and_a_cpu() -> None:
    facts = hardware()
    assert int(facts["cores"]) >= 1
    assert facts["cpu"]


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
def test_the_commit_is_that_of_the_checkout() -> None:
    root = Path(__file__).parents[4]
    if not (root / ".git").exists() or not Path(fedrec.__file__).is_relative_to(root):
        pytest.skip("fedrec does not run from a git checkout")
    assert str(commit()).startswith(git(root, "rev-parse", "HEAD"))


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
def test_commit_tells_clean_from_dirty_and_ours_from_another(tmp_path: Path) -> None:
    package = tmp_path / "fedrec"
    package.mkdir()
    assert commit(tmp_path) is None
    git(tmp_path, "init", "--quiet")
    assert commit(tmp_path) is None
    (package / "a.py").write_text("a = 1\n", encoding="utf-8")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "--quiet", "--no-gpg-sign", "-m", "first")
    head = git(tmp_path, "rev-parse", "HEAD")
    assert commit(tmp_path) == head
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "run.json").touch()
    assert commit(tmp_path) == head
    (package / "new.py").touch()
    assert commit(tmp_path) == f"{head}+dirty"
    assert commit(package) is None

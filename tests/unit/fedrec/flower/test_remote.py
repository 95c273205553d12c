"""What a worker has of the driver's files is told by their content."""

import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("ray", reason="needs the extra 'sim'")

from fedrec.errors import EngineError
from fedrec.flower import worker_folders
from fedrec.flower.ray_worker import Worker, decisive_versions
from fedrec.flower.remote import Marks, Sight, marking
from fedrec.flower.shipped_code import private_folder
from fedrec.flower.worker_folders import WorkerFolders
from fedrec.runs.folder import remove_unfinished
from fedrec.storage.files import write_arrays


@pytest.fixture
def config(tmp_path: Path) -> dict[str, Any]:
    run, data = tmp_path / "run", tmp_path / "data.safetensors"
    run.mkdir()
    (run / "rounds.jsonl").touch()
    write_arrays(data, {"a": np.arange(5)})
    return {"run-dir": str(run), "data": str(data), "features": "", "device": "cpu"}


def sight(marks: Marks) -> tuple[bool, bool]:
    return marks.sight(True)[:2]


def test_a_worker_with_the_same_files_has_them(config: dict[str, Any]) -> None:
    with marking(config) as marks:
        assert sight(marks) == (True, True)
        assert marks.sight(True).lacks == ()
    assert [path.name for path in Path(config["run-dir"]).iterdir()] == ["rounds.jsonl"]


def test_a_folder_of_the_same_name_is_another_without_the_token(
    config: dict[str, Any], tmp_path: Path
) -> None:
    """As on a machine with a run of its own there."""
    with marking(config) as marks:
        run = Path(config["run-dir"])
        run.rename(tmp_path / "elsewhere")
        run.mkdir()
        shutil.copy(tmp_path / "elsewhere" / "rounds.jsonl", run)
        assert sight(marks) == (False, True)
        assert marks.sight(False).lacks == ("run folder", "code")
        shutil.rmtree(run)
        assert sight(marks) == (False, True)


@pytest.mark.parametrize("content", [None, b"", b"other", "shorter", "other"])
def test_data_is_the_same_if_its_content_is(content: Any, config: dict[str, Any]) -> None:
    path = Path(config["data"])
    with marking(config) as marks:
        before = path.read_bytes()
        path.unlink()
        if isinstance(content, bytes):
            path.write_bytes(content)
        elif content == "shorter":
            path.write_bytes(before[:-8])
        elif content == "other":
            write_arrays(path, {"a": np.arange(5) + 1})
        assert sight(marks) == (True, False)
        write_arrays(path, {"a": np.arange(5)})
        assert sight(marks) == (True, True)


def test_a_token_that_a_killed_driver_left_goes_with_other_unfinished_files(
    config: dict[str, Any],
) -> None:
    run = Path(config["run-dir"])
    with marking(config) as marks:
        (run / Path(marks.token).name).touch()
        remove_unfinished(run)
        assert [path.name for path in run.iterdir()] == ["rounds.jsonl"]


def test_what_has_no_run_folder_lacks_nothing() -> None:
    with marking({"device": "cpu"}) as marks:
        assert sight(marks) == Sight()[:2]


@pytest.mark.parametrize(("name", "here"), [("numpy", np.__version__), ("own", "not installed")])
def test_other_versions_are_named(name: str, here: str) -> None:
    expected = {**decisive_versions(), name: "0.1"}
    with pytest.raises(EngineError, match=rf"has {name} {here}, the driver 0\.1; install the same"):
        Worker(None, "", "", 1, {}, {}, (), expected)


def test_folders_are_removed_at_the_end_or_by_who_comes_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    first, second, third = WorkerFolders(), WorkerFolders(), WorkerFolders()
    own, shared = first.make(), second.make()
    first.hold(shared)
    long_ago = time.time() - 2 * worker_folders.STALE_SECONDS
    left = Path(tempfile.mkdtemp(dir=private_folder()))  # nobody holds it any more
    for folder in (own, shared, left):
        os.utime(folder, (long_ago, long_ago))
    second.remove()
    assert shared.exists()
    new = third.make()
    assert [own.exists(), shared.exists(), new.exists(), left.exists()] == [True] * 3 + [False]
    first.remove()
    third.remove()
    assert not [each for each in (own, shared, new) if each.exists()]

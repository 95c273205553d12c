"""A run folder is never destroyed by accident, and readable at any moment."""

import json
import os
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedrec.errors import RunFolderError
from fedrec.runs.folder import (
    HEADER,
    check_free,
    create,
    default_folder,
    discard_unstarted,
    is_run_folder,
    write_result,
)
from fedrec.runs.log import RoundRecord, RunLog
from fedrec.runs.reader import RunFolder, find
from fedrec.storage.files import write_arrays, write_bytes, write_json

CONFIG = "seed: 3\ndata: {name: toy, protocol: clean}\nevaluate: {metrics: [mrr]}\n"


def round_line(round: int, valid: float) -> dict[str, object]:
    parts = {"valid": {"mrr": valid}, "test": {"mrr": valid / 2}}
    return {
        "round": round,
        "clients": 4,
        "failures": [{"client": "7", "reason": "no memory"}],
        "seconds": {"train": 2.0, "evaluate": 1.0},
        "bytes": {"up": 10, "down": 20},
        "evaluation": {"mixed": parts, "local": parts},
    }


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = create(tmp_path / "run")
    (path / "config.yaml").write_text(HEADER + CONFIG, encoding="utf-8")
    return path


def test_a_new_folder_is_an_empty_run(tmp_path: Path) -> None:
    path = create(tmp_path / "a" / "b")
    assert is_run_folder(path)
    assert RunFolder(path).rounds() == []


def test_an_empty_folder_is_used(tmp_path: Path) -> None:
    assert is_run_folder(create(tmp_path))


def test_an_existing_run_is_kept_unless_told(folder: Path) -> None:
    with pytest.raises(RunFolderError, match=r"holds a run already.*--overwrite"):
        create(folder)
    assert (folder / "config.yaml").read_text(encoding="utf-8").endswith(CONFIG)


def test_overwriting_removes_what_is_ours_and_nothing_else(folder: Path) -> None:
    write_arrays(folder / "local" / "node-0.safetensors", {"x": np.zeros(2)})
    write_json(folder / "result.json", {})
    (folder / "notes.txt").write_text("mine", encoding="utf-8")
    create(folder, overwrite=True)
    assert sorted(p.name for p in folder.iterdir()) == ["notes.txt", "rounds.jsonl"]


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_folder_of_something_else_is_left_alone(tmp_path: Path, overwrite: bool) -> None:
    (tmp_path / "thesis.tex").write_text("years of work", encoding="utf-8")
    (tmp_path / "config.yaml").write_text("a: 1", encoding="utf-8")
    with pytest.raises(RunFolderError, match="no run folder"):
        create(tmp_path, overwrite=overwrite)
    assert (tmp_path / "thesis.tex").read_text(encoding="utf-8") == "years of work"


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RunFolderError, match="is a file"):
        create(tmp_path / "file")
    with pytest.raises(RunFolderError, match="cannot be written"):
        create(tmp_path / "file" / "below")


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write anywhere")
def test_an_unwritable_parent_is_an_error(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(RunFolderError, match="cannot be written"):
        create(tmp_path / "run")


def test_a_failed_write_leaves_the_old_file_and_no_rest(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    write_json(path, {"a": 1})
    with pytest.raises(TypeError):
        write_json(path, {"a": object()})
    path.unlink()
    path.mkdir()
    with pytest.raises(OSError):
        write_bytes(path, b"x")
    assert [p.name for p in tmp_path.iterdir()] == ["result.json"]


def test_json_takes_numpy_and_writes_null_for_what_is_not_finite(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    write_json(path, {"a": np.float32(0.5), "b": [float("nan"), np.int64(2)], "c": np.arange(2)})
    assert json.loads(path.read_text(encoding="utf-8")) == {"a": 0.5, "b": [None, 2], "c": [0, 1]}


def test_arrays_come_back(folder: Path) -> None:
    table = np.arange(6, dtype=np.float32).reshape(2, 3).T
    write_arrays(folder / "model.safetensors", {"item": table}, {"round": "5"})
    assert np.array_equal(RunFolder(folder).model()["item"], table)


def test_local_state_is_merged_over_nodes_and_sorted(folder: Path) -> None:
    weight = np.arange(6, dtype=np.float32) / 10
    about = {"per.lambda": "user", "per.user": "user", "per.bias": "client", "per.tie": "positive"}
    for node, ids in enumerate((np.array([4, 0, 3]), np.array([5, 1, 2]))):
        arrays = {
            "ids.user": ids,
            "lambda": weight[ids],
            "user": np.stack([ids, ids], 1),
            "bias": weight[ids[:2]],
            "ids.client": ids[:2],
            "tie": weight[ids],
            "ids.positive": np.arange(9 * node, 9 * node + 9),
        }
        write_arrays(folder / "local" / f"node-{node}.safetensors", arrays, about)
    local = RunFolder(folder).local()
    assert sorted(local) == ["ids.user", "lambda", "user"]
    assert np.array_equal(local["ids.user"], np.arange(6))
    assert np.array_equal(local["lambda"], weight)
    assert np.array_equal(local["user"][:, 1], np.arange(6))
    assert np.array_equal(RunFolder(folder).local("client")["bias"], weight[[0, 1, 4, 5]])


def test_a_user_on_two_nodes_is_an_error(folder: Path) -> None:
    for node in range(2):
        write_arrays(folder / "local" / f"node-{node}.safetensors", {"ids.user": np.arange(2)})
    with pytest.raises(RunFolderError, match="two nodes hold the same user"):
        RunFolder(folder).local()


def test_a_run_without_local_state_has_none(folder: Path) -> None:
    assert RunFolder(folder).local() == {}


@pytest.mark.parametrize("written", [{}, {"status": "running", "seed": 3, "best_round": None}])
def test_an_interrupted_run_is_read_from_its_rounds(
    folder: Path, written: dict[str, object]
) -> None:
    with closing(RunLog(folder / "rounds.jsonl")) as log:
        for round, valid in enumerate((0.1, 0.4, 0.4, 0.2), start=1):
            log.append(RoundRecord.model_validate(round_line(round, valid)))
    if written:
        write_result(folder, written)
    result = RunFolder(folder).result
    assert result["status"] == written.get("status", "interrupted")
    assert result["best_round"] == 2
    assert result["metrics"]["test"] == {"mrr": 0.2}
    assert result["metrics"]["views"] == {"local": {"mrr": 0.2}}
    assert result["seed"] == 3
    assert result["bytes"] == {"up": 40, "down": 80}
    assert result["bytes_per_client"] == {"up": 40 / 16, "down": 80 / 20}
    assert result["seconds"] == {"train": 8.0, "evaluate": 4.0, "total": 12.0}
    assert result["clients_per_second"] == 2.0


@pytest.mark.parametrize("best", [4, None])
def test_a_finished_result_is_returned_as_it_is(folder: Path, best: int | None) -> None:
    result = {"best_round": best, "metrics": {"test": {"mrr": 0.5}}, "status": "completed"}
    written = write_result(folder, result)
    assert RunFolder(folder).result == written == {**written, **result}


def test_a_run_killed_before_its_first_round_is_readable(folder: Path) -> None:
    result = RunFolder(folder).result
    assert (result["rounds"], result["best_round"]) == (0, None)
    assert result["metrics"]["test"] == {}


def test_missing_and_damaged_files_are_named(folder: Path, tmp_path: Path) -> None:
    run = RunFolder(folder)
    for read, name in ((run.model, "model.safetensors"), (run.per_user, "per_user.parquet")):
        with pytest.raises(RunFolderError, match=name):
            read()
    (folder / "model.safetensors").write_bytes(b"junk")
    (folder / "per_user.parquet").write_bytes(b"junk")
    for read, name in ((run.model, "model"), (run.per_user, "per_user")):
        with pytest.raises(RunFolderError, match=name):
            read()
    (folder / "result.json").write_text("{", encoding="utf-8")
    with pytest.raises(RunFolderError, match="result"):
        _ = RunFolder(folder).result
    with pytest.raises(RunFolderError, match="result"):
        run.model()
    (folder / "result.json").unlink()
    (folder / "config.yaml").write_text(HEADER + "a: [", encoding="utf-8")
    with pytest.raises(RunFolderError, match=r"config\.yaml"):
        run.config()
    with pytest.raises(RunFolderError, match="no such folder"):
        RunFolder(tmp_path / "none")
    with pytest.raises(RunFolderError, match="is not a run folder"):
        RunFolder(tmp_path)


def test_a_bad_round_names_its_line(folder: Path) -> None:
    with closing(RunLog(folder / "rounds.jsonl")) as log:
        log.append(RoundRecord(round=1, clients=1))
        log.append(RoundRecord.model_construct(round=2, clients=-1))
    with pytest.raises(RunFolderError, match=r"rounds\.jsonl: line 2 .*clients"):
        RunFolder(folder).rounds()


def test_a_folder_of_runs_stands_for_all(tmp_path: Path) -> None:
    for seed in (1, 0):
        create(tmp_path / "sweep" / f"seed-{seed}")
    folders = find([tmp_path / "sweep", tmp_path / "sweep" / "seed-0"])
    assert [run.path.name for run in folders] == ["seed-0", "seed-1", "seed-0"]
    assert [run.path.name for run in find([tmp_path])] == ["seed-0", "seed-1"]
    (tmp_path / "else").mkdir()
    with pytest.raises(RunFolderError, match="is not a run folder"):
        find([tmp_path / "else"])


def test_a_run_that_never_started_is_discarded_and_no_other(folder: Path, tmp_path: Path) -> None:
    unstarted = create(tmp_path / "unstarted")
    (unstarted / "config.yaml").write_text("seed: 0\n", encoding="utf-8")
    shared = create(tmp_path / "shared")
    (shared / "thesis.txt").write_text("mine", encoding="utf-8")
    started = create(tmp_path / "started")
    (started / "rounds.jsonl").write_text("{}\n", encoding="utf-8")
    for path in (unstarted, shared, started, tmp_path / "nowhere"):
        discard_unstarted(path)
    assert not unstarted.exists()
    assert [path.name for path in shared.iterdir()] == ["thesis.txt"]
    assert (started / "rounds.jsonl").exists()


def test_free_is_what_create_takes(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("mine", encoding="utf-8")
    for name in (folder.name, "file", "full", "file/below", "x" * 300):
        path = folder if name == folder.name else tmp_path / name
        with pytest.raises(RunFolderError):
            create(path)
        if name != "file/below":  # seen when it is made
            with pytest.raises(RunFolderError):
                check_free(path)
    check_free(folder, overwrite=True)
    check_free(tmp_path / "new")
    assert not (tmp_path / "new").exists()


sets = st.dictionaries(
    st.from_regex(r"[a-d]{1,20}(\.[a-d]{1,20}){0,2}", fullmatch=True), st.text(max_size=60)
)


@given(sets, sets)
def test_other_settings_have_another_folder(one: dict[str, str], two: dict[str, str]) -> None:
    folders = [
        default_folder("mf", [f"{key}={value}" for key, value in each.items()], 0)
        for each in (one, two)
    ]
    stripped = [{key: value.strip() for key, value in each.items()} for each in (one, two)]
    assert (folders[0] == folders[1]) == (stripped[0] == stripped[1])
    for folder in folders:
        assert len(folder.parts) == 2
        assert len(folder.name) < 100
        assert folder.name.isascii()


def test_names_are_readable() -> None:
    assert default_folder("mf", [], 3).as_posix() == "runs/mf-seed3"
    assert default_folder("mf", [], None).as_posix() == "runs/mf"
    several = ["rounds.count=5", "model=neumf", "seed=3", "engine.workers=2"]
    assert default_folder("mf", several, 3).as_posix() == "runs/mf-model=neumf,rounds.count=5-seed3"

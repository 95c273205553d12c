"""A language model in whole runs: what is sent and kept, what tables say, and another base."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

import fedrec
from fedrec.aggregation.codec import VERSION_BYTES
from fedrec.config.experiment import load_experiment
from fedrec.data.prepare import split_of
from fedrec.errors import ConfigError, RunFolderError
from fedrec.runs.open_run import OpenRun
from fedrec.runs.prepare import settings_without_effect
from fedrec.training import declarations
from tests.tiny_language_model import TITLES, save_tiny_model

USERS, ROUNDS = 8, 3
NUMBERS = 2 * (64 + 32) * 2  # B of q and v, rank 2, in two layers


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny base, titles, and who watched what."""
    folder = tmp_path_factory.mktemp("language")
    save_tiny_model(folder / "base")
    rows = [f"{item}\t{title}\n" for item, title in enumerate(TITLES * 2)]
    (folder / "items.tsv").write_text("id\ttitle\n" + "".join(rows), encoding="utf-8")
    rng = np.random.default_rng(0)
    lines = [f"{user} {' '.join(map(str, rng.permutation(12)[:7]))}\n" for user in range(USERS)]
    (folder / "lists.txt").write_text("".join(lines), encoding="utf-8")
    return folder


def document(folder: Path, **engine: Any) -> dict[str, Any]:
    return {
        "data": {
            "name": "lists",
            "path": str(folder / "lists.txt"),
            "items": str(folder / "items.tsv"),
        },
        "model": {
            "name": "llm_prompt",
            "base": str(folder / "base"),
            "history": 3,
            "max_tokens": 96,
            "adapters": {"layers": "all", "r": 2},
        },
        "train": {"optimizers": {"shared": {"name": "adamw", "lr": 0.01}}, "micro_batch": 4},
        "rounds": {"count": ROUNDS, "cohort_size": 5},
        "evaluate": {"every": 1, "metrics": ["mrr", "recall@3"], "rerank": {"n": 4}},
        "engine": {"name": "serial", **engine},
    }


def go(folder: Path, out: Path, **engine: Any) -> fedrec.RunResult:
    return fedrec.run(load_experiment(document(folder, **engine)), out=out)


def test_only_adapters_travel_and_another_base_is_refused(folder: Path, tmp_path: Path) -> None:
    run = go(folder, tmp_path / "run")
    assert run.result["ranking"] == "re-ranks 4 of popularity"
    assert len(run.result["weights"]) == 64
    sent = load_file(run.folder / "model.safetensors")
    assert all(".lora_B." in name for name in sent)
    assert sum(value.size for value in sent.values()) == NUMBERS
    assert any(value.any() for value in sent.values())
    for record in run.rounds():
        assert record.bytes.down == 5 * 4 * NUMBERS
        assert record.bytes.up == record.bytes.down + 5 * VERSION_BYTES
    best = [each.score for each in run.recommend("0", 5)]
    assert best[0] > best[1] > best[2] >= 0 > best[-1]  # candidates, then what the first stage has
    with pytest.raises(ConfigError, match=r"model\.adapters\.r is 3, was 2"):
        fedrec.resume(run.folder, sets=["rounds.count=4", "model.adapters.r=3"])

    save_tiny_model(folder / "base", seed=1)
    declarations._DECLARED.clear()  # as in another process
    try:
        with pytest.raises(RunFolderError, match="the frozen weights of the model are not what"):
            fedrec.load(run.folder).recommend("0", 3)
        with pytest.raises(RunFolderError, match="the frozen weights of the model are not what"):
            fedrec.resume(run.folder, sets=["rounds.count=4"])
    finally:
        save_tiny_model(folder / "base")
        declarations._DECLARED.clear()
    assert fedrec.resume(run.folder, sets=["rounds.count=4"]).result["rounds"] == 4


def test_cut_histories_and_empty_texts_are_counted(folder: Path, tmp_path: Path) -> None:
    rows = [f"{item}\t{title if item else ''}\n" for item, title in enumerate(TITLES * 2)]
    (tmp_path / "items.tsv").write_text("id\ttitle\n" + "".join(rows), encoding="utf-8")
    sets = {
        "data.items": str(tmp_path / "items.tsv"),
        "model.max_tokens": 40,
        "evaluate.rerank": None,
    }
    experiment = load_experiment(document(folder), sets)
    split = split_of(experiment.data, experiment.clients)
    run = OpenRun(tmp_path, experiment, Path(), split)
    said = [line for line in settings_without_effect(run) if line.startswith("model.")]
    assert [line.partition(":")[0] for line in said] == [
        "model.template.item",
        "model.max_tokens",
        "model.base",
    ]
    assert "12 passes through it; set evaluate.rerank" in said[2]
    assert "1 of 12 items have an empty text" in said[0]
    assert re.search(rf"prompts of [1-{USERS}] of {USERS} users leave out the oldest", said[1])


def test_adapters_of_a_bfloat16_base_are_trained_in_float32(folder: Path, tmp_path: Path) -> None:
    run = fedrec.run(
        load_experiment(document(folder), {"model.precision": "bfloat16"}), out=tmp_path
    )
    sent = load_file(run.folder / "model.safetensors")
    assert {value.dtype.name for value in sent.values()} == {"float32"}
    assert any(value.any() for value in sent.values())


@pytest.mark.slow
def test_serial_and_ray_agree(folder: Path, tmp_path: Path) -> None:
    one = go(folder, tmp_path / "serial", nodes=2)
    other = go(folder, tmp_path / "ray", name="ray", workers=2, nodes=2)
    ours, theirs = (load_file(each.folder / "model.safetensors") for each in (one, other))
    for name, value in ours.items():
        np.testing.assert_allclose(value, theirs[name], rtol=0, atol=1e-5, err_msg=name)

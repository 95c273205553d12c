"""Runs are grouped by everything but the seed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from statistics import fmean, stdev

import pytest

from fedrec.errors import RunFolderError
from fedrec.report.runs import load, mean_sd, pretty_metric

Maker = Callable[..., Path]


def test_seeds_of_one_experiment_are_one_group(make: Maker) -> None:
    paths = [make("b", seed=2), make("other", method="plgc"), make("a", seed=1)]
    first, second = load(paths)
    assert [run.seed for run in first.runs] == [1, 2]
    assert (first.label, second.label) == ("none + mf + fedadam", "plgc + mf + fedadam")
    assert [len(group.notes) for group in (first, second)] == [0, 0]


def test_a_changed_setting_is_another_group_that_says_so(make: Maker) -> None:
    groups = load([make("a"), make("b", server_lr=0.5)])
    assert [group.label for group in groups] == [
        "none + mf + fedadam (strategy.server_lr=0.01)",
        "none + mf + fedadam (strategy.server_lr=0.5)",
    ]


def test_an_interrupted_seed_is_in_no_mean(make: Maker) -> None:
    done, broken = load([make("a"), make("b", seed=1, status="interrupted", rounds=30)])
    assert [run.seed for run in done.runs] == [0]
    assert broken.label.endswith("unfinished")
    assert "seed 1: interrupted at round 30" in broken.notes
    assert broken.values("test", "ndcg@10")


def test_the_same_seed_counts_once_and_its_digests_are_compared(make: Maker) -> None:
    (equal,) = load([make("a"), make("b")])
    assert len(equal.runs) == 1
    assert any("equal digests" in note for note in equal.notes)
    (differing,) = load([make("c"), make("d", change={"digest": "ff"})])
    assert any("DIFFERENT digests" in note for note in differing.notes)


def test_a_run_named_twice_is_read_once(make: Maker) -> None:
    path = make("a")
    (group,) = load([path, path])
    assert len(group.runs) == 1
    assert group.notes == ()


def test_a_torn_log_is_told(make: Maker) -> None:
    path = make("a", status="interrupted", rounds=9)
    (path / "result.json").unlink()
    with (path / "rounds.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"round": 10, "cli')
    (group,) = load([path])
    assert any("cut off" in note for note in group.notes)


def test_no_run_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match="at least one"):
        load([])
    with pytest.raises(RunFolderError, match="no such folder"):
        load([tmp_path / "none"])


def test_mean_and_spread() -> None:
    values = [0.1, 0.4, 0.3]
    assert mean_sd(values) == (fmean(values), stdev(values))
    assert mean_sd([0.2]) == (0.2, None)
    assert mean_sd([]) is None


def test_labels_of_metrics() -> None:
    assert [pretty_metric(m) for m in ("ndcg@10", "hit_rate@5", "mrr", "coverage@10")] == [
        "NDCG@10",
        "HR@5",
        "MRR",
        "Coverage@10",
    ]

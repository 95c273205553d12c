from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.benchmarks.meter import PROC, metered
from experiments.benchmarks.timing import deal
from experiments.benchmarks.workload import some_clients, synthetic_workload, workload
from fedrec.config.experiment import load_experiment
from fedrec.data.prepare import open_split
from fedrec.errors import ConfigError


@given(st.lists(st.integers(0, 500), min_size=1, max_size=60), st.integers(1, 4))
def test_clients_are_dealt_once_and_evenly(lengths: list[int], parts: int) -> None:
    dealt = deal(np.array(lengths, np.int64), parts)
    assert sorted(np.concatenate(dealt).tolist()) == list(range(len(lengths)))
    loads = [sum(lengths[client] for client in part) for part in dealt]
    assert max(loads) - min(loads) <= 2 * max(lengths)


def test_some_clients_are_of_all_lengths_and_keep_their_items() -> None:
    split = workload("tiny").split
    few = some_clients(split, 5)
    assert few.n_clients == few.n_users == 5
    assert few.n_items == split.n_items
    lengths = np.sort(split.train.lengths)
    assert sorted(few.train.lengths)[0] == lengths[0]
    assert sorted(few.train.lengths)[-1] == lengths[-1]
    for row, user in enumerate(few.user_ids):
        at = int(np.flatnonzero(split.user_ids == user)[0])
        assert few.train.row(row).tolist() == split.train.row(at).tolist()


def test_a_workload_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    work = workload("tiny", "plgc", clients=7)
    work.write(tmp_path / "work")
    read = open_split(tmp_path / "work" / "split")
    assert read.train.values.tolist() == work.split.train.values.tolist()
    assert load_experiment(tmp_path / "work" / "config.yaml") == work.experiment


def test_the_shape_of_ml_1m_is_met_without_the_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FEDREC_DATA", raising=False)
    work = workload("ml-1m", clients=3)
    assert work.about.startswith("synthetic")
    assert work.split.n_items <= 3706


def test_names_that_are_not_known_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"--data: unknown 'ml-100' .*'ml-100k'"):
        workload("ml-100")
    with pytest.raises(ConfigError, match="--personalization: unknown 'plg'"):
        synthetic_workload(10, 100, "plg")


@pytest.mark.skipif(not PROC.is_dir(), reason="needs /proc")
def test_the_meter_sees_this_process() -> None:
    with metered() as meter:
        with meter.peak(pause=0.01) as peak:
            before = meter.cpu()
            sum(range(3_000_000))
            after = meter.cpu()
        assert peak.bytes > 10_000_000
        assert peak.of["daemons"] == 0
        assert after["driver"] > before["driver"]

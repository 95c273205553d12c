"""All who compete do the same work: the same table, users, weights and loss, to rounding."""

from pathlib import Path

import numpy as np
import pytest

from experiments.benchmarks.competitor import Competitor, open_task
from experiments.benchmarks.workload import workload
from fedrec.training.clients import train_clients

pytest.importorskip("numba", reason="needs the extra 'sim'")

CLIENTS = 12


def competitors() -> dict[str, type[Competitor]]:
    from experiments.benchmarks.loop import LoaderCompetitor, LoopCompetitor

    return {"loop": LoopCompetitor, "loader": LoaderCompetitor}


@pytest.mark.parametrize("personalization", ["none", "plgc"])
@pytest.mark.parametrize("name", ["loop", "loader"])
@pytest.mark.parametrize("kernel", ["auto", "torch"])
def test_it_trains_to_the_same_parameters(
    tmp_path: Path, name: str, personalization: str, kernel: str
) -> None:
    work = workload("tiny", personalization, clients=CLIENTS, train={"backend": kernel})
    work.write(tmp_path / "work")
    opened = open_task(tmp_path / "work", np.arange(CLIENTS, dtype=np.int64))
    competitor, local = competitors()[name](opened), opened.local
    for number in (1, 2, 3):
        loss = competitor.round(number)
        update, local = train_clients(opened.task, opened.shard, opened.params, local, number)
        total = np.zeros(competitor.table.shape)
        np.add.at(total, update.tables["item"].ids, update.tables["item"].values)
        assert np.abs(total).max() > 1e-3
        np.testing.assert_allclose(competitor.total, total, atol=1e-5)
        np.testing.assert_allclose(competitor.users, local["user"], atol=1e-5)
        np.testing.assert_allclose(loss, update.metrics["loss"].sum(), rtol=1e-5)
        if personalization == "plgc":
            assert competitor.share is not None
            assert np.abs(local["lambda"] - 0.5).max() > 1e-3
            np.testing.assert_allclose(competitor.share, local["lambda"], atol=1e-5)


def test_parts_of_the_clients_add_up_to_all(tmp_path: Path) -> None:
    work = workload("tiny", clients=CLIENTS)
    work.write(tmp_path / "work")
    parts = [np.arange(CLIENTS), np.arange(5), np.arange(5, CLIENTS)]
    for competitor in competitors().values():
        combined, *separate = [competitor(open_task(tmp_path / "work", part)) for part in parts]
        losses = [each.round(1) for each in (combined, *separate)]
        np.testing.assert_allclose(losses[0], sum(losses[1:]), rtol=1e-5)
        np.testing.assert_allclose(combined.total, sum(each.total for each in separate), atol=1e-5)

"""Item tables of each client's own, from the messages to the recommendations."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedrec.aggregation.mix import unpacked
from fedrec.errors import ConfigError
from tests.integration.stopped_runs import go, go_on, outcome, stopped

GRAPH: dict[str, Any] = {"name": "gpfedrec", "neighbours": 4}
OF_CHANGES = {"name": "gpfedrec", "similarity": "changes", "buckets": 4}
PLAIN: dict[str, Any] = {"name": "none"}
PLGC: dict[str, Any] = {"name": "plgc", "branch": "table", "persistence": 0.5}
FINE: dict[str, Any] = {"name": "finetune", "epochs": 2}


@pytest.mark.parametrize(
    ("strategy", "form"), [(GRAPH, PLAIN), (OF_CHANGES, PLGC), (OF_CHANGES, FINE)]
)
def test_any_nodes_give_the_same_bits(
    strategy: dict[str, Any], form: dict[str, Any], tmp_path: Path
) -> None:
    runs = [
        go(
            tmp_path / str(nodes),
            strategy=strategy,
            personalization=form,
            engine={"name": "serial", "nodes": nodes},
        )
        for nodes in (1, 3, 16)
    ]
    first, *others = (outcome(run.folder) for run in runs)
    assert all(other == first for other in others)
    users = list(map(str, runs[0].split.user_ids))
    for user in users[:3]:
        assert runs[0].recommend(user, 4) == runs[2].recommend(user, 4)
    mix = unpacked(runs[0].model()).own["item"]
    assert len(mix.weights) == len(users)
    assert len(np.unique(mix.weights, axis=0)) > 2


@pytest.mark.parametrize("form", [PLAIN, PLGC, FINE], ids=lambda form: str(form["name"]))
def test_a_stopped_run_goes_on_exactly(form: dict[str, Any], tmp_path: Path) -> None:
    changes = {"strategy": OF_CHANGES, "personalization": form}
    through = go(tmp_path / "through", **changes)
    folder = stopped(tmp_path / "run", 2, **changes)
    assert outcome(go_on(folder).folder) == outcome(through.folder)


def test_the_lists_of_a_run_are_those_that_were_measured(tmp_path: Path) -> None:
    run = go(tmp_path / "run", strategy=GRAPH, personalization=PLAIN)
    table, split = run.per_user().set_index("user"), run.split
    every = run.recommend_all(5).groupby("user")["item"].agg(list)
    for row in range(split.n_users):
        user, wanted = str(split.user_ids[row]), split.test.row(row).tolist()
        top = [each.item for each in run.recommend(user, 5)]
        assert top == every[user]
        hit = float(any(str(split.item_ids[item]) in top for item in wanted))
        assert table.loc[user, "test.hit_rate@5"] == hit


def test_a_state_that_is_too_large_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"engine\.state_limit: the server would remember .*KiB"):
        go(tmp_path / "run", strategy=GRAPH, engine={"name": "serial", "state_limit": "20KiB"})


@pytest.mark.slow
def test_ray_has_the_bits_of_serial(tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="needs the extra 'sim'")
    changes = {"strategy": GRAPH, "personalization": PLAIN}
    serial = go(tmp_path / "serial", **changes)
    ray = go(tmp_path / "ray", **changes, engine={"name": "ray", "workers": 2, "nodes": 4})
    assert outcome(serial.folder) == outcome(ray.folder)

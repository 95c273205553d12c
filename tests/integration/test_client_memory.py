"""What clients remember for a rule outlasts a stop, and any number of nodes."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedrec.runs.log import read_checkpoint
from tests.integration.stopped_runs import ROUNDS, go, go_on, outcome, stopped
from tests.planted import rates

KINDS = {"scaffold": "client_control", "feddyn": "accumulated"}
CLIENTS = 10
CHANGES: dict[str, Any] = {
    "model": {"name": "tests.contracts.own_models:BiasedMF"},
    "clients": {"by": "random", "count": CLIENTS},
    "personalization": {"name": "none"},
    "train": {"local_epochs": 2, "optimizers": rates(0.1), "backend": "torch"},
}


@pytest.mark.parametrize("name", KINDS)
def test_a_stopped_run_on_three_nodes_is_the_run_on_one(name: str, tmp_path: Path) -> None:
    """Half of the clients, with several users each, take part in a round."""
    changes = {**CHANGES, "strategy": {"name": name}}
    one = go(tmp_path / "one", **changes, engine={"name": "serial", "nodes": 1}).folder
    three = stopped(tmp_path / "three", 2, **changes, engine={"name": "serial", "nodes": 3})
    go_on(three)
    assert outcome(one) == outcome(three)
    checkpoints = [read_checkpoint(folder) for folder in (one, three)]
    states = []
    for folder, checkpoint in zip((one, three), checkpoints, strict=True):
        assert checkpoint is not None
        assert checkpoint.record.round == ROUNDS
        states.append({n: value.tobytes() for n, value in checkpoint.state.arrays.items()})
        for parameter in ("item", "item_bias", "constant"):
            nodes = sorted(folder.glob(f"state/*/{parameter}.{KINDS[name]}.npy"))
            remembered = sum(np.load(path).sum(0, np.float64) for path in nodes) / CLIENTS
            held = checkpoint.state.arrays[f"strategy/client_rule/{parameter}"]
            mean = held if parameter == "constant" else held.sum(0)
            assert np.abs(mean).max() > 1e-3
            np.testing.assert_allclose(mean, remembered, atol=1e-6, err_msg=parameter)
    assert states[0] == states[1]

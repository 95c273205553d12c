"""FedAvg in closed form."""

import numpy as np
import pytest

from fedrec.errors import ConfigError
from fedrec.types import RowBlock, State, UpdateBatch
from strategies import FedAvg

PARAMS = {"item": np.zeros((3, 1), np.float32), "head": np.zeros(1, np.float32)}
# Two clients: both touch item 0, the second alone touches item 1, nobody item 2.
BATCH = UpdateBatch(
    round=1,
    client_ids=np.arange(2),
    weight=np.array([3.0, 1.0]),
    tables={
        "item": RowBlock(
            np.array([0, 1, 3]),
            np.array([0, 0, 1]),
            np.array([[1.0], [2.0], [4.0]], np.float32),
        )
    },
    dense={"head": np.array([[1.0], [3.0]], np.float32)},
)
EXPECTED = {
    ("per_row", "uniform"): ([1.5, 4.0, 0.0], 2.0),
    ("cohort", "uniform"): ([1.5, 2.0, 0.0], 2.0),
    ("sum", "uniform"): ([3.0, 4.0, 0.0], 4.0),
    ("per_row", "examples"): ([1.25, 4.0, 0.0], 1.5),
    ("cohort", "examples"): ([1.25, 1.0, 0.0], 1.5),
    ("sum", "examples"): ([3.0, 4.0, 0.0], 4.0),
}


@pytest.mark.parametrize(("options", "expected"), EXPECTED.items(), ids=str)
def test_by_hand(options: tuple[str, str], expected: tuple[list[float], float]) -> None:
    fields = dict(zip(("average", "weighting"), options, strict=True))
    strategy = FedAvg.model_validate(fields)
    _, after = strategy.apply(strategy.init(PARAMS, 8), PARAMS, strategy.reduce(BATCH))
    assert after["item"][:, 0].tolist() == expected[0]
    assert after["head"].tolist() == [expected[1]]


def test_the_step_scales() -> None:
    strategy = FedAvg(server_lr=0.5)
    _, after = strategy.apply(State(), PARAMS, strategy.reduce(BATCH))
    assert after["item"][:, 0].tolist() == [0.75, 2.0, 0.0]


@pytest.mark.parametrize("field", [{"server_lr": 0}, {"average": "median"}, {"server": 1}])
def test_bad_options(field: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        FedAvg.model_validate(field)

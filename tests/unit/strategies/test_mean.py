"""The mean of the clients' changes in closed form, and the step along it."""

import numpy as np
import pytest

from fedrec.aggregation.update import RowBlock, UpdateBatch
from fedrec.compute.context import RoundContext
from fedrec.errors import ConfigError
from fedrec.types import Params, State
from strategies import FedAvg
from strategies.aggregations.mean import Mean

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
    mean = Mean.model_validate(dict(zip(("average", "weighting"), options, strict=True)))
    after = stepped(FedAvg(aggregation=mean))
    assert after["item"][:, 0].tolist() == expected[0]
    assert after["head"].tolist() == [expected[1]]


def test_the_step_scales() -> None:
    after = stepped(FedAvg(server_optimizer={"lr": 0.5}))
    assert after["item"][:, 0].tolist() == [0.75, 2.0, 0.0]


def stepped(strategy: FedAvg) -> Params:
    context = RoundContext(0, 1, 8, 3)
    state = strategy.init(PARAMS, context)
    return strategy.apply(state, PARAMS, {0: strategy.reduce(BATCH)}, context)[1]


def test_several_groups_need_a_rule_of_their_own() -> None:
    strategy, aggregate = FedAvg(), FedAvg().reduce(BATCH)
    with pytest.raises(ConfigError, match=r"fedavg: has clients in 2 groups, but no apply of its"):
        strategy.apply(State(), PARAMS, {0: aggregate, 1: aggregate}, RoundContext(0, 1, 8, 3))

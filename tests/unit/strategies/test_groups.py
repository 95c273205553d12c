"""A strategy that sorts clients into groups must say what becomes of several groups."""

import numpy as np
import pytest

from fedrec.errors import ConfigError
from fedrec.types import RowBlock, UpdateBatch
from strategies.fedavg import FedAvg


def test_several_groups_need_a_rule_of_their_own() -> None:
    strategy, params = FedAvg(), {"item": np.zeros((3, 2), np.float32)}
    block = RowBlock(np.array([0, 1]), np.array([2]), np.ones((1, 2), np.float32))
    batch = UpdateBatch(1, np.array([0]), np.ones(1), {"item": block}, {})
    aggregate = strategy.reduce(batch)
    state = strategy.init(params, 2)
    _, after = strategy.apply_groups(state, params, {0: aggregate})
    assert after["item"][2].tolist() == [1, 1]
    with pytest.raises(ConfigError, match="FedAvg has clients in 2 groups, but no apply_groups"):
        strategy.apply_groups(state, params, {0: aggregate, 1: aggregate})

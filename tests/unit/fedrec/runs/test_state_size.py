"""The size of what clients remember is that of the values that a run begins with."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedrec.errors import ConfigError
from fedrec.personalization.additive import Additive
from fedrec.personalization.base import NoPersonalization, Personalization
from fedrec.personalization.ditto import Ditto
from fedrec.runs.state_size import check_state, state_bytes
from fedrec.types import Shard
from strategies import Composed, FedAvg, FedDyn, Scaffold
from tests.contracts.own_models import BiasedMF
from tests.planted import federations, initial_state, method_of


@settings(max_examples=20, deadline=None)
@given(
    shard=federations(several=True),
    strategy=st.sampled_from([FedAvg(), FedDyn(), Scaffold()]),
    personalization=st.sampled_from([NoPersonalization(), Additive(), Ditto()]),
    optimizer=st.sampled_from(["sgd", "adam"]),
)
def test_it_is_what_is_stored(
    shard: Shard, strategy: Composed, personalization: Personalization, optimizer: str
) -> None:
    rule = strategy.client_rule
    train = {"optimizers": {"private": {"name": optimizer}}}
    task = method_of(train, personalization, BiasedMF(), client_rule=rule)
    sizes, stored = state_bytes(task, shard), initial_state(task, shard)[1]
    assert sizes.total() == sum(values.nbytes for values in stored.values())
    assert ("the client rule" in sizes) == bool(rule.memory)
    check_state(task, shard, sizes.total())
    with pytest.raises(ConfigError, match=r"engine\.state_limit: clients would remember"):
        check_state(task, shard, sizes.total() - 1)

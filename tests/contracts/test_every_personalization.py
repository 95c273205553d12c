"""What every personalization must keep besides the contracts that ship."""

import numpy as np
import pytest
import torch

from fedrec.errors import ConfigError
from fedrec.evaluation.scorer import UserScorer
from fedrec.personalization import PERSONALIZATIONS
from fedrec.personalization.base import Personalization
from fedrec.personalization.plgc.plgc import PLGC
from fedrec.plugins import table
from fedrec.types import ParamSpec
from tests.contracts.own_models import SmallNet
from tests.planted import method_of, rates, shard_of, train

SHARD = shard_of(9, [[0, 1, 4], [2, 3], [5], [1, 7]], [2, 1, 1])
FORMS: list[Personalization] = [
    *[personalization() for personalization in PERSONALIZATIONS.values()],
    PLGC(branch="similarity", mode="decoupled", per="row", history_cap=1, extra_rows=2),
    PLGC(branch="table", view="single", decorrelation=0.1, persistence=1.0, extra_rows=2),
]


@pytest.mark.parametrize("form", FORMS, ids=repr)
def test_it_works_with_a_model_that_is_computed_client_by_client(form: Personalization) -> None:
    method = method_of({"optimizers": rates(0.05), "batch_size": 2}, form, SmallNet())
    params, updates, local = train(method, SHARD, rounds=2)
    assert set(updates[0].tables) | set(updates[0].dense) == set(method.shared_specs())
    views = UserScorer(method, SHARD, params, local)(np.array([0, 1, 3]))
    assert set(views) == set(form.views)
    assert all(bool(torch.isfinite(scores).all()) for scores in views.values())


def test_a_name_that_two_parts_use_is_an_error() -> None:
    class Twice(Personalization):
        def state(self, dim: int) -> dict[str, ParamSpec]:
            return {"user": ParamSpec("private", "user", (dim,))}

    with pytest.raises(ConfigError, match="both declare 'user'"):
        method_of({}, Twice()).specs()


def test_the_table_is_what_config_finds() -> None:
    assert table("personalization") == PERSONALIZATIONS

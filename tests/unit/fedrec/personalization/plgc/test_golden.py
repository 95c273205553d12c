"""The golden step: two users, four items, d = 2, every number derived by hand.

E = [[1,0],[0,1],[1,1],[-1,1]], p1 = (1,0), p2 = (0,1), no centring, beta 2, tau 3, lambda 1/2.
I1 = {0,2}, negatives of user 1: item 3 twice; I2 = {1,2}, negatives of user 2: item 0 twice.
The rows normalised are (1,0), (0,1), (.7071,.7071), (-.7071,.7071), so the kernel is 1/2 between
items 0 and 2 and between 1 and 2, and 0 elsewhere (negative cosines are cut, the diagonal is 0).
User 1: l(0) = l(2) = .5/sqrt 2 = .353553, l(3) = 0; s = p.e + .5*3*l = (1.530330, 1.530330, -1).
"""

import numpy as np
import torch

from fedrec.aggregation.update import UpdateBatch
from fedrec.models.mf import MatrixFactorization
from fedrec.personalization.base import FrozenItems
from fedrec.personalization.plgc.decorrelation import single_view
from fedrec.personalization.plgc.plgc import PLGC
from fedrec.ragged import Ragged
from fedrec.training.draws import Draws, positives_of_clients
from fedrec.training.local_sgd import train_chunk
from fedrec.training.plan import TrainingPlan, plan_training
from fedrec.training.settings import Train
from fedrec.training.task import ClientTask
from fedrec.types import Params, Shard
from tests.planted import rates, shard_of

TABLE = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [-1.0, 1.0]])
USERS = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
SHARD = shard_of(4, [[0, 2], [1, 2]])


def golden_plan(task: ClientTask) -> TrainingPlan:
    """Pairs (0,0) (0,2) (0,3) | (1,0) (1,1) (1,2); the local rows are the pairs."""
    nothing = np.zeros(0, np.int64)
    draws = Draws(
        users=np.array([0, 0, 1, 1]),
        items=np.array([0, 2, 1, 2]),
        negatives=np.array([[3], [3], [0], [0]]),
        step=np.zeros(4, np.int64),
        random=Ragged(np.zeros(3, np.int64), nothing),
    )
    plan = plan_training(task, SHARD, 1, draws=[draws])
    assert plan.rows.values.tolist() == [0, 2, 3, 0, 1, 2]
    return plan


def golden_step(share: torch.Tensor, balance: str = "alignment") -> tuple[UpdateBatch, Params]:
    plgc = PLGC.model_validate(
        {"branch": "similarity", "balance": balance, "tau": 3.0, "ema": 0.0, "centre": False}
    )
    # The derivation divides the user's gradient by its two positives: .1 / 2.
    train = Train.model_validate(
        {"negatives": 1, "optimizers": rates(1.0, {"name": "sgd", "lr": 0.05})}
    )
    task = ClientTask(MatrixFactorization(embedding_dim=2), plgc, train, 0)
    frozen_items = anchor_of(plgc, SHARD)
    return train_chunk(
        task, golden_plan(task), frozen_items, {"item": TABLE}, {"user": USERS, "lambda": share}
    )


def golden_share(balance: str = "alignment") -> torch.Tensor:
    _, private = golden_step(torch.full((2,), 0.5), balance)
    return torch.tensor(private["lambda"])


def anchor_of(plgc: PLGC, shard: Shard) -> FrozenItems:
    return FrozenItems(
        TABLE,
        plgc.unit_item_vectors(TABLE),
        shard.train,
        positives_of_clients(shard),
        shard.client_of_user(),
    )


def test_the_step() -> None:
    update, private = golden_step(torch.full((2,), 0.5))
    a, b, c = 0.177945, 0.537883, 1.259120
    rows = [[a, 0], [a, 0], [-b, 0], [0, -c], [0, a], [0, a]]
    torch.testing.assert_close(
        torch.tensor(update.tables["item"].values), torch.tensor(rows), atol=2e-6, rtol=0
    )
    users = [[1.044689, -0.017997], [-0.054059, 1.017794]]
    torch.testing.assert_close(
        torch.tensor(private["user"]), torch.tensor(users), atol=2e-6, rtol=0
    )
    loss = [1.018420, 2.378025]
    np.testing.assert_allclose(update.metrics["loss"], loss, atol=2e-6, rtol=0)


def test_the_weights_of_the_next_step() -> None:
    share = golden_share()
    # A_l = 1/9, A_g = 17/45 and A_l = 2/27, A_g = 5/36.
    expected = torch.tensor([(1 / 9) / (1 / 9 + 17 / 45), (2 / 27) / (2 / 27 + 5 / 36)])
    torch.testing.assert_close(share, expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(expected, torch.tensor([0.227273, 0.347826]), atol=1e-6, rtol=0)


def test_the_trace_weights() -> None:
    share = golden_share("trace")
    torch.testing.assert_close(share, torch.tensor([0.047619, 0.111111]), atol=1e-6, rtol=0)


def test_the_loss_with_the_new_weights() -> None:
    again, _ = golden_step(golden_share())
    loss = [1.134377, 2.242338]
    np.testing.assert_allclose(again.metrics["loss"], loss, atol=2e-6, rtol=0)


def test_decorrelation_of_the_four_rows() -> None:
    torch.testing.assert_close(single_view(TABLE), torch.tensor(0.522233**2), atol=1e-6, rtol=0)

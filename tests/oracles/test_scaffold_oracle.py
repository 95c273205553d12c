"""SCAFFOLD as the paper writes it, on whole tables, against ours on touched rows."""

from dataclasses import replace

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from fedrec.compute.context import RoundContext
from fedrec.training.clients import train_clients
from fedrec.training.plan import plan_training
from fedrec.training.task import ClientTask
from fedrec.types import FloatArray, IntArray, Params, Shard
from strategies import Scaffold
from tests.planted import federations, initial_state, method_of, places, rates, split_state

RATE, LOCAL_RATE = 0.2, 0.1


def _client_round(
    task: ClientTask,
    shard: Shard,
    row: int,
    round: int,
    table: FloatArray,
    control: FloatArray,
    own: FloatArray,
    users: FloatArray,
    factor: float,
) -> tuple[FloatArray, FloatArray, int]:
    """One client's round on a copy of the whole table: y, its users' vectors, its steps.

    y <- y - rate * (g(y) - c_u + c) for every row of the table. The gradient of the summed binary
    cross-entropy of matrix factorisation by hand: (sigmoid(s) - label) times the other vector.
    """
    alone = shard.take(np.array([row]))
    work = plan_training(task, alone, round)
    y, p, steps = table.copy(), users.copy(), 0
    for epoch in work.epochs:
        draws = epoch.draws
        for number in range(len(epoch.steps)):
            gy, gp = np.zeros_like(y), np.zeros_like(p)
            for at in np.flatnonzero(draws.step == number):
                u, items = int(draws.users[at]), [draws.items[at], *draws.negatives[at]]
                for i, label in zip(items, [1.0, *[0.0] * len(items)], strict=False):
                    slope = 1 / (1 + np.exp(-(p[u] @ y[i]))) - label
                    gy[i] += slope * p[u]
                    gp[u] += slope * y[i]
            y = y - factor * RATE * (gy - own + control)
            p = p - factor * LOCAL_RATE * gp
            steps += 1
    return y, p, steps


@settings(max_examples=25, deadline=None)
@given(
    federations(several=True),
    st.integers(0, 2**31),
    st.sampled_from([2, "full"]),
    st.sampled_from([None, 4]),
)
def test_sparse_scaffold_is_the_papers(
    shard: Shard, seed: int, batch: int | str, warmup: int | None
) -> None:
    """Three rounds with changing cohorts: same table, same c, same c_u, to float32's rounding."""
    strategy = Scaffold(server_optimizer={"lr": 0.7})
    task = method_of(
        {
            "batch_size": batch,
            "local_epochs": 2,
            "schedule": "constant" if warmup is None else {"name": "wsd", "warmup": warmup},
            "optimizers": rates(RATE, {"name": "sgd", "lr": LOCAL_RATE}),
        },
        dtype="float64",
        client_rule=strategy.client_rule,
    )
    params, local = initial_state(task, shard)
    context = RoundContext(0, 0, shard.n_clients, shard.n_items)
    state = strategy.init(params, context)
    local = {n: v.copy() if v.dtype == np.int32 else v.astype(float) for n, v in local.items()}
    table, control = params["item"].astype(float), np.zeros(params["item"].shape)
    own = np.zeros((shard.n_clients, *table.shape))
    users = local["user"].copy()
    rng = np.random.default_rng(seed)
    for round in (1, 2, 3):
        cohort = np.sort(rng.choice(shard.n_clients, rng.integers(1, shard.n_clients + 1), False))
        context = replace(context, round=round, members=cohort)
        sent = strategy.broadcast(state, params, cohort, context).shared
        update, after = train_clients(
            task, shard.take(cohort), sent, split_state(task, shard, local, cohort), round, 2
        )
        _put_back(task, shard, local, cohort, after)
        state, params = strategy.apply(state, params, {0: strategy.reduce(update)}, context)

        factor = 1.0 if warmup is None else round / warmup
        moved, changed = np.zeros_like(table), np.zeros_like(table)
        for row in cohort.tolist():
            of_client = slice(*shard.client_offsets[row : row + 2])
            y, users[of_client], steps = _client_round(
                task, shard, row, round, table, control, own[row], users[of_client], factor
            )
            new = own[row] - control + (table - y) / (steps * factor * RATE)
            moved += y - table
            changed += new - own[row]
            own[row] = new
        table = (table + 0.7 * moved / len(cohort)).astype(np.float32).astype(float)
        control = (control + changed / shard.n_clients).astype(np.float32).astype(float)

        np.testing.assert_allclose(params["item"], table, atol=2e-6)
        np.testing.assert_allclose(state.arrays["client_rule/item"], control, atol=2e-6)
        np.testing.assert_allclose(local["user"], users, atol=2e-6)
        np.testing.assert_allclose(_whole(task, shard, local, table.shape), own, atol=1e-5)


def _put_back(
    task: ClientTask, shard: Shard, local: dict[str, FloatArray], cohort: IntArray, after: Params
) -> None:
    index = {name: np.arange(len(value)) for name, value in local.items()}
    at = split_state(task, shard, index, cohort)
    for name, value in after.items():
        local[name][at[name]] = value


def _whole(task: ClientTask, shard: Shard, local: Params, shape: tuple[int, ...]) -> FloatArray:
    """The remembered rows of every client, as whole tables."""
    room, dense = places(task, shard), np.zeros((shard.n_clients, *shape))
    for row in range(shard.n_clients):
        at = room.row(row)
        items = local["seen/items"][at]
        dense[row][items[items >= 0]] = local["item/client_control"][at][items >= 0]
    return dense

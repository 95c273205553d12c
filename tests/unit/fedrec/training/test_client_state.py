"""What clients remember of the rows they touched: there is room for it, and it comes back."""

import itertools
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedrec.personalization.plgc.plgc import PLGC
from fedrec.training.client_rule import SEEN_ITEMS, ClientRule, ClientUpdate, ParamView
from fedrec.training.client_state import ClientState
from fedrec.training.clients import train_clients
from fedrec.training.draws import capacity, positives_of_clients, remembered_items
from fedrec.training.plan import TrainingPlan, plan_training
from fedrec.training.task import ClientTask
from fedrec.types import FloatArray, IntArray, Params, Shard
from tests.contracts.own_models import BiasedMF
from tests.planted import (
    federations,
    initial_state,
    method_of,
    places,
    rates,
    shard_of,
    split_state,
)

TRAINS = st.fixed_dictionaries(
    {
        "negatives": st.integers(1, 5),
        "local_epochs": st.integers(1, 3),
        "batch_size": st.sampled_from(["full", 2]),
        "optimizers": st.builds(rates, st.just(0.1)),
    }
)


class Diary(ClientRule):
    """Remembers where each row stood at the end of the last round it was touched in."""

    memory: ClassVar[tuple[str, ...]] = ("end",)

    def finalize(self, view: ParamView) -> ClientUpdate:
        return ClientUpdate(view.value - view.start, memory={"end": view.value})


class LastingDiary(Diary):
    """Remembers it for good, of train items."""

    remembers: ClassVar[Literal["seen", "positives"]] = "positives"


def touched_in(work: TrainingPlan) -> list[set[int]]:
    """The items that each client touches."""
    item_sets: list[set[int]] = [set() for _ in range(work.shard.n_clients)]
    for epoch in work.epochs:
        for step in epoch.steps:
            for client, item in zip(step.pairs.clients, step.pairs.items, strict=True):
                item_sets[int(client)].add(int(item))
    return item_sets


def remembered(task: ClientTask, shard: Shard, local: Params, name: str) -> list[dict[int, bytes]]:
    """Per client, what it remembers of each item."""
    room_of = places(task, shard)
    rows = []
    for row in range(shard.n_clients):
        at = room_of.row(row)
        items, values = local[SEEN_ITEMS][at], local[name][at]
        used = items >= 0
        assert (np.diff(items[used]) > 0).all()
        assert not values[~used].any()
        rows.append({int(i): v.tobytes() for i, v in zip(items[used], values[used], strict=True)})
    return rows


# Room ------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(
    shard=federations(several=True),
    train=TRAINS,
    extra=st.integers(0, 4),
    round=st.integers(1, 99),
)
def test_there_is_room_for_all_that_a_client_may_touch(
    shard: Shard, train: dict[str, Any], extra: int, round: int
) -> None:
    task = method_of(train, PLGC(extra_rows=extra))
    offsets = capacity(shard, task)
    work = plan_training(task, shard, round)
    rooms = np.diff(offsets)
    assert (rooms >= [len(items) for items in touched_in(work)]).all()
    assert (rooms <= shard.n_items).all()
    # Nobody's room depends on the company.
    for row in range(shard.n_clients):
        assert capacity(shard.take(np.array([row])), task)[-1] == rooms[row]


def test_the_room_is_that_of_the_positives_and_all_draws() -> None:
    shard = shard_of(100, [[1, 2, 3], [4], []], [2, 1])
    task = method_of({"negatives": 4, "local_epochs": 2})
    more = method_of({"negatives": 4, "local_epochs": 2}, PLGC(extra_rows=5))
    assert capacity(shard, task).tolist() == [0, 36, 36]
    assert capacity(shard, more).tolist() == [0, 56, 56]
    small = shard_of(10, [[1, 2, 3], [4], []], [2, 1])
    assert capacity(small, task).tolist() == [0, 10, 10]


@settings(max_examples=30, deadline=None)
@given(shard=federations(several=True), data=st.data())
def test_the_empty_room_is_left_out(shard: Shard, data: st.DataObject) -> None:
    task = method_of(client_rule=Diary())
    offsets = capacity(shard, task)
    items, rows = np.full(offsets[-1], -1, np.int32), []
    for start, end in itertools.pairwise(offsets):
        some = st.sets(st.integers(0, shard.n_items - 1), max_size=int(end - start))
        rows.append(sorted(data.draw(some)))
        items[start : start + len(rows[-1])] = rows[-1]
    seen = remembered_items(task, shard, {SEEN_ITEMS: items})
    assert seen is not None
    assert [seen.row(k).tolist() for k in range(shard.n_clients)] == rows
    assert remembered_items(task, shard, {}) is None


# There and back --------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(
    shard=federations(several=True),
    train=TRAINS,
    seed=st.integers(0, 99),
    idle=st.integers(0, 2),
)
def test_what_is_remembered_is_recalled(
    shard: Shard, train: dict[str, Any], seed: int, idle: int
) -> None:
    """Rounds with changing cohorts: the rows of a client's last round, their bits, nothing else."""
    shard = with_idle(shard, idle)
    task = method_of(train, model=BiasedMF(), client_rule=Diary())
    params, local = initial_state(task, shard)
    expected: dict[str, list[dict[int, FloatArray]]] = {
        name: [{} for _ in range(shard.n_clients)] for name in ("item", "item_bias")
    }
    rng = np.random.default_rng(seed)
    for number in (1, 2, 3):
        rows = np.sort(rng.permutation(shard.n_clients)[: rng.integers(1, shard.n_clients + 1)])
        part, private = shard.take(rows), split_state(task, shard, local, rows)
        work = work_of(task, part, private, number)
        recalled(task, part, work, params, private)
        update, after = train_clients(task, part, params, private, number)
        local = put_back(task, shard, local, rows, after)
        for name, table in expected.items():
            block = update.tables[name]
            for row, (client, items) in enumerate(zip(rows, touched_in(work), strict=True)):
                if not items:
                    continue
                at = slice(block.offsets[row], block.offsets[row + 1])
                ends = params[name][block.ids[at]] + block.values[at]
                table[client] = {
                    int(i): v for i, v in zip(block.ids[at], ends, strict=True) if int(i) in items
                }
            recorded = remembered(task, shard, local, f"{name}/end")
            assert [set(row) for row in recorded] == [set(row) for row in table]
            for ours, expected_row in zip(recorded, table, strict=True):
                for item, raw in ours.items():
                    near = np.frombuffer(raw, np.float32)
                    np.testing.assert_allclose(near, np.ravel(expected_row[item]), atol=1e-6)


@settings(max_examples=25, deadline=None)
@given(shard=federations(several=True), train=TRAINS, seed=st.integers(0, 99))
def test_what_is_remembered_of_train_items_lasts(
    shard: Shard, train: dict[str, Any], seed: int
) -> None:
    """Whoever stays away for some rounds forgets nothing; of other items nothing is remembered."""
    task = method_of(train, model=BiasedMF(), client_rule=LastingDiary())
    params, local = initial_state(task, shard)
    assert SEEN_ITEMS not in local
    positives = positives_of_clients(shard)
    rng = np.random.default_rng(seed)
    for number in (1, 2, 3):
        rows = np.sort(rng.permutation(shard.n_clients)[: rng.integers(1, shard.n_clients + 1)])
        before, (part, private) = local, (shard.take(rows), split_state(task, shard, local, rows))
        update, after = train_clients(task, part, params, private, number)
        local = put_back(task, shard, local, rows, after)
        for name, block in update.tables.items():
            expected = before[f"{name}/end"].copy()
            for row, client in enumerate(rows):
                at = slice(block.offsets[row], block.offsets[row + 1])
                ends = dict(
                    zip(block.ids[at], params[name][block.ids[at]] + block.values[at], strict=True)
                )
                for place, item in zip(
                    positives.positions(np.array([client])), positives.row(client), strict=True
                ):
                    expected[place] = ends[item]
            np.testing.assert_allclose(local[f"{name}/end"], expected, atol=1e-6)


def with_idle(shard: Shard, count: int) -> Shard:
    """The shard with some more clients, of one user each, that hold nothing to train on."""
    rows = [shard.train.row(k).tolist() for k in range(shard.n_users)]
    sizes = np.diff(shard.client_offsets).tolist()
    return shard_of(shard.n_items, rows + [[]] * count, sizes + [1] * count)


def work_of(task: ClientTask, shard: Shard, local: Params, round: int) -> TrainingPlan:
    return plan_training(task, shard, round, remembered=remembered_items(task, shard, local))


def tensors(params: Params) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(np.asarray(value)) for name, value in params.items()}


def recalled(
    task: ClientTask, shard: Shard, work: TrainingPlan, params: Params, local: Params
) -> None:
    """On its slots a client finds what it remembers, and 0 on the others."""
    memory = ClientState(task, work, tensors(params), tensors(local)).memory
    for name in ("item", "item_bias"):
        kept = remembered(task, shard, local, f"{name}/end")
        own = memory[f"{name}/end"].numpy()
        for row in range(shard.n_clients):
            for at in range(work.rows.offsets[row], work.rows.offsets[row + 1]):
                item = int(work.rows.values[at])
                nothing = np.zeros(own.shape[1:], np.float32).tobytes()
                assert own[at].tobytes() == kept[row].get(item, nothing)
    assert memory["constant/end"].numpy().tobytes() == local["constant/end"].tobytes()


def put_back(
    task: ClientTask, shard: Shard, local: Params, rows: IntArray, after: Params
) -> dict[str, FloatArray]:
    """All local parameters, with those of some clients replaced."""
    index = {name: np.arange(len(value)) for name, value in local.items()}
    at = split_state(task, shard, index, rows)
    copied = {name: value.copy() for name, value in local.items()}
    for name, value in after.items():
        copied[name][at[name]] = value
    return copied

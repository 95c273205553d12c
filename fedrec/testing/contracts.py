"""The contracts: what a plug-in of each kind must keep."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeAlias
from unittest import SkipTest

import numpy as np
import torch

from fedrec.aggregation.returned import (
    Strategy,
    checked_apply,
    checked_broadcast,
    checked_groups,
    checked_init,
    checked_sum,
    merged,
)
from fedrec.aggregation.update import Aggregate
from fedrec.baselines.base import Baseline
from fedrec.data.base import DataSet
from fedrec.data.catalogue import Catalogue
from fedrec.data.split import check_interactions
from fedrec.data.tabular import Frame
from fedrec.devices.base import Devices
from fedrec.evaluation.evaluate import per_user_values
from fedrec.evaluation.metrics import ExposureMetric, Metric, TargetMetric
from fedrec.features.base import Encoder
from fedrec.models.base import Model
from fedrec.models.module import ModelParams
from fedrec.personalization.base import Personalization
from fedrec.plugins import Plugin
from fedrec.ragged import Ragged, offsets_of
from fedrec.testing.devices import DEVICES_CONTRACTS
from fedrec.testing.encoders import ENCODER_CONTRACTS
from fedrec.testing.trial import Trial, as_bytes, require, small_split
from fedrec.training.client_rule import client_rule_of
from fedrec.training.draws import Layout
from fedrec.types import FloatArray, IntArray, Interactions, Params, Split, State

Contract: TypeAlias = Callable[[Any], None]
"""Raises an error if a plug-in breaks it, `unittest.SkipTest` if it does not apply."""

CLIENTS = np.arange(10)
N_ITEMS = 100


# What clients compute: models, personalizations and the rules of strategies.


def scores_have_their_shape(plugin: Any) -> None:
    """Score every pair and the whole catalogue with finite numbers, in each view."""
    trial = Trial.of(plugin)
    for arrays in trial.results().values():
        broken = [name for name, values in arrays.items() if not np.isfinite(values).all()]
        require(not broken, f"{broken} are not finite")


def every_value_is_trained(plugin: Any) -> None:
    """Train every trainable parameter, a private one for every client, whatever its axis."""
    trial = Trial.of(plugin)
    results = trial.results()
    for name, spec in trial.task.specs().items():
        if spec.scope == "shared":
            moves = any(arrays[name].any() for arrays in results.values())
            require(moves, f"no client trains '{name}'; use it in score")
        for row, (client, arrays) in enumerate(results.items()):
            if spec.scope == "private" and spec.trainable:
                before = trial.take(np.array([row])).private[name]
                change = (arrays[f"private {name}"] - before).reshape(len(before), -1)
                still = int((~change.any(1)).sum())
                what = f"{still} of {len(change)} values of '{name}' of client {client} stay"
                require(not still, f"{what}; train all, or declare trainable=False")


def clients_are_computed_as_if_alone(plugin: Any) -> None:
    """Compute a client alike in chunks of any size, in any order and any company."""
    trial = Trial.of(plugin)
    expected, rows = trial.results(), np.arange(trial.shard.n_clients)
    for together in (1, 3):
        trial.compare(expected, trial.results(together), f"in chunks of {together}")
    trial.compare(expected, trial.take(rows[::-1].copy()).results(), "in another order")
    for row in (0, 3):
        trial.compare(expected, trial.take(rows[[row]]).results(), "without other clients")


def private_values_are_the_clients_own(plugin: Any) -> None:
    """Use a client's own private values, and nobody else's."""
    trial = Trial.of(plugin)
    specs = {n: s for n, s in trial.task.specs().items() if s.scope == "private"}
    if not specs:
        raise SkipTest("it has no private parameters")
    changed = np.arange(0, trial.shard.n_clients, 2)
    at = Layout.of(trial.task, trial.shard).positions(changed)
    private = {name: np.array(value) for name, value in trial.private.items()}
    for name, spec in specs.items():
        rows = at[str(spec.axis)]
        private[name][rows] += np.random.default_rng(0).normal(1, 0.1, (len(rows), *spec.shape))
    before, after = trial.results(), replace(trial, private=private).results()
    for row, client in enumerate(before):
        if row in changed:
            same = np.array_equal(before[client]["scores mixed"], after[client]["scores mixed"])
            require(not same, f"the ranking of client {client} does not use its private values")
        else:
            trial.compare({client: before[client]}, after, "with other private values of others")


def private_values_are_not_sent(plugin: Any) -> None:
    """Send no private parameter."""
    task = Trial.of(plugin).task
    both = sorted(set(task.stored_specs()) & set(task.travels()))
    require(not both, f"{both} stay on the client, and are sent; choose other names")


def arguments_stay(plugin: Any) -> None:
    """Change no argument of training or ranking, and give the same twice."""
    trial = Trial.of(plugin)
    before = as_bytes(trial)
    results = as_bytes(trial.results())
    require(as_bytes(trial) == before, "training or ranking changes its arguments")
    require(as_bytes(trial.results()) == results, "the second time the result has other bits")


def together_is_one_by_one(plugin: Any) -> None:
    """Compute many clients at once as a loop over clients does (float64, 1e-10)."""
    trial = Trial.of(plugin, "float64")
    model, kind = trial.task.model, type(trial.task.model)
    if model.execution == "loop":
        raise SkipTest("its clients are computed one by one")
    dense = {n for n, s in trial.task.specs().items() if s.axis in (None, "client")}

    def as_rows(method: str) -> Callable[..., torch.Tensor]:
        def call(self: Model, params: ModelParams, batch: Any, *vectors: Any) -> torch.Tensor:
            n = len(batch if isinstance(batch, torch.Tensor) else batch.items)
            rows = {name: params[name].expand(n, *params[name].shape) for name in dense & {*params}}
            result: torch.Tensor = getattr(kind, method)(
                self, params.replaced(rows), batch, *vectors
            )
            return result

        return call

    flat = {"score": as_rows("score"), "rank": Model.rank}
    for method in ("item_vectors", "loss"):
        if model.overrides(method):
            flat[method] = as_rows(method)
    loop = trial.with_model(execution="loop", **flat if model.execution == "flat" else {})
    trial.compare(loop.results(), trial.results(), f"execution = '{model.execution}'")


def ranking_is_scoring(plugin: Any) -> None:
    """Rank the catalogue by the scores of its pairs (float64, 1e-10)."""
    trial = Trial.of(plugin, "float64")
    if not plugin.overrides("rank"):
        raise SkipTest("it ranks by scoring pairs")
    pairs = trial.with_model(rank=Model.rank)
    trial.compare(pairs.results(), trial.results(), "by rank")


# Strategies: how updates are summed and applied.


def parameters_keep_their_form(strategy: Strategy) -> None:
    """Return a state for files, and parameters of their names and shapes, float32 and finite."""
    state, params = _play(strategy, [CLIENTS])
    context, rule = Trial.of(strategy).context(3), client_rule_of(strategy)
    checked_groups(strategy, state, CLIENTS)
    checked_broadcast(strategy, rule, state, params, CLIENTS, context)


def nodes_host_any_clients(strategy: Strategy) -> None:
    """Sum alike whichever nodes host which clients, and in whatever order they answer."""
    expected = as_bytes(_play(strategy, [CLIENTS]))
    for cuts in ([5], [1, 2, 6]):
        nodes = np.split(np.random.default_rng(0).permutation(CLIENTS), cuts)
        result = as_bytes(_play(strategy, nodes))
        require(result == expected, f"on {len(nodes)} nodes the result has other bits")


def a_checkpoint_keeps_the_state(strategy: Strategy) -> None:
    """Go on with the same bits where settings, state and parameters are all that is left."""
    resumed = as_bytes(_play(strategy, [CLIENTS], resumed=True))
    same = resumed == as_bytes(_play(strategy, [CLIENTS]))
    require(same, "a new instance goes on with other bits; keep what must last in the State")


def applying_changes_no_argument(strategy: Strategy) -> None:
    """Change no argument while reducing, merging and applying."""
    trial, (state, params) = Trial.of(strategy), _play(strategy, [CLIENTS])
    update, _ = trial.train(1)
    arguments = [update, state, params, strategy.reduce(update), strategy.reduce(update)]
    before = as_bytes(arguments)
    strategy.reduce(update)
    strategy.merge(*arguments[-2:])
    group = int(strategy.groups(state, CLIENTS[:1])[0])
    strategy.apply(state, params, {group: arguments[-1]}, trial.context(3))
    require(as_bytes(arguments) == before, "reduce, merge or apply changes its arguments")


# What needs no clients: data sets, metrics and centralised baselines.


def interactions_fit_together(data: DataSet) -> None:
    """Index users and items by their raw ids, with a value of each column for each."""
    check_interactions(_loaded(data))


def loading_twice_gives_the_same(data: DataSet) -> None:
    """Load the same data twice, with the same fingerprint."""
    copied = data.model_copy()
    require(as_bytes(_loaded(data)) == as_bytes(copied.load()), "load returns other data")
    prints = {data.fingerprint(), data.fingerprint(), copied.fingerprint()}
    require(len(prints) == 1, f"fingerprint: {sorted(prints)}, expected the same each time")


def perfect_is_best(metric: Metric) -> None:
    """Give the perfect ranking the best value and the worst ranking the worst."""
    if isinstance(metric, ExposureMetric):
        even, single = np.full(N_ITEMS, 3), np.eye(1, N_ITEMS, dtype=np.int64)[0]
        differ = metric.value(even) != metric.value(single)
        require(differ, "value: equal exposure has the value of a single item's")
        return
    counts = [1, 3, 2, 5]
    best = _per_user(metric, [np.arange(n) + 1 for n in counts])
    worst = _per_user(metric, [N_ITEMS - np.arange(n)[::-1] for n in counts])
    other = _per_user(metric, [np.arange(n) * 7 + 2 for n in counts])
    low, high = np.minimum(worst, best), np.maximum(worst, best)
    require((low < high).all(), f"per_user: {best} for the perfect ranking, {worst} for the worst")
    inside = ((low <= other) & (other <= high)).all()
    require(inside, f"per_user: {other} is not between the worst and the best, {low} and {high}")


def values_keep_their_bounds(metric: Metric) -> None:
    """Give every ranking a value within the metric's bounds."""
    rng, (low, high) = np.random.default_rng(0), metric.bounds
    if isinstance(metric, ExposureMetric):
        exposures = rng.poisson(10 ** rng.uniform(-3, 1, (20, 1)), (20, N_ITEMS))
        exposures += np.eye(20, N_ITEMS, dtype=np.int64)
        values = np.array([metric.value(each) for each in exposures])
    else:
        rows = [_ranks(rng, 1 + n % 7) for n in range(200)]
        rows += [np.arange(n) + 1 for n in (1, 2, 20, N_ITEMS)] + [np.array([N_ITEMS])]
        values = _per_user(metric, rows)
    outside = values[~((low <= values) & (values <= high))]
    expected = f"expected {low:g} to {high:g}, or other bounds of the class"
    require(not len(outside), f"{outside[:3]} came; {expected}")


def nothing_depends_on_order(metric: Metric) -> None:
    """Depend on no order: neither of users nor of the items that are exposed."""
    rng = np.random.default_rng(0)
    if isinstance(metric, ExposureMetric):
        exposure = rng.integers(0, 9, N_ITEMS)
        one, other = metric.value(exposure), metric.value(rng.permutation(exposure))
        require(one == other, f"value: {one}, and {other} with the items in another order")
        return
    rows = [_ranks(rng, 1 + n % 5) for n in range(40)]
    expected, backwards = _per_user(metric, rows), _per_user(metric, rows[::-1])[::-1]
    alone = np.concatenate([_per_user(metric, [row]) for row in rows])
    for name, values in (("in another order", backwards), ("alone", alone)):
        require(np.array_equal(values, expected), f"per_user: users {name} have other values")


def scores_are_finite(baseline: Baseline) -> None:
    """Score users with finite float32 numbers, one for each item."""
    split, catalogue = _split_with_content()
    scores = baseline.fit(split, 0, catalogue)(np.array([3, 0, 7]))
    form = (scores.dtype.name, scores.shape)
    require(form == ("float32", (3, split.n_items)), f"the scores of 3 users are {form}")
    require(np.isfinite(scores).all(), "a score is not finite")


def only_train_items_are_read(baseline: Baseline) -> None:
    """Read train items alone, and score a user alike in any company."""
    (split, catalogue), users = _split_with_content(), np.arange(24)
    before, scorer = as_bytes(split), baseline.fit(split, 0, catalogue)
    empty = Ragged(np.zeros(25, np.int64), np.zeros(0, np.int64))
    train_only = replace(split, valid=empty, test=empty)
    expected = scorer(users)
    require(as_bytes(split) == before, "fit changes its arguments")
    for name, scores in {
        "without held-out items": baseline.fit(train_only, 0, catalogue)(users),
        "of users in another order": scorer(users[::-1].copy())[::-1],
        "of users alone": np.concatenate([scorer(users[[user]]) for user in users]),
    }.items():
        same = np.allclose(scores, expected, rtol=1e-5, atol=1e-6)
        require(same, f"the scores {name} are others")


def _split_with_content() -> tuple[Split, Catalogue]:
    """Return the small split with a column ``genres`` of the items, and with a feature of them."""
    split = small_split()
    genres = np.array(["drama", "comedy|drama", "comedy", ""] * (split.n_items // 4 + 1), object)
    split = replace(split, item_columns={"genres": genres[: split.n_items]})
    vectors = np.random.default_rng(0).normal(size=(split.n_items, 5)).astype(np.float32)
    return split, Catalogue.of(split, {"vectors": vectors})


CLIENT_RULE_CONTRACTS = (
    clients_are_computed_as_if_alone,
    private_values_are_not_sent,
    arguments_stay,
    together_is_one_by_one,
)
PERSONALIZATION_CONTRACTS = (
    scores_have_their_shape,
    every_value_is_trained,
    private_values_are_the_clients_own,
    *CLIENT_RULE_CONTRACTS,
)
STRATEGY_CONTRACTS = (
    parameters_keep_their_form,
    nodes_host_any_clients,
    a_checkpoint_keeps_the_state,
    applying_changes_no_argument,
)
CONTRACTS: Mapping[type[Plugin], Sequence[Contract]] = {
    Model: (*PERSONALIZATION_CONTRACTS, ranking_is_scoring),
    Personalization: PERSONALIZATION_CONTRACTS,
    DataSet: (interactions_fit_together, loading_twice_gives_the_same),
    Metric: (perfect_is_best, values_keep_their_bounds, nothing_depends_on_order),
    Baseline: (scores_are_finite, only_train_items_are_read),
    Encoder: ENCODER_CONTRACTS,
    Devices: DEVICES_CONTRACTS,
}


def _loaded(data: DataSet) -> Interactions:
    if isinstance(data, Frame) and not data.content:
        raise SkipTest("its rows are given from Python; check what Frame.of returns")
    return data.load()


def _ranks(rng: np.random.Generator, n: int) -> IntArray:
    """Return n sorted ranks from 1."""
    return np.sort(rng.permutation(N_ITEMS)[:n]) + 1


def _per_user(metric: Metric, rows: Sequence[IntArray]) -> FloatArray:
    ranks = Ragged(offsets_of(np.array([len(row) for row in rows])), np.concatenate(rows))
    users, is_of_targets = np.arange(len(rows)), isinstance(metric, TargetMetric)
    return per_user_values(ranks, [metric], users, "target" if is_of_targets else "held-out")[:, 0]


def _play(
    strategy: Strategy, nodes: Sequence[IntArray], resumed: bool = False
) -> tuple[State, Params]:
    """Return the state and the parameters after two rounds, as the server makes them.

    Args:
        strategy: The strategy.
        nodes: Per node, int64 [c], the clients that it hosts; the answers are merged in order.
        resumed: Whether each round has a new instance of the strategy, as after a stop.
    """
    trial = Trial.of(strategy)
    params = trial.task.initial_globals(trial.shard.n_items)
    state, rule = checked_init(strategy, params, trial.context(0)), client_rule_of(strategy)
    for number in (1, 2):
        context, aggregates = trial.context(number), dict[int, Aggregate]()
        down = checked_broadcast(strategy, rule, state, params, CLIENTS, context)
        trial = replace(trial, down=down)
        for clients in nodes:
            groups = checked_groups(strategy, state, clients)
            for group in np.unique(groups).tolist():
                some = trial.take(clients[groups == group])
                update, _ = some.train(number)
                reduced = checked_sum(strategy, "reduce", some.shard.n_clients, update)
                aggregates[group] = merged(strategy, aggregates.get(group), reduced)
        state, params = checked_apply(strategy, state, params, aggregates, context)
        strategy = type(strategy)(**dict(strategy)) if resumed else strategy
    return state, params

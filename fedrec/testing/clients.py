"""Contracts of what clients compute: of models, personalizations and the rules of strategies."""

from dataclasses import replace
from typing import Any
from unittest import SkipTest

import numpy as np
import torch

from fedrec.compute.batch import Tensors
from fedrec.models.base import Model, Pairs
from fedrec.testing.trial import Trial, as_bytes, require
from fedrec.training.layout import Layout

__all__ = ["CLIENT_RULE_CONTRACTS", "MODEL_CONTRACTS", "PERSONALIZATION_CONTRACTS"]


def scores_have_their_shape(plugin: Any) -> None:
    """Score every pair and the whole catalogue with finite numbers, in each view."""
    trial = Trial.of(plugin)
    kind = type(trial.task.model)

    def score(self: Model, params: Tensors, pairs: Pairs) -> torch.Tensor:
        scores, features = kind.score(self, params, pairs), kind.features(self, params, pairs)
        n, came = len(pairs.items), (tuple(scores.shape), tuple(features.shape))
        right = came[0] == (n,) and features.dim() == 2 and len(features) == n
        require(right, f"score, features: the shapes are {came}, expected ({n},) and ({n}, h)")
        return scores

    n_users = np.diff(trial.shard.client_offsets).tolist()
    views = {f"scores {view}" for view in trial.task.personalization.views}
    for row, arrays in enumerate(trial.with_model(score=score).results().values()):
        shapes = {n: v.shape for n, v in arrays.items() if n.startswith("scores ")}
        expected = dict.fromkeys(views, (n_users[row], trial.shard.n_items))
        require(shapes == expected, f"ranking gives {shapes}, expected {expected}")
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
        rows = private[name][at[str(spec.axis)]]
        noise = np.random.default_rng(0).normal(1, 0.1, rows.shape)
        private[name][at[str(spec.axis)]] = rows + noise.astype(rows.dtype)
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
    both = sorted(set(task.locals()) & set(task.travels()))
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
    dense = {n for n, s in model.params().items() if s.axis in (None, "client")}

    def score(self: Model, params: Tensors, pairs: Pairs) -> torch.Tensor:
        rows = {n: v.expand(len(pairs.items), *v.shape) for n, v in params.items() if n in dense}
        return kind.score(self, {**params, **rows}, pairs)

    flat = {"score": score, "score_catalogue": Model.score_catalogue}
    loop = trial.with_model(execution="loop", **flat if model.execution == "flat" else {})
    trial.compare(loop.results(), trial.results(), f"execution = '{model.execution}'")


def ranking_is_scoring(plugin: Any) -> None:
    """Rank the catalogue by the scores of its pairs (float64, 1e-10)."""
    trial = Trial.of(plugin, "float64")
    if type(plugin).score_catalogue is Model.score_catalogue:
        raise SkipTest("it ranks by scoring pairs")
    pairs = trial.with_model(score_catalogue=Model.score_catalogue)
    trial.compare(pairs.results(), trial.results(), "by score_catalogue")


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
MODEL_CONTRACTS = (*PERSONALIZATION_CONTRACTS, ranking_is_scoring)

"""PipAttack: target items are made to look like popular ones."""

from dataclasses import replace
from typing import ClassVar

import numpy as np
from pydantic import Field

from fedrec.aggregation.update import UpdateBatch
from fedrec.compute.context import RoundContext
from fedrec.data.altered import with_train_items
from fedrec.errors import ConfigError
from fedrec.plugins import Count
from fedrec.transforms.attacks.adam import fitted
from fedrec.transforms.attacks.base import Attack
from fedrec.transforms.pool import row_norms
from fedrec.types import FloatArray, IntArray, Params, Split, State

CLASS_SHARES = (0.1, 0.45)
"""Of the items, most popular first: those of high and of middle popularity; the rest is low."""

_RATE = 0.05


class PipAttack(Attack):
    r"""Promote the targets by explicit boosting and by likeness to popular items.

    Attackers are converted and collude. They know the item table and the popularity class of each
    item among honest clients: high, middle or low. They pretend to have the targets, so honest
    training raises the targets' scores for their own vectors (explicit boosting). A softmax
    regression, trained further in every round, tells the class of an item from its vector; to the
    row of a target each attacker adds the gradient of the logarithm of the probability that it is
    highly popular. What is added has the norm ``distance`` times the mean norm of the attackers'
    honest rows: so far is an update from an honest one.

    Args:
        distance: How far the row of a target is from an honest one.
        steps: Of the regression in a round.

    Reference: zhang2022pipattack. There a multilayer perceptron tells the classes, and the distance
    is a term of the loss.
    """

    reference: ClassVar[str] = "zhang2022pipattack"
    needs_targets: ClassVar[bool] = True
    needs_factors: ClassVar[bool] = True

    distance: float = Field(1.0, ge=0)
    steps: Count = 30

    def on_data(self, split: Split, context: RoundContext) -> Split:
        """Return the data in which attackers have the targets too."""
        users = np.sort(split.clients.take(self.attackers(context)).values)
        # Of others nothing says when, or how good.
        users = users[split.train.lengths[users] > 0]
        items, places = [], []
        if len(context.targets) > split.n_drawn // 2:
            raise ConfigError(
                f"transforms: PipAttack gives its users the {len(context.targets)} items of "
                f"evaluate.targets, expected at most half of the {split.n_drawn}; name fewer"
            )
        for user in users.tolist():
            start, end = split.train.offsets[user : user + 2]
            missing = np.setdiff1d(context.targets, split.train.row(user))
            items.append(np.concatenate([split.train.row(user), missing]))
            places.append(np.concatenate([np.arange(start, end), np.full(len(missing), end - 1)]))
        return with_train_items(split, users, items, places)

    def init(self, split: Split, context: RoundContext) -> State:
        """Return the class of each item, 0 for high popularity."""
        by_count = np.argsort(-split.train_counts(), kind="stable")
        bounds = np.cumsum([round(share * split.n_items) for share in CLASS_SHARES])
        classes = np.empty(split.n_items, np.int64)
        classes[by_count] = np.searchsorted(bounds, np.arange(split.n_items), side="right")
        return State({"classes": classes})

    def rewrite(
        self, state: State, pool: UpdateBatch, params: Params, context: RoundContext
    ) -> tuple[State, UpdateBatch]:
        """Return honest updates in which the targets' rows have come nearer to popular items."""
        classes, table = state.arrays["classes"], np.asarray(params["item"], np.float64)
        scale = float(np.sqrt((table**2).mean())) or 1.0
        inputs = np.concatenate([table / scale, np.ones((len(table), 1))], axis=1)
        n_classes = len(CLASS_SHARES) + 1
        before = state.arrays.get("weights", np.zeros((inputs.shape[1], n_classes)))
        weights, memory = fitted(
            before,
            state.below("adam/"),
            lambda values, _: cross_entropy_gradient(values, inputs, classes),
            self.steps,
            _RATE,
        )
        arrays = {"classes": classes, "weights": weights}
        state = State({**arrays, **{f"adam/{name}": value for name, value in memory.items()}})
        block, targets = pool.tables["item"], context.targets
        towards = popularity_gradient(weights, inputs[targets])
        lengths = np.sqrt((towards**2).sum(axis=1, keepdims=True))
        norms = row_norms(block)
        towards *= self.distance * (norms.mean() if len(norms) else 0.0)
        towards /= np.where(lengths > 0, lengths, 1.0)
        at = np.flatnonzero(np.isin(block.ids, targets))
        values = block.values.copy()
        values[at] += towards[np.searchsorted(targets, block.ids[at])]
        return state, replace(pool, tables={**pool.tables, "item": replace(block, values=values)})


def probabilities(weights: FloatArray, inputs: FloatArray) -> FloatArray:
    """Return the probability of each class, float64 [n, classes].

    Args:
        weights: float64 [d + 1, classes].
        inputs: float64 [n, d + 1], vectors with a 1 behind them.
    """
    logits = np.einsum("nd,dc->nc", inputs, weights)
    raised = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(raised / raised.sum(axis=1, keepdims=True))


def cross_entropy_gradient(
    weights: FloatArray, inputs: FloatArray, classes: IntArray
) -> FloatArray:
    """Return the gradient of the mean cross entropy by the weights; arguments as above."""
    error = probabilities(weights, inputs)
    error[np.arange(len(classes)), classes] -= 1.0
    return np.asarray(np.einsum("nd,nc->dc", inputs, error) / len(classes))


def popularity_gradient(weights: FloatArray, inputs: FloatArray) -> FloatArray:
    """Return the gradient of log p(high popularity) by the vectors, float64 [n, d]."""
    mean = np.einsum("nc,dc->nd", probabilities(weights, inputs), weights)
    return np.asarray((weights[:, 0] - mean)[:, :-1])

"""FedRecAttack: attackers guess the vectors of honest users, and promote the targets to them."""

from dataclasses import replace
from typing import ClassVar

import numpy as np
import torch
from pydantic import Field

from fedrec.aggregation.update import RowBlock, UpdateBatch
from fedrec.compute.context import RoundContext
from fedrec.compute.operations import padded_mm
from fedrec.data.negatives import uniform_negatives
from fedrec.errors import ConfigError
from fedrec.plugins import Count
from fedrec.ragged import Ragged, offsets_of
from fedrec.transforms.attacks.adam import fitted
from fedrec.transforms.attacks.injection import Injection, random_items
from fedrec.transforms.pool import bounded
from fedrec.types import FloatArray, IntArray, Params, Split, State

_INIT_STD = 0.01
_LEAST = 1e-12
"""Added to the norms by which decoys are drawn, so that any item may be one."""


class FedRecAttack(Injection):
    r"""Send the gradient that raises the targets above the list of each user.

    Attackers are added and collude. They know the item table, and some of the interactions of
    honest users, which are public. To these they fit vectors of the users (BPR), further in every
    round, and take the gradient by the item table of

    .. math:: \sum_{u, t} g(\hat s_{u, l(u)} - \hat s_{ut}), \quad
        g(x) = x \text{ if } x > 0 \text{ else } e^x - 1

    over users u and the targets t that u is not known to have, where l(u) stands last in the
    list of u, without targets and public interactions. An attacker sends the rows of the targets
    and of decoys, ``rows`` in all: its decoys are drawn once, by the norm of their gradient. Each
    takes from the sum what it sends, within ``row_limit``, and leaves the rest to the next. It
    claims the examples of its profile.

    Args:
        public: The share of honest interactions that is known, each drawn by itself.
        list_length: Of the lists.
        rate: What the gradient is multiplied by.
        steps: Of Adam over all public interactions in a round, one negative each.
        fit_rate: The step size of Adam.
        row_limit: See `fedrec.transforms.attacks.base.Attack`; the paper's is a constant norm.

    Reference: rong2022fedrecattack.
    """

    reference: ClassVar[str] = "rong2022fedrecattack"
    needs_targets: ClassVar[bool] = True
    needs_factors: ClassVar[bool] = True

    row_limit: float | None = Field(3.0, gt=0)
    public: float = Field(0.01, gt=0, le=1)
    list_length: Count = 10

    def on_data(self, split: Split, context: RoundContext) -> Split:
        """Return the data with the attackers.

        Raises:
            ConfigError: If lists are longer than the catalogue.
        """
        if self.list_length > split.n_items:
            raise ConfigError(
                f"transforms: list_length: {self.list_length} is more than the {split.n_items} "
                "items; lower it"
            )
        return super().on_data(split, context)

    rate: float = Field(1.0, gt=0)
    steps: Count = 5
    fit_rate: float = Field(0.01, gt=0)

    def profile(
        self, split: Split, context: RoundContext, generator: np.random.Generator
    ) -> IntArray:
        """Return random items, which are only what an attacker claims to have."""
        return random_items(split, context, generator, self.rows // 2)

    def init(self, split: Split, context: RoundContext) -> State:
        """Return the public interactions: one row for each user with any, ``offsets``, ``items``.

        Raises:
            ConfigError: If no interaction is public.
        """
        train = split.train
        drawn = context.uniform("public", train.owners(), train.values) < self.public
        rows = train.where(drawn)
        rows = rows.take(np.flatnonzero(rows.lengths))
        if not len(rows):
            raise ConfigError(
                f"transforms: FedRecAttack knows no interaction with public: {self.public:g} of "
                f"{len(train.values)}; raise it"
            )
        return State({"offsets": rows.offsets, "items": rows.values})

    def rewrite(
        self, state: State, pool: UpdateBatch, params: Params, context: RoundContext
    ) -> tuple[State, UpdateBatch]:
        """Return the rows that attackers send, and the vectors and the decoys for later."""
        table = np.asarray(params["item"], np.float64)
        public = Ragged(state.arrays["offsets"], state.arrays["items"])
        vectors, memory = self._fit(state, public, table, context)
        step = -self.rate * promotion_gradient(
            table, vectors, public, context.targets, self.list_length
        )
        attackers, n_targets = self.attackers(context), len(context.targets)
        places = np.searchsorted(attackers, pool.client_ids)
        size = min(self.rows, len(table)) - n_targets
        none = np.full((len(attackers), size), -1, np.int64)
        decoys = self._decoys(state.arrays.get("decoys", none), places, step, context)
        targets = np.broadcast_to(context.targets, (len(places), n_targets))
        rows = np.sort(np.concatenate([targets, decoys[places]], axis=1), axis=1)
        limit, sent = self.longest(pool, "item"), []
        for ids in rows:
            sent.append(bounded(step[ids], limit))
            step[ids] -= sent[-1]
        arrays = {**state.arrays, "vectors": vectors, "decoys": decoys}
        state = State({**arrays, **{f"adam/{name}": value for name, value in memory.items()}})
        return state, replace(pool, tables=_tables(pool, rows, np.concatenate(sent)))

    def _fit(
        self, state: State, public: Ragged, table: FloatArray, context: RoundContext
    ) -> tuple[FloatArray, dict[str, FloatArray]]:
        """Return the vectors of the users of public interactions, float64 [u, d], and of Adam."""
        n_items, dim = table.shape
        first = context.generator("vectors").normal(0, _INIT_STD, (len(public), dim))
        owners, draws = public.owners(), np.arange(len(public.values))

        def gradient(vectors: FloatArray, step: int) -> FloatArray:
            hashed = context.bits("negatives", np.full(len(draws), step), draws)
            upper = (hashed >> np.uint64(32)).astype(np.uint32)
            negatives = uniform_negatives(upper, owners, public, n_items)
            difference = table[public.values] - table[negatives]
            margin = (vectors[owners] * difference).sum(axis=1)
            pull = -0.5 * (1.0 - np.tanh(margin / 2))
            sums = np.add.reduceat(pull[:, None] * difference, public.offsets[:-1])
            return np.asarray(sums)

        vectors = state.arrays.get("vectors", first)
        return fitted(vectors, state.below("adam/"), gradient, self.steps, self.fit_rate)

    def _decoys(
        self, decoys: IntArray, places: IntArray, step: FloatArray, context: RoundContext
    ) -> IntArray:
        """Return the decoys of all attackers, int64 [attackers, k]; -1 for one without any yet."""
        new = places[(decoys[places] < 0).any(axis=1)]
        norms = np.sqrt((step**2).sum(axis=1)) + _LEAST
        others = np.setdiff1d(np.arange(len(step)), context.targets)
        # The first of exponential times with these rates: drawn in turn, none twice.
        draws = context.uniform("decoys", new[:, None], others[None, :])
        times = -np.log(draws) / norms[others]
        decoys = decoys.copy()
        decoys[new] = others[np.argsort(times, axis=1, kind="stable")[:, : decoys.shape[1]]]
        return decoys


def promotion_gradient(
    table: FloatArray, vectors: FloatArray, public: Ragged, targets: IntArray, k: int
) -> FloatArray:
    """Return the gradient of FedRecAttack's loss by the item table, float64 [n_items, d].

    Args:
        table: float64 [n_items, d].
        vectors: float64 [u, d], of users.
        public: One row per user: the items that it is known to have.
        targets: int64 [t], sorted.
        k: Length of the lists.
    """
    scores = padded_mm(torch.tensor(vectors), torch.tensor(table.T)).numpy()
    of_targets = scores[:, targets]
    has_not = np.ones((len(vectors), len(targets)), np.bool_)
    at = np.minimum(np.searchsorted(targets, public.values), len(targets) - 1)
    is_target = targets[at] == public.values
    has_not[public.owners()[is_target], at[is_target]] = False
    listed = scores.copy()
    listed[public.owners(), public.values] = -np.inf
    listed[:, targets] = -np.inf
    last = np.argpartition(-listed, k - 1, axis=1)[:, k - 1]
    below = scores[np.arange(len(scores)), last][:, None] - of_targets
    weights = np.where(below > 0, 1.0, np.exp(np.minimum(below, 0.0))) * has_not
    gradient = np.zeros_like(table)
    gradient[targets] = -np.einsum("ut,ud->td", weights, vectors)
    np.add.at(gradient, last, weights.sum(axis=1)[:, None] * vectors)
    return gradient


def _tables(pool: UpdateBatch, rows: IntArray, values: FloatArray) -> dict[str, RowBlock]:
    """Return blocks with the rows of each attacker, int64 [n, kappa]; zeros beside the items."""
    offsets = offsets_of(np.full(len(rows), rows.shape[1]))
    tables = {}
    for name, block in pool.tables.items():
        nothing = np.zeros((rows.size, *block.values.shape[1:]), block.values.dtype)
        sent = values.astype(block.values.dtype) if name == "item" else nothing
        tables[name] = RowBlock(offsets, rows.reshape(-1), sent)
    return tables

"""PLGC: a frozen global item table beside a local one, balanced by the tangent kernel."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from fedrec.compute.batch import PairBatch, Tensors
from fedrec.compute.device import to_array
from fedrec.compute.operations import sigmoid
from fedrec.personalization.base import (
    Branches,
    Forward,
    FrozenItems,
    Personalization,
    Ranking,
    View,
)
from fedrec.personalization.plgc import balance
from fedrec.personalization.plgc.decorrelation import cross_view, single_view
from fedrec.personalization.plgc.similarity import CatalogueSimilarity, Kernel, KernelSums
from fedrec.ragged import Ragged, offsets_of
from fedrec.seeds import Purpose, bits
from fedrec.types import FloatArray, IntArray, ParamSpec, Shard


class PLGC(Personalization):
    r"""Mixes a local branch into the model, with a weight :math:`\lambda_u` for each user.

    ``branch: table`` keeps a durable residual :math:`\Delta_u` on the client's positive rows,
    :math:`E_u = W + \Delta_u`; the model sees
    :math:`\tilde E = \lambda E_u + (1 - \lambda)\,\mathrm{sg}(E_g)`.

    ``branch: similarity`` lets the local branch move in the span of a kernel of the frozen table,
    so that it says something about items that the user has not touched:

    .. math:: l_{ui} = n^{-1/2} \sum_{j \in I_u, j \ne i} \max(0, z_i \cdot z_j)^\beta, \quad
              s_{ui} = p_u \cdot e_i + \lambda_u \tau\, l_{ui}

    The paper leaves both open beyond its abstract; these are our definitions.

    Args:
        branch: What the local branch is: ``similarity`` or ``table``.
        mode: similarity branch: train through the mixed score (``joint``) or the model's own
            (``decoupled``: the global trajectory is then that of the base method, bit for bit).
        balance: how :math:`\lambda_u` is set: ``alignment``, ``residual`` or ``trace`` of the
            tangent kernels, or ``fixed``.
        value: :math:`\lambda` of ``fixed``.
        initial: :math:`\lambda` before the first local epoch, of the others.
        ema: weight of the old :math:`\lambda` when the new one comes in after a local epoch.
        per: ``user``, or ``row``: :math:`\lambda_{ui} = 0` for rows the client has not touched
            (when ranking: that are not its positives; negatives are not kept).
        tau: similarity branch: scale of the local branch.
        beta: similarity branch: exponent of the similarity.
        centre: similarity branch: subtract the mean row before rows are normalised.
        history_cap: similarity branch: at most this many positives of a user make up its kernel
            (chosen by hash); None: all. Time grows faster than the number of items: a user with
            2,389 takes about 5 times as long to train as with a cap of 200.
        persistence: table branch: share of :math:`\Delta_u` that survives a round.
        decorrelation: weight of the decorrelation loss.
        view: ``cross`` (client's view against the frozen rows), ``single`` (the working copy
            alone), or ``auto``: cross for the table branch, single for the similarity branch.
        gamma: cross view: weight of pairs of different dimensions.
        extra_rows: random rows per user that join the touched ones.
        on: what both branches are made of: ``vectors``, the item vectors of the model, or
            ``item``, the rows of the item table. It matters for a model with features of items:
            rows of items that nobody has touched say nothing, their vectors do.

    Reference: plgc2025; balance: jiang2024lgmix; decorrelation: zbontar2021barlow,
    shi2023feddecorr.
    """

    reference: ClassVar[str] = "plgc2025"
    renamed: ClassVar[Mapping[str, str]] = {
        "local": "personalization.branch: similarity (was kernel) or table"
    }
    views: ClassVar[tuple[View, ...]] = ("mixed", "global", "local")

    branch: Literal["similarity", "table"] = "similarity"
    mode: Literal["joint", "decoupled"] = "joint"
    balance: Literal["alignment", "residual", "trace", "fixed"] = "alignment"
    value: float = Field(1.0, ge=0, le=1)
    initial: float = Field(0.5, ge=0, le=1)
    ema: float = Field(0.9, ge=0, lt=1)
    per: Literal["user", "row"] = "user"
    tau: float = Field(1.0, ge=0)
    beta: int = Field(2, ge=1, le=16)
    centre: bool = True
    history_cap: int | None = Field(None, ge=1)
    persistence: float = Field(0.9, ge=0, le=1)
    decorrelation: float = Field(0.0, ge=0)
    view: Literal["auto", "cross", "single"] = "auto"
    gamma: float = Field(0.005, ge=0)
    extra_rows: int = Field(0, ge=0)
    on: Literal["vectors", "item"] = "vectors"

    @property
    def changes_score(self) -> bool:
        """Return whether the local branch is part of what is trained, beside the item vectors."""
        return self.branch == "similarity" and self.mode == "joint"

    @property
    def mixes(self) -> Literal["vectors", "item"]:
        """Return ``on``."""
        return self.on

    def without_effect(self, run: Any) -> list[str]:
        """Say which options belong to another branch, balance or loss."""
        if self.branch == "table":
            names = ("mode", "tau", "beta", "centre", "history_cap", "per")
            lines = self.unused("it belongs to branch: similarity", *names)
        else:
            lines = self.unused("it belongs to branch: table", "persistence")
        if self.balance == "fixed":
            lines += self.unused("balance: fixed never changes the weight", "initial", "ema")
        else:
            lines += self.unused(f"balance: {self.balance} sets the weight itself", "value")
        if self.decorrelation == 0:
            lines += self.unused("decorrelation is 0", "view", "gamma")
            if self.balance == "fixed":
                lines += self.unused("decorrelation is 0, balance: fixed", "extra_rows")
        elif not self._is_cross:
            lines += self.unused("it belongs to view: cross", "gamma")
        return lines

    @property
    def _is_cross(self) -> bool:
        return self.view == "cross" or (self.view == "auto" and self.branch == "table")

    @property
    def random_rows(self) -> int:
        """Random rows per user and epoch that join the touched ones."""
        return self.extra_rows

    def state(self, dim: int) -> Mapping[str, ParamSpec]:
        """Return ``lambda`` per user; for the table branch ``residual`` [d] per positive."""
        start = self.value if self.balance == "fixed" else self.initial
        state = {"lambda": ParamSpec("private", "user", (), init_value=start, trainable=False)}
        if self.branch == "table":
            state["residual"] = ParamSpec("private", "positive", (dim,), trainable=False)
        return state

    def row_cost(self, history: IntArray) -> FloatArray:
        """Return the cost; in the similarity branch each row meets the whole history."""
        if self.branch == "table":
            return np.full(len(history), 2.0)
        capped = history if self.history_cap is None else np.minimum(history, self.history_cap)
        return np.asarray(1.5 + capped / 30)

    def unit_item_vectors(self, table: Tensor) -> Tensor | None:
        """Return the rows, centred and of length 1; None for the table branch."""
        if self.branch == "table":
            return None
        centred = table - table.mean(0) if self.centre else table
        length = centred.square().sum(-1, keepdim=True).sqrt()
        return torch.where(length > 0, centred / length, torch.zeros_like(centred))

    def history(self, shard: Shard, seed: int) -> Ragged:
        """Return the positives of each user that make up its kernel."""
        cap = self.history_cap
        if cap is None or shard.train.lengths.max(initial=0) <= cap:
            return shard.train
        owners, items = shard.train.owners(), shard.train.values
        keys = bits(seed, Purpose.HISTORY, 0, shard.user_ids[owners], items)
        by_key = np.lexsort((keys, owners))
        place = np.arange(len(owners)) - shard.train.offsets[:-1][owners]
        chosen = np.sort(by_key[place < cap])
        lengths = np.minimum(shard.train.lengths, cap)
        return Ragged(offsets_of(lengths), items[chosen])

    def prepare(
        self, frozen_items: FrozenItems, pairs: PairBatch
    ) -> tuple[Kernel, KernelSums] | None:
        """Compute the similarity branch of the pairs, and what the weights need of it."""
        if frozen_items.unit_item_vectors is None:
            return None
        kernel = Kernel(frozen_items.unit_item_vectors, frozen_items.history, pairs, self.beta)
        aim = None
        if self.balance in ("alignment", "trace"):
            labels = pairs.labels.to(frozen_items.table.dtype)
            aim = balance.target(self.balance, labels, labels, pairs.offsets)
        return kernel, kernel.sums(aim)

    def rows(self, work: Tensor, frozen: Tensor, local: Tensors, pairs: PairBatch) -> Tensor:
        """Return the client's copy, or in the table branch the mix of both tables, float [q, d]."""
        if self.branch == "similarity":
            return work
        share = local["lambda"].unsqueeze(-1)
        return share * (work + local["residual"]) + (1 - share) * frozen

    def score(self, base: Tensor, local: Tensors, index: Tensor, prepared: Any) -> Tensor:
        """Return the scores with the local branch added, in the joint similarity branch."""
        if not self.changes_score:
            return base
        sums: KernelSums = prepared[1]
        return base + local["lambda"] * (self.tau * sums.rows[index])

    def loss(self, work: Tensor, frozen: Tensor, local: Tensors, pairs: PairBatch) -> Tensor | None:
        """Return the decorrelation of each user's rows, weighted and summed."""
        if self.decorrelation == 0:
            return None
        if not self._is_cross:
            return self.decorrelation * single_view(work, pairs.offsets)
        mixed = self.rows(work, frozen, local, pairs)
        return self.decorrelation * cross_view(mixed, frozen, self.gamma, pairs.offsets)

    def after_epoch(
        self,
        frozen: Tensor,
        local: Tensors,
        state: Tensors,
        pairs: PairBatch,
        prepared: Any,
        forward: Forward,
    ) -> Tensors:
        """Return the new weight of each user, smoothed."""
        if self.balance == "fixed":
            return {}
        labels = pairs.labels.to(frozen.dtype)
        error = labels
        if self.balance == "residual":
            base = forward.score(self.rows(forward.mixed(), frozen, local, pairs))
            error = sigmoid(self.score(base, local, pairs.index, prepared)) - labels
        aim = balance.target(self.balance, labels, error, pairs.offsets)
        of_frozen = balance.branch_sizes(self.balance, forward.features(frozen), aim, pairs.offsets)
        if self.branch == "table":
            rows = forward.features(forward.mixed() + local["residual"])
            of_local = balance.branch_sizes(self.balance, rows, aim, pairs.offsets)
        else:
            kernel, sums = prepared
            # The errors are known now only.
            sums = kernel.sums(aim) if self.balance == "residual" else sums
            of_local = balance.size(self.balance, sums.along, sums.squares, pairs.offsets)
        old = state["lambda"]
        share = balance.share(of_local, of_frozen).to(old.dtype)
        is_present = torch.as_tensor(np.diff(pairs.offsets) > 0)
        return {"lambda": torch.where(is_present, self.ema * old + (1 - self.ema) * share, old)}

    def after_round(self, change: Tensor, state: Tensors) -> Tensors:
        """Let the residual of the table branch take up the round's change, and fade."""
        return {"residual": self.persistence * (state["residual"] + change)}

    @property
    def acts_after_round(self) -> bool:
        """Return whether there is a residual, which takes up the round's change."""
        return self.branch == "table"

    @property
    def by_columns(self) -> bool:
        """Return whether users share the similarities of items."""
        return self.branch == "similarity"

    def prepare_ranking(
        self, frozen_items: FrozenItems, users: IntArray
    ) -> CatalogueSimilarity | None:
        """Prepare the similarity branch of some users; nothing for the table branch."""
        if self.branch == "table":
            return None
        return CatalogueSimilarity(frozen_items, users, self.beta)

    def rank(
        self, frozen_items: FrozenItems, local: Tensors, ranking: Ranking
    ) -> dict[View, Tensor] | Branches:
        """Return the scores with both branches (``mixed``) and with each alone."""
        base, share = ranking.scores(), local["lambda"].unsqueeze(-1)
        if self.branch == "similarity":
            similarity, place = ranking.prepared, ranking.place
            scale = self.tau * similarity.scale[place]
            branches = Branches(base, similarity.sums(ranking.items), place, scale, share)
            if self.per == "user":
                return branches
            is_positive = _is_positive(frozen_items, ranking).to(share.dtype)
            return replace(branches, share=share * is_positive).views()
        users, items, at = frozen_items.positives_of(ranking.users)
        rows = frozen_items.table[torch.as_tensor(items)]
        local_rows = local["residual"][torch.as_tensor(at)].add_(rows)
        share = share[torch.as_tensor(users)]
        mixed = (local_rows * share).add_((1 - share) * rows)
        return {
            "mixed": ranking.patched(base, users, items, mixed),
            "global": base,
            "local": ranking.patched(base, users, items, local_rows),
        }


def _is_positive(frozen_items: FrozenItems, ranking: Ranking) -> Tensor:
    """Return whether each item is among the positives of each user's client, bool [b, c]."""
    column = np.full(len(frozen_items.table), -1, np.int64)
    column[to_array(ranking.items)] = np.arange(len(ranking.items))
    users, items, _ = frozen_items.positives_of(ranking.users)
    is_scored = column[items] >= 0
    result = np.zeros((len(ranking.users), len(ranking.items)), np.bool_)
    result[users[is_scored], column[items][is_scored]] = True
    return torch.as_tensor(result)

"""The contender that is nothing but `experiments.benchmarks.bound`'s kernels."""

from __future__ import annotations

import numpy as np
import torch

from experiments.benchmarks import bound
from experiments.benchmarks.bound_plgc import Branch, plgc_kernel
from experiments.benchmarks.contender import Contender, TrainingPlan
from fedrec.personalization.plgc.plgc import PLGC
from fedrec.seeds import Purpose
from fedrec.types import FloatArray

__all__ = ["KernelContender"]


class KernelContender(Contender):
    """One call of machine code for all clients of a round.

    Args:
        work: The clients and the method: matrix factorisation with Adam, alone or with the kernel
            form of PLGC (joint, beta 2, alignment, single view).
    """

    def __init__(self, work: TrainingPlan) -> None:
        super().__init__(work)
        method, shard = work.task, work.shard
        train, rates = method.train, method.train.optimizers.private
        self._data = bound.Data(
            seed=method.seed,
            purpose=int(Purpose.NEGATIVES),
            round=0,
            ids=np.ascontiguousarray(shard.user_ids),
            offsets=np.ascontiguousarray(shard.train.offsets),
            items=shard.train.values.astype(np.int32),
            n_items=shard.n_items,
            k=train.negatives,
            table=self.table,
        )
        own = method.personalization
        share = work.local["lambda"].copy() if isinstance(own, PLGC) else np.zeros(0, np.float32)
        self._users = bound.Users(
            vector=work.local["user"].copy(),
            first=work.local["user/first"].copy(),
            second=work.local["user/second"].copy(),
            steps=work.local["user/steps"].copy(),
            share=share,
        )
        self._rates = bound.Rates(
            item=train.optimizers.item.lr,
            lr=rates.lr,
            beta1=rates.beta1,
            beta2=rates.beta2,
            epsilon=rates.epsilon,
            decay=train.weight_decay,
        )
        self._plgc = own if isinstance(own, PLGC) else None
        self._history = None if self._plgc is None else self._plgc.history(shard, method.seed)

    def round(self, number: int) -> float:
        """See `Contender.round`."""
        self.total = np.zeros_like(self.table)
        data, dim = self._data._replace(round=number), self.table.shape[1]
        if self._plgc is None or self._history is None:
            return float(bound.base_kernel(dim)(data, self._users, self._rates, self.total))
        directions = self._plgc.unit_item_vectors(torch.from_numpy(self.table))
        assert directions is not None
        branch = Branch(
            directions=np.ascontiguousarray(directions.numpy()),
            offsets=np.ascontiguousarray(self._history.offsets),
            history=np.ascontiguousarray(self._history.values),
            tau=self._plgc.tau,
            ema=self._plgc.ema,
            decorrelation=self._plgc.decorrelation,
        )
        return float(plgc_kernel(dim)(data, self._users, self._rates, branch, self.total))

    @property
    def users(self) -> FloatArray:
        """See `Contender.users`."""
        return np.asarray(self._users.vector)

    @property
    def share(self) -> FloatArray | None:
        """See `Contender.share`."""
        return None if self._plgc is None else np.asarray(self._users.share)

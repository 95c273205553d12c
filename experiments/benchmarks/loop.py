"""A conventional PyTorch loop over clients, as the scripts of papers write it.

One module per client, copied from the server's; its whole item table comes in and goes out;
autograd; ``torch.optim``; a Python loop over the users. Written as a competent author would: the
negatives of all users are drawn at once, each user keeps its vector and its Adam from round to
round, and nothing is computed that is not needed. `LoopCompetitor` slices tensors; most published
scripts hand each client's examples to a ``DataLoader``, and `LoaderCompetitor` is that.
"""

import copy
from typing import cast

import numpy as np
import torch
from torch.utils.data import DataLoader, TensorDataset

from experiments.benchmarks.competitor import Competitor, Task, negatives_of
from fedrec.personalization.plgc.plgc import PLGC
from fedrec.types import FloatArray

__all__ = ["LoaderCompetitor", "LoopCompetitor"]

Tensor = torch.Tensor


class _Client(torch.nn.Module):
    """Matrix factorisation for one user: the item table, and the user's own vector."""

    def __init__(self, n_items: int, dim: int) -> None:
        super().__init__()
        self.item = torch.nn.Embedding(n_items, dim)
        self.user = torch.nn.Parameter(torch.zeros(dim))

    def forward(self, items: Tensor) -> Tensor:
        return cast(Tensor, self.item(items)) @ self.user


class LoopCompetitor(Competitor):
    """See the module.

    Args:
        work: The clients and the method: matrix factorisation, alone or with the kernel form of
            PLGC in its joint mode with the weight from alignment.
    """

    def __init__(self, work: Task) -> None:
        super().__init__(work)
        n_items, dim = self.table.shape
        rates = work.task.train.optimizers.private
        self._server = _Client(n_items, dim)
        with torch.no_grad():
            self._server.item.weight.copy_(torch.from_numpy(self.table))
        self._users = [torch.nn.Parameter(torch.from_numpy(v.copy())) for v in work.local["user"]]
        self._adam = [
            torch.optim.Adam(
                [user], lr=rates.lr, betas=(rates.beta1, rates.beta2), eps=rates.epsilon
            )
            for user in self._users
        ]
        self._share = work.local["lambda"].copy() if "lambda" in work.local else None
        own = work.task.personalization
        self._plgc = own if isinstance(own, PLGC) else None
        self._history = None
        if self._plgc is not None:
            self._history = self._plgc.history(work.shard, work.task.seed)

    def round(self, number: int) -> float:
        """See `Competitor.round`."""
        work, train = self.work, self.work.task.train
        bce = torch.nn.functional.binary_cross_entropy_with_logits
        k, offsets = train.negatives, work.shard.train.offsets
        positives = torch.from_numpy(work.shard.train.values)
        negatives = torch.from_numpy(negatives_of(work, number))
        z = None
        if self._plgc is not None:
            z = torch.nn.functional.normalize(
                self._server.item.weight.detach() - self._server.item.weight.detach().mean(0),
                dim=1,
            )
        total = torch.zeros_like(self._server.item.weight.detach())
        loss_of_all = 0.0
        for u in range(work.shard.n_users):
            low, high = int(offsets[u]), int(offsets[u + 1])
            if low == high:
                continue
            model = copy.deepcopy(self._server)
            model.user = self._users[u]
            shared = torch.optim.SGD(model.item.parameters(), lr=train.optimizers.item.lr)
            items, labels = self._batch(positives[low:high], negatives[low * k : high * k])
            logits = model(items)
            kappa = distinct = None
            if z is not None:
                kappa, distinct, place = self._branch(u, items, z)
                assert self._plgc is not None and self._share is not None
                logits = logits + float(self._share[u]) * self._plgc.tau * kappa.sum(1)[place]
            plain = bce(logits, labels, reduction="sum")
            decay = 0.5 * train.weight_decay * (high - low) * model.user.square().sum()
            loss = plain + decay
            if distinct is not None:
                loss = loss + self._decorrelation(model.item(distinct))
            shared.zero_grad()
            self._adam[u].zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            shared.step()
            self._adam[u].step()
            upload = model.item.weight.detach().clone()
            total += upload - self._server.item.weight.detach()
            if kappa is not None and distinct is not None:
                self._balance(u, kappa, distinct)
            loss_of_all += float(plain.detach())
        self.total = total.numpy()
        return loss_of_all

    def _batch(self, positives: Tensor, negatives: Tensor) -> tuple[Tensor, Tensor]:
        """A client's only batch: its items, and 1 for each positive."""
        items = torch.cat([positives, negatives])
        labels = torch.zeros(len(items))
        labels[: len(positives)] = 1.0
        return items, labels

    def _branch(self, u: int, items: Tensor, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The kernel of a user's distinct items, those items, and where each pair's stands."""
        assert self._plgc is not None and self._history is not None
        distinct, place = torch.unique(items, return_inverse=True)
        history = torch.from_numpy(np.array(self._history.row(u)))
        kappa = (z[distinct] @ z[history].T).clamp(min=0) ** self._plgc.beta
        kappa[distinct[:, None] == history[None, :]] = 0.0
        return kappa / max(len(history), 1) ** 0.5, distinct, place

    def _decorrelation(self, rows: Tensor) -> Tensor:
        """The weighted mean of the squared correlations of different dimensions."""
        assert self._plgc is not None
        d = rows.shape[1]
        if len(rows) < 2 or self._plgc.decorrelation == 0:
            return torch.zeros(())
        off = torch.corrcoef(rows.T).square()
        total = off.sum() - torch.diagonal(off).sum()
        return self._plgc.decorrelation * total / (d * (d - 1))

    def _balance(self, u: int, kappa: Tensor, distinct: Tensor) -> None:
        """Set the user's weight from the alignment of both kernels with its labels."""
        assert self._plgc is not None and self._share is not None
        items = torch.from_numpy(self.work.shard.train.row(u))
        y = torch.isin(distinct, items).float()
        y = y - y.mean()
        with torch.no_grad():
            rows = self._server.item.weight[distinct]
            sizes = [
                float((y @ part).square().sum() / part.square().sum().clamp(min=1e-30))
                for part in (kappa, rows)
            ]
        new = sizes[0] / sum(sizes) if sum(sizes) > 0 else 0.5
        ema = self._plgc.ema
        self._share[u] = ema * self._share[u] + (1 - ema) * new

    @property
    def users(self) -> FloatArray:
        """See `Competitor.users`."""
        return torch.stack([user.detach() for user in self._users]).numpy()

    @property
    def share(self) -> FloatArray | None:
        """See `Competitor.share`."""
        return self._share


class LoaderCompetitor(LoopCompetitor):
    """The loop with a ``DataLoader`` for each client, as the published scripts have it."""

    def _batch(self, positives: Tensor, negatives: Tensor) -> tuple[Tensor, Tensor]:
        data = TensorDataset(*super()._batch(positives, negatives))
        items, labels = next(iter(DataLoader(data, batch_size=len(data))))
        return items, labels

"""A few pairs with made-up values, on which a client model is tried."""

from collections.abc import Mapping

import torch
from torch import Tensor

from fedrec.models.base import Batch, History, Model
from fedrec.models.module import ModelParams, Network
from fedrec.types import ParamSpec

N_ITEMS = 3


class TrialPairs:
    """What a model is given for one or two pairs, and for as many users with 3 items.

    Args:
        model: The model.
        specs: All its parameters, by name.
        network: What it built.
        n: Pairs, and users.
        trained: Whether gradients are wanted.
    """

    def __init__(
        self,
        model: Model,
        specs: Mapping[str, ParamSpec],
        network: Network | None,
        n: int,
        trained: bool = False,
    ) -> None:
        place, values, ranked = torch.zeros(n, dtype=torch.int64), {}, {}
        user_rows, rows = set[str](), set[str]()
        for name, spec in specs.items():
            value = torch.full(spec.shape, 0.5, dtype=getattr(torch, spec.dtype))
            if spec.values is not None:
                value = torch.as_tensor(spec.values.copy())
            is_row = model.execution == "flat" or spec.axis not in (None, "client")
            rows |= {name} if is_row else set()
            # Of either sign, for a model that takes its ways by the values.
            values[name] = torch.stack([value, -value][:n]) if is_row else value
            ranked[name] = values[name].clone()
            if spec.axis == "item":
                ranked[name] = torch.stack([value] * N_ITEMS)
            elif is_row:
                user_rows.add(name)
            if trained and spec.trainable and spec.scope != "frozen":
                values[name].requires_grad_()
        item_rows = [name for name, spec in specs.items() if spec.axis == "item"]
        # Ranking drops nothing; a key stands for training.
        self.params = ModelParams(values, network, torch.tensor(1))
        self.ranked = ModelParams(ranked, network, None, item_rows, user_rows)
        self.items, self.all_items = torch.arange(n), torch.arange(N_ITEMS)
        self.model, self.place, self.rows = model, place, frozenset(rows)

    def batch(
        self, vectors: Tensor, items: Tensor | None = None, real: Tensor | None = None
    ) -> Batch:
        """Return the pairs, for some item vectors, float [n, d]."""
        items = self.items if items is None else items
        labels, counts = (items == 0).float(), (items != 0).float()
        context = None if self.model.window is None else self.place
        return Batch(self.place, items, labels, counts, real, context, self.history(vectors))

    def history(self, vectors: Tensor) -> History | None:
        """Return a history of one item for each user."""
        if self.model.window is None:
            return None
        n, one = len(self.items), self.place[:, None]
        like = torch.full((n, 1, vectors.shape[-1]), 0.5, dtype=vectors.dtype)
        times = one.double()
        return History(like, self.place + 1, one, times, times)


def gradients(total: Tensor, values: Mapping[str, Tensor]) -> dict[str, Tensor | None]:
    """Return the gradients of a sum by the values that want one; None for one that has none."""
    leaves = {name: value for name, value in values.items() if value.requires_grad}
    of_leaves = torch.autograd.grad(total, [*leaves.values()], allow_unused=True)
    return dict(zip(leaves, of_leaves, strict=True))

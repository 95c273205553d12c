"""UA-FedRec: attackers perturb which items are alike, and claim many examples."""

from dataclasses import replace
from typing import ClassVar

import numpy as np
import torch
from pydantic import Field

from fedrec.aggregation.update import RowBlock, UpdateBatch
from fedrec.compute.context import RoundContext
from fedrec.compute.operations import padded_mm
from fedrec.transforms.attacks.base import Attack
from fedrec.transforms.pool import bounded, rewritten, row_norms
from fedrec.types import FloatArray, IntArray, Params, State

_ITEMS_TOGETHER = 1024


class UaFedRec(Attack):
    r"""Move each item away from the one most like it, and towards the one least like it.

    Attackers are converted and collude: they know the item table and the means and deviations of
    their own honest updates. Like is what has a large inner product. With near(i) and far(i), the
    change of an item is the step along

    .. math:: \sum_i \|v_i - v_{near(i)}\|^2 - \|v_i - v_{far(i)}\|^2

    over the items i that the attackers touched, for all three items of a term, and every row has
    the norm :math:`\mu + 3\sigma` of the norms of their honest rows. An attacker sends the rows
    that it would have sent honestly. Other parameters get :math:`\mu - 3 \, sign(\mu) \sigma`, and
    each attacker claims :math:`\mu + 3\sigma` examples. Not targeted.

    Args:
        deviations: The 3 in these.

    Reference: yi2023uafedrec, section 4. There the items are news with a text encoder, whose whole
    update has the norm that each row has here.
    """

    reference: ClassVar[str] = "yi2023uafedrec"

    deviations: float = Field(3.0, ge=0)

    def rewrite(
        self, state: State, pool: UpdateBatch, params: Params, context: RoundContext
    ) -> tuple[State, UpdateBatch]:
        """Return perturbed rows, and as many examples as may be claimed."""
        distance = self.deviations

        update = rewritten(pool, lambda of: of.mean - distance * np.sign(of.mean) * of.std)
        tables = dict(update.tables)
        for name, block in pool.tables.items():
            if name in params and params[name].ndim == 2 and len(block.ids):
                norms = row_norms(block)
                bound = float(norms.mean() + distance * norms.std())
                tables[name] = _perturbed(block, params[name], bound)
        weight = np.full_like(pool.weight, pool.weight.mean() + distance * pool.weight.std())
        return state, replace(update, tables=tables, weight=weight)


def _perturbed(block: RowBlock, table: FloatArray, norm: float) -> RowBlock:
    """Return the rows along `similarity_step`, all of one norm."""
    step = similarity_step(table, np.unique(block.ids))[block.ids]
    lengths = np.sqrt((step**2).sum(axis=1, keepdims=True))
    units = step / np.where(lengths > 0, lengths, 1.0)
    return replace(block, values=bounded(norm * units, norm).astype(block.values.dtype))


def similarity_step(table: FloatArray, items: IntArray) -> FloatArray:
    """Return the gradient of the sum of squared distances to near less to far items.

    Args:
        table: float [n_items, d].
        items: int64 [m], sorted, over which the sum goes; near and far are those of the whole
            table, of equal ones the first.

    Returns:
        float64 [n_items, d], 0 for items that no term names.
    """
    rows, step = np.asarray(table, np.float64), np.zeros(table.shape, np.float64)
    columns = torch.tensor(rows.T)
    for start in range(0, len(items), _ITEMS_TOGETHER):
        chosen = items[start : start + _ITEMS_TOGETHER]
        likeness = padded_mm(torch.tensor(rows[chosen]), columns).numpy()
        itself = np.arange(len(chosen)), chosen
        likeness[itself] = -np.inf
        near = likeness.argmax(axis=1)
        likeness[itself] = np.inf
        far = likeness.argmin(axis=1)
        away, towards = 2 * (rows[chosen] - rows[near]), 2 * (rows[far] - rows[chosen])
        np.add.at(step, chosen, away + towards)
        np.add.at(step, near, -away)
        np.add.at(step, far, -towards)
    return step

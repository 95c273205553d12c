"""Micro-batches: the pairs of a step in parts, whose gradients add up to that of the step."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedrec.compute.batch import Histories
from fedrec.compute.device import to_array
from fedrec.ragged import Ragged, offsets_of
from fedrec.training.plan import Owners, Step
from fedrec.types import IntArray, ParamSpec


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """Some pairs of a step, as a step.

    Args:
        step: The part.
        pairs: int64 [q], where its pairs stand among those of the whole step.
        owners: Per axis, int64 [n], where its owners stand among those of the whole step.
    """

    step: Step
    pairs: Tensor
    owners: Mapping[str, Tensor]

    def places(self, axis: str | None) -> Tensor:
        """Return where the values of an axis lie among those of the whole step, int64 [n]."""
        return self.pairs if axis == "item" else self.owners[axis or "client"]


def parts_of(step: Step, size: int, by_positive: bool) -> Iterator[MicroBatch]:
    """Cut a step so that no client has more than so many pairs in a part, where it can be cut.

    Args:
        step: The step.
        size: Pairs that a client is trained on in a part at most.
        by_positive: Whether a positive and its negatives must stay together; then a part has one
            positive at least. A history that pairs are scored from stands in every part of its
            user, beside the pairs that are trained on.

    Yields:
        The parts, which no other clients change.
    """
    client = step.owners["client"].index
    if by_positive:
        assert step.asked is not None
        asked = to_array(step.asked)
        part = _ranks(client[asked[:, 0]]) // max(size // asked.shape[1], 1)
    else:
        part = _ranks(client) // size
    for number in range(int(part.max(initial=-1)) + 1):
        chosen = np.flatnonzero(part == number)
        yield _of_positives(step, chosen) if by_positive else _of_pairs(step, chosen)


def whole_step(step: Step) -> MicroBatch:
    """Return a step as the only part of it."""
    owners = {axis: torch.arange(len(each.present)) for axis, each in step.owners.items()}
    return MicroBatch(step, torch.arange(len(step.local_rows)), owners)


def summed_gradients(
    step: Step,
    specs: Mapping[str, ParamSpec],
    gradients: Iterable[tuple[MicroBatch, Mapping[str, Tensor | None]]],
) -> dict[str, Tensor | None]:
    """Add up the gradients of parts to those of the step, by name; None: no part has one.

    Args:
        step: The whole step.
        specs: Of the parameters.
        gradients: Of each part: as `fedrec.training.clipping.clipped` says.
    """
    sums: dict[str, Tensor | None] = {}
    for part, by_name in gradients:
        for name, gradient in by_name.items():
            total, axis = sums.setdefault(name, None), specs[name].axis
            if gradient is not None:
                if total is None:
                    owners = step.owners.get(axis or "client")
                    n = len(step.local_rows) if owners is None else len(owners.present)
                    total = sums[name] = gradient.new_zeros((n, *gradient.shape[1:]))
                total.index_add_(0, part.places(axis), gradient)
    return sums


def _ranks(clients: IntArray) -> IntArray:
    """Return how many before each have the same client, int64 [n]."""
    order = np.argsort(clients, kind="stable")
    ranks = np.empty(len(clients), np.int64)
    ranks[order] = np.arange(len(clients)) - np.searchsorted(clients[order], clients[order])
    return ranks


def _of_pairs(step: Step, at: IntArray) -> MicroBatch:
    """Return the part with some pairs, int64 [q], ascending."""
    batch, rows = step.pairs, torch.as_tensor(at)
    owners, places = {}, {}
    for axis, all_owners in step.owners.items():
        owners[axis], places[axis] = _owners_of_pairs(all_owners, at)
    users = batch.users[rows]
    pairs = replace(
        batch,
        users=users,
        items=batch.items[rows],
        clients=batch.clients[rows],
        labels=batch.labels[rows],
        offsets=np.searchsorted(to_array(users), np.arange(len(batch.offsets))),
        index=batch.index[rows],
        context=None if batch.context is None else batch.context[rows],
    )
    part = replace(
        step,
        pairs=pairs,
        local_rows=step.local_rows[rows],
        every_row=False,
        owners=owners,
        asked=None,
    )
    if step.scored is None:
        is_positive, n_negative = step.is_positive[rows], step.n_negative[rows]
        part = replace(part, is_positive=is_positive, n_negative=n_negative)
    return MicroBatch(part, rows, places)


def _of_positives(step: Step, positives: IntArray) -> MicroBatch:
    """Return the part with some positives, int64 [p], their negatives and their histories."""
    assert step.asked is not None
    batch, asked = step.pairs, to_array(step.asked)[positives]
    wanted, history = [asked.ravel()], batch.history
    if history is not None:
        present = np.zeros(len(history.rows), bool)
        present[to_array(batch.users)[asked[:, 0]]] = True
        history = _of_users(history, present)
        wanted.append(history.rows.values)
    at = np.unique(np.concatenate(wanted))
    part = _of_pairs(step, at)
    cut = replace(part.step, asked=torch.as_tensor(np.searchsorted(at, asked)))
    if history is not None:
        places = np.searchsorted(at, history.rows.values)
        history = replace(history, rows=Ragged(history.rows.offsets, places))
        cut = replace(cut, pairs=replace(cut.pairs, history=history))
    if step.context is not None:
        scores = torch.arange(len(step.context)).view_as(step.asked)[torch.as_tensor(positives)]
        scores = scores.flatten()
        cut = replace(
            cut,
            is_positive=step.is_positive[scores],
            n_negative=step.n_negative[scores],
            context=step.context[scores],
        )
    return replace(part, step=cut)


def _of_users(history: Histories, present: NDArray[np.bool_]) -> Histories:
    """Return histories that are empty for users who are not present, bool [u]."""
    rows, inside = history.rows, np.repeat(present, history.rows.lengths)
    times, ratings = (None if c is None else c[inside] for c in (history.times, history.ratings))
    lengths = np.where(present, rows.lengths, 0)
    at = Ragged(offsets_of(lengths), rows.values[inside])
    return Histories(at, history.items[inside], times, ratings)


def _owners_of_pairs(owners: Owners, at: IntArray) -> tuple[Owners, Tensor]:
    """Return the owners of some pairs, and where they stand among all."""
    rows, index = np.unique(owners.index[at], return_inverse=True)
    rows = rows[rows < len(owners.present)]  # the last may stand for pairs without an owner
    offsets = None
    if owners.offsets is not None:
        offsets = offsets_of(np.bincount(index, minlength=len(rows)))
    return Owners(owners.present[rows], index, offsets), torch.as_tensor(rows)

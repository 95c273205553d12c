"""What a client's job takes, known before it trained: examples, and bytes in each direction."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import numpy as np

from fedrec.aggregation.codec import payload_bytes
from fedrec.aggregation.reduce import VALUE_BYTES
from fedrec.aggregation.update import RowBlock, UpdateBatch
from fedrec.compute.context import RoundContext
from fedrec.ragged import empty_rows
from fedrec.training.draws import capacity, trained_positives
from fedrec.training.task import ClientTask
from fedrec.transforms.attacks.base import Attack
from fedrec.transforms.pipeline import memory_specs, transformed
from fedrec.types import FloatArray, IntArray, Shard

_DIGITS = 4
"""Binary digits behind the first to which numbers of rows are rounded up."""


@dataclass(frozen=True, slots=True)
class Work:
    """What a job of each client takes.

    Args:
        examples: int64 [n], train items, those of each local epoch.
        down: int64 [n], bytes that it receives.
        up: int64 [n], bytes that it sends.
    """

    examples: IntArray
    down: IntArray
    up: IntArray

    def of(self, clients: IntArray) -> tuple[IntArray, IntArray, IntArray]:
        """Return the examples and the bytes down and up of some clients, each int64 [c]."""
        return self.examples[clients], self.down[clients], self.up[clients]


def work_of(task: ClientTask, shard: Shard) -> Work:
    """Return what a job of each client takes.

    The bytes down are those that are reported. The bytes up are estimated, as the clock asks for
    them before the client has trained: as if it touched as many different rows as it may, at most
    all: with n train items n * (1 + negatives * epochs), and what the personalization draws beside
    them. Numbers of rows are rounded up to five binary digits, by a sixteenth at most. Made rows,
    evenly spaced, go through the transforms, and the payload of what they send is measured, so a
    transform that sends less makes the upload shorter.

    Args:
        task: What is trained.
        shard: All clients.
    """
    positives, _ = trained_positives(task, shard)
    per_epoch = np.bincount(shard.client_of_user(), positives.lengths, shard.n_clients)
    rows = _rounded_up(np.diff(capacity(shard, task)), shard.n_items)
    if not task.tables():
        rows[:] = 0
    distinct, index = np.unique(rows, return_inverse=True)
    made = _MadeUpdates(task, shard, int(distinct.max(initial=0)))
    sizes = np.array([made.payload(k) for k in distinct.tolist()], np.int64)
    examples = per_epoch.astype(np.int64) * len(task.epochs)
    down = np.full(shard.n_clients, _download(task, shard.n_items), np.int64)
    return Work(examples, down, sizes[index])


def _rounded_up(counts: IntArray, most: int) -> IntArray:
    """Return numbers from 0 with few binary digits, none lower than it was, ``most`` at most."""
    digits = np.frexp(counts.astype(np.float64))[1].astype(np.int64)
    step = np.int64(1) << np.maximum(digits - 1 - _DIGITS, 0)
    return np.asarray(np.minimum(-(-counts // step) * step, most))


def _download(task: ClientTask, n_items: int) -> int:
    """Return the bytes of the shared parameters, and of what is sent beside each."""
    size = sum(
        prod(spec.shape) * (n_items if spec.axis == "item" else 1)
        for spec in task.shared_specs().values()
    )
    return VALUE_BYTES * size * (1 + len(task.client_rule.down))


class _MadeUpdates:
    """Updates of one client with any number of rows.

    Args:
        task: What is trained.
        shard: All clients.
        most: Rows, at most.
    """

    def __init__(self, task: ClientTask, shard: Shard, most: int) -> None:
        self._n_items, self._kinds = shard.n_items, ("", *task.client_rule.up)
        self._context = RoundContext(task.seed, 1, shard.n_clients, shard.n_items)
        # Attackers encode as the others do.
        self._transforms = [each for each in task.transforms if not isinstance(each, Attack)]
        specs = task.shared_specs()
        self._tables = {
            name: self._normal(name, (most, *specs[name].shape)) for name in task.tables()
        }
        self._dense = {name: self._normal(name, (1, *specs[name].shape)) for name in task.dense()}
        self._memory = {
            name: np.zeros((0 if spec.axis == "positive" else 1, *spec.shape), np.float32)
            for name, spec in memory_specs(self._transforms, specs).items()
        }

    def payload(self, rows: int) -> int:
        """Return the bytes of the payload of an update with some rows."""
        ids = (np.arange(1, rows + 1) * self._n_items) // max(rows, 1) - 1
        offsets, one = np.array([0, rows]), np.ones(1)
        tables = {
            name + f"/{kind}" * bool(kind): RowBlock(offsets, ids, values[:rows])
            for name, values in self._tables.items()
            for kind in self._kinds
        }
        dense = {
            name + f"/{kind}" * bool(kind): values
            for name, values in self._dense.items()
            for kind in self._kinds
        }
        update = UpdateBatch(1, np.zeros(1, np.int64), one, tables, dense)
        sent, _ = transformed(self._transforms, update, self._memory, empty_rows(1), self._context)
        return int(payload_bytes(sent)[0])

    def _normal(self, name: str, shape: tuple[int, ...]) -> FloatArray:
        nobody, rows = np.zeros(1, np.int64), np.full(1, shape[0], np.int64)
        size = prod(shape[1:])
        return self._context.normal(f"work {name}", nobody, rows, size).reshape(shape)

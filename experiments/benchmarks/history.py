"""What the length of a history costs PLGC: ``python -m experiments.benchmarks.history``."""

import time
from statistics import median

import numpy as np
import torch

from fedrec.models.mf import MatrixFactorization
from fedrec.personalization.base import NoPersonalization, Personalization
from fedrec.personalization.plgc.plgc import PLGC
from fedrec.ragged import Ragged, offsets_of
from fedrec.training.clients import train_clients
from fedrec.training.draws import Layout
from fedrec.training.initial_values import initial_local
from fedrec.training.settings import Train
from fedrec.training.task import ClientTask
from fedrec.types import Shard

__all__ = ["seconds"]

N_ITEMS = 40_981


def seconds(length: int, personalization: Personalization, users: int, repeats: int = 5) -> float:
    """Measure the CPU seconds of one user in a round, with 4 negatives per item and d = 32.

    Args:
        length: Train items of each user.
        personalization: Over matrix factorisation.
        users: Clients of one user each.
        repeats: Measured rounds after one to warm up; their median is returned.
    """
    rng = np.random.default_rng(0)
    items = [np.sort(rng.choice(N_ITEMS, length, replace=False)) for _ in range(users)]
    rows, nothing = np.arange(users, dtype=np.int64), np.zeros(0, np.int64)
    one_each, empty = np.ones(users, np.int64), Ragged(np.zeros(users + 1, np.int64), nothing)
    train = Ragged(offsets_of(one_each * length), np.concatenate(items))
    shard = Shard(N_ITEMS, rows, offsets_of(one_each), rows, train, empty, empty)
    model, settings = MatrixFactorization(embedding_dim=32), Train(backend="numba")
    task = ClientTask(model, personalization, settings, 0)
    owners = Layout.of(task, shard).owner_ids()
    local = {
        name: initial_local(0, name, spec, owners[spec.axis or ""])
        for name, spec in task.stored_specs().items()
    }
    params, laps = task.initial_globals(N_ITEMS), []
    for number in range(1, repeats + 2):
        began = time.process_time()
        train_clients(task, shard, params, local, number, 64)
        laps.append((time.process_time() - began) / users)
    return median(laps[1:])


if __name__ == "__main__":
    torch.set_num_threads(1)
    forms: dict[str, Personalization] = {
        "without PLGC": NoPersonalization(),
        "all items": PLGC(),
        "history_cap 200": PLGC(history_cap=200),
    }
    for length, users in ((100, 128), (2389, 8)):
        for name, form in forms.items():
            print(f"{length} items, {name}: {1e3 * seconds(length, form, users):.2f} ms per user")

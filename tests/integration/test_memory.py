"""What a run holds at once: private parameters of a few clients, and the pairs of a micro-batch."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="reads the peak of Linux"),
]

# Not ru_maxrss, which a process takes over from the one that started it.
HIGH_WATER = """
def high_water():
    status = open("/proc/self/status").read()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024

"""

ADAPTER = """
import torch
from fedrec.models import MatrixFactorization
from fedrec.types import ParamSpec

class Adapter(MatrixFactorization):
    execution = "vmap"

    def params(self, catalogue):
        adapter = ParamSpec("private", "client", (16_384, self.embedding_dim), init_value=0.01)
        return {**super().params(catalogue), "adapter": adapter}

    def score(self, params, batch, vectors):
        return ((params["user"] + params["adapter"].mean(-2)) * vectors).sum(-1)

    def rank(self, params, batch, encoded):
        return (params["user"] + params["adapter"].mean(-2)) @ encoded.T
"""

SCRIPT = (
    HIGH_WATER
    + """
import clients.node, clients.state_store
import fedrec

MIB = 2**20
clients.node._RANKED_BYTES = clients.state_store._MAPPED_BYTES = 4 * MIB

def peak(users):
    experiment = {
        "data": {"name": "synthetic", "users": users, "items": 40},
        "model": {"name": "adapter:Adapter", "embedding_dim": 8},
        "rounds": {"count": 1},
        "engine": "serial",
    }
    assert fedrec.run(experiment, out=f"of-{users}").result["status"] == "completed"
    return high_water()

few, many = 60, 600
before = peak(few)
print((many - few) * 16_384 * 8 * 4 / MIB, peak(many) - before)
"""
)


def test_private_parameters_are_held_a_few_clients_at_a_time(tmp_path: Path) -> None:
    (tmp_path / "adapter.py").write_text(ADAPTER, encoding="utf-8")
    private, grown = numbers_of(SCRIPT, tmp_path)
    assert grown < private  # not one copy of what the further clients have


STEP = (
    HIGH_WATER
    + """
import numpy as np
from fedrec.training.clients import train_clients
from tests.contracts.own_models import SmallNet
from tests.planted import initial_state, method_of, shard_of

WIDTH, ITEMS = 8192, 3000
items = np.random.default_rng(0).choice(ITEMS, 1000, replace=False).tolist()
shard = shard_of(ITEMS, [items])

def peak(micro_batch):
    model = SmallNet(embedding_dim=8, hidden=WIDTH)
    task = method_of({"negatives": 4, "micro_batch": micro_batch}, model=model)
    train_clients(task, shard, *initial_state(task, shard), 1)
    return high_water()

peak(1)
in_parts = peak(200)
print(ITEMS * WIDTH * 4 / 2**20, peak(None) - in_parts)
"""
)


def test_a_micro_batch_holds_what_its_pairs_take(tmp_path: Path) -> None:
    """All pairs at once hold the hidden layer of each, and its gradient, the more."""
    hidden, saved = numbers_of(STEP, tmp_path)
    assert saved > hidden


def numbers_of(script: str, folder: Path) -> list[float]:
    """Run a script in a process of its own; return what it prints."""
    (folder / "script.py").write_text(script, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "script.py"],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        cwd=folder,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return [float(number) for number in done.stdout.split()]

"""What a run holds at once does not grow with its clients that have private parameters."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="reads the peak of Linux"),
]

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

SCRIPT = """
import resource
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
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

few, many = 60, 300
before = peak(few)
print((many - few) * 16_384 * 8 * 4 / MIB, peak(many) - before)
"""


def test_private_parameters_are_held_a_few_clients_at_a_time(tmp_path: Path) -> None:
    (tmp_path / "adapter.py").write_text(ADAPTER, encoding="utf-8")
    (tmp_path / "script.py").write_text(SCRIPT, encoding="utf-8")
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "script.py"],
        env={**os.environ, "PYTHONPATH": str(root)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    private, grown = map(float, done.stdout.split())
    assert grown < private  # not one copy of what the further clients have

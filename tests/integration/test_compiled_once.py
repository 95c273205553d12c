"""The kernel gives the same bits in the process that had it compiled and in all later ones."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("numba", reason="needs the extra 'sim'")

pytestmark = pytest.mark.slow

SCRIPT = """
import hashlib
import numpy as np
from fedrec.personalization.plgc.plgc import PLGC
from fedrec.training.executors.numba import kernel
from fedrec.training.clients import train_clients
from tests.planted import initial_state, method_of, shard_of

draw = np.random.default_rng(0)
rows = [sorted(draw.choice(200, draw.integers(3, 60), replace=False)) for _ in range(20)]
shard = shard_of(200, rows)
for own in (PLGC(tau=2.0, decorrelation=1e-4), PLGC(history_cap=9), None):
    method = method_of({"backend": "numba"}, own)
    params, local = initial_state(method, shard)
    update, after = train_clients(method, shard, params, local, 1)
    arrays = [update.tables["item"].values, update.metrics["loss"], *after.values()]
    print(hashlib.sha256(b"".join(value.tobytes() for value in arrays)).hexdigest())
print(sum(kernel.train.stats.cache_misses.values()))
"""


def test_who_compiles_does_not_matter(tmp_path: Path) -> None:
    """A cold cache, then a warm one: equal bits, and neither process compiled the kernel itself.

    The working folder is that of another fedrec, as it may be of a Ray worker.
    """
    root = Path(__file__).parents[2]
    environment = {**os.environ, "FEDREC_CACHE": str(tmp_path), "PYTHONPATH": str(root)}
    script, other = tmp_path / "script.py", tmp_path / "other"
    script.write_text(SCRIPT)
    (other / "fedrec").mkdir(parents=True)
    (other / "fedrec" / "__init__.py").touch()
    cold, warm = (
        subprocess.run(
            [sys.executable, str(script)],
            env=environment,
            cwd=other,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for _ in range(2)
    )
    assert cold == warm
    assert cold.splitlines()[-1] == "0"


def test_a_kernel_that_cannot_be_built_is_one_error(tmp_path: Path) -> None:
    """No folder to keep it in: the error says why and the way out, at once the second time too."""
    (tmp_path / "file").write_text("")
    script = """
from fedrec.errors import EngineError
from fedrec.compute.numba_compiler import build
for _ in range(2):
    try:
        build()
    except EngineError as error:
        print(error)
"""
    root = Path(__file__).parents[2]
    cache = str(tmp_path / "file")
    environment = {**os.environ, "FEDREC_CACHE": cache, "PYTHONPATH": str(root)}
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    first, second = done.stdout.splitlines()
    assert first == second
    assert "cannot be compiled" in first
    assert "FEDREC_CACHE" in first


def test_products_have_one_thread() -> None:
    """Every BLAS that is there after training in machine code was held to one thread in it."""
    script = """
import numpy as np
from threadpoolctl import ThreadpoolController
from fedrec.personalization.plgc.plgc import PLGC
from fedrec.training.executors.numba import kernel
from fedrec.training.executors.numba.executor import train_numba
from tests.planted import initial_state, method_of, shard_of

def libraries():
    pools = ThreadpoolController().select(user_api="blas").info()
    return {each["filepath"]: each["num_threads"] for each in pools}

train, during = kernel.train, {}

def watched(*given):
    during.update(libraries())
    train(*given)

kernel.train = watched
draw = np.random.default_rng(0)
shard = shard_of(200, [sorted(draw.choice(200, 40, replace=False)) for _ in range(20)])
method = method_of({"backend": "numba"}, PLGC(tau=2.0, decorrelation=1e-4))
train_numba(method, shard, *initial_state(method, shard), 1)
assert set(libraries()) == set(during), (libraries(), during)
assert set(during.values()) == {1}, during
"""
    environment = {k: v for k, v in os.environ.items() if not k.endswith("_NUM_THREADS")}
    environment["PYTHONPATH"] = str(Path(__file__).parents[2])
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr

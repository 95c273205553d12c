"""Build the kernel in a process of its own; it is only ever loaded where it is used.

In the process that compiles it, a function of the kernel may already stand by itself, optimised
without its callers; the linker then takes that one, and sums round differently from those of a
process that loads the finished kernel. So nobody trains with what it has compiled itself.
"""

import os
import subprocess
import sys
from functools import cache

import numpy as np

from fedrec.compute.numba_compiler import kernel_folder
from fedrec.errors import EngineError
from fedrec.storage.files import hold


def is_built(dtype: str = "float32") -> bool:
    """Whether the kernel for a type, ``float32`` or ``float64``, lies in this machine's cache."""
    return (kernel_folder() / dtype).exists()


def build(dtype: str = "float32") -> None:
    """See to it that the kernel for a type lies in the cache; one process builds, others wait.

    Raises:
        EngineError: If it cannot be built.
    """
    if failure := _built(dtype):
        raise EngineError(
            f"the training kernel cannot be compiled ({failure}); set FEDREC_CACHE to a folder "
            "that can be written to, or train.backend: torch"
        )


@cache
def _built(dtype: str) -> str:
    """Why the kernel cannot be built; empty if it lies in the cache. Tried once in a process."""
    folder, failure = kernel_folder(), ""
    mark, lock = folder / dtype, folder / "lock"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.touch()
        while not (failure or mark.exists()):
            try:
                handle = hold(lock)
            except BlockingIOError:  # after it has waited a moment
                continue
            try:
                failure = "" if mark.exists() else _compile(dtype)
                if not failure:
                    mark.touch()
            finally:
                if handle is not None:
                    os.close(handle)
    except OSError as error:
        return str(error)
    return failure


def _compile(dtype: str) -> str:
    """Compile in a process of its own; return the last line that it complains with."""
    path = os.pathsep.join(entry or "." for entry in sys.path)
    done = subprocess.run(
        [sys.executable, "-c", f"from {__name__} import fill; fill({dtype!r})"],
        env={**os.environ, "PYTHONPATH": path, "FEDREC_CACHE": str(kernel_folder().parents[1])},
        capture_output=True,
        text=True,
        check=False,
    )
    lines = [f"exit code {done.returncode}", *filter(str.strip, done.stderr.splitlines())]
    return lines[-1] if done.returncode else ""


def fill(dtype: str) -> None:
    """Compile the kernel for a type by training one client with it; in a process for that alone."""
    from fedrec.models.mf import MatrixFactorization
    from fedrec.personalization.none import NoPersonalization
    from fedrec.training.executors.numba.executor import train_numba
    from fedrec.training.settings import Train
    from fedrec.training.task import ClientTask, initial_local
    from fedrec.types import Ragged, Shard

    one = np.zeros(1, np.int64)
    item, nothing = Ragged(np.array([0, 1]), one), Ragged(np.array([0, 0]), one[:0])
    shard = Shard(4, one, item.offsets, one, item, nothing, nothing)
    model, plain = MatrixFactorization(embedding_dim=2), NoPersonalization()
    task = ClientTask(model, plain, Train(), 0, dtype=dtype)
    local = {name: initial_local(0, name, spec, one) for name, spec in task.locals().items()}
    train_numba(task, shard, task.initial_globals(4), local, 1)

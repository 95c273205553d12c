"""Federated recommendation: simulate, benchmark and deploy, on Flower and Ray."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fedrec.config.experiment import Experiment, load_experiment
    from fedrec.runs.result import Recommendation, RunResult, load
    from fedrec.runs.resume import resume
    from fedrec.runs.run import run

    __version__: str

__all__ = [
    "Experiment",
    "Recommendation",
    "RunResult",
    "load",
    "load_experiment",
    "resume",
    "run",
]

_MODULE_OF = {
    "Experiment": "fedrec.config.experiment",
    "Recommendation": "fedrec.runs.result",
    "RunResult": "fedrec.runs.result",
    "load": "fedrec.runs.result",
    "load_experiment": "fedrec.config.experiment",
    "resume": "fedrec.runs.resume",
    "run": "fedrec.runs.run",
}


def __getattr__(name: str) -> Any:
    # Imported on first use, so that the command line's help does not wait for torch.
    if name == "__version__":
        return importlib.import_module("importlib.metadata").version("fedrec")
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'fedrec' has no attribute '{name}'")
    return getattr(importlib.import_module(_MODULE_OF[name]), name)

"""Federated recommendation: simulate, benchmark and deploy, on Flower and Ray."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fedrec.config.experiment import Experiment, load_experiment
    from fedrec.errors import FedRecError
    from fedrec.runs.recommend import Recommendation
    from fedrec.runs.result import RunResult, RunResults, load
    from fedrec.runs.run import resume, run

    __version__: str

__all__ = [
    "Experiment",
    "FedRecError",
    "Recommendation",
    "RunResult",
    "RunResults",
    "load",
    "load_experiment",
    "resume",
    "run",
]

_MODULE_OF = {
    "Experiment": "fedrec.config.experiment",
    "FedRecError": "fedrec.errors",
    "Recommendation": "fedrec.runs.recommend",
    "RunResult": "fedrec.runs.result",
    "RunResults": "fedrec.runs.result",
    "load": "fedrec.runs.result",
    "load_experiment": "fedrec.config.experiment",
    "resume": "fedrec.runs.run",
    "run": "fedrec.runs.run",
}


def __getattr__(name: str) -> Any:
    # Imported on first use, so that the command line's help does not wait for torch.
    if name == "__version__":
        return importlib.import_module("importlib.metadata").version("fedrec")
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'fedrec' has no attribute '{name}'")
    return getattr(importlib.import_module(_MODULE_OF[name]), name)

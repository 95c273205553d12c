"""Federated recommendation: simulate, benchmark and deploy, on Flower and Ray."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fedrec.config import Experiment, load_experiment
    from fedrec.results import Recommendation, RunResult, load
    from fedrec.resuming import resume
    from fedrec.running import run

__all__ = [
    "Experiment",
    "Recommendation",
    "RunResult",
    "load",
    "load_experiment",
    "resume",
    "run",
]

_HOME = {
    "Experiment": "fedrec.config",
    "Recommendation": "fedrec.results",
    "RunResult": "fedrec.results",
    "load": "fedrec.results",
    "load_experiment": "fedrec.config",
    "resume": "fedrec.resuming",
    "run": "fedrec.running",
}


def __getattr__(name: str) -> Any:
    # Imported on first use, so that the command line's help does not wait for torch.
    if name not in _HOME:
        raise AttributeError(f"module 'fedrec' has no attribute '{name}'")
    return getattr(importlib.import_module(_HOME[name]), name)

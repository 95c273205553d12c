"""Federated recommendation: simulate, benchmark and deploy, on Flower and Ray."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fedrec.config import Experiment, load_experiment
    from fedrec.running import Recommendation, RunResult, load, run

__all__ = ["Experiment", "Recommendation", "RunResult", "load", "load_experiment", "run"]

_HOME = {
    "Experiment": "fedrec.config",
    "Recommendation": "fedrec.running",
    "RunResult": "fedrec.running",
    "load": "fedrec.running",
    "load_experiment": "fedrec.config",
    "run": "fedrec.running",
}


def __getattr__(name: str) -> Any:
    # Imported on first use, so that the command line's help does not wait for torch.
    if name not in _HOME:
        raise AttributeError(f"module 'fedrec' has no attribute '{name}'")
    return getattr(importlib.import_module(_HOME[name]), name)

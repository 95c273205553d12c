"""How updates become the next global parameters.

A strategy is composed of a client rule, an aggregation and a server optimizer, or is a class of its
own. All work on values: no transport, no clock.
"""

from collections.abc import Mapping

from strategies.base import Strategy
from strategies.clustered import Clustered
from strategies.composed import Composed
from strategies.flower import Flower
from strategies.gpfedrec import GPFedRec
from strategies.presets import FedAdam, FedAvg, FedDyn, FedNova, FedProx, Krum, Median, Scaffold

__all__ = [
    "STRATEGIES",
    "Clustered",
    "Composed",
    "FedAdam",
    "FedAvg",
    "FedDyn",
    "FedNova",
    "FedProx",
    "Flower",
    "GPFedRec",
    "Krum",
    "Median",
    "Scaffold",
    "Strategy",
]

STRATEGIES: Mapping[str, type[Strategy]] = {
    "clustered": Clustered,
    "fedadam": FedAdam,
    "fedavg": FedAvg,
    "feddyn": FedDyn,
    "fednova": FedNova,
    "fedprox": FedProx,
    "flower": Flower,
    "gpfedrec": GPFedRec,
    "krum": Krum,
    "median": Median,
    "scaffold": Scaffold,
}

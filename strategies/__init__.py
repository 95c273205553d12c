"""How updates become the next global parameters. Pure functions on arrays; one file each."""

from collections.abc import Mapping

from strategies.base import Strategy
from strategies.clustered import Clustered
from strategies.fedadam import FedAdam
from strategies.fedavg import FedAvg
from strategies.fedprox import FedProx
from strategies.robust import Krum, Median
from strategies.scaffold import Scaffold

__all__ = [
    "STRATEGIES",
    "Clustered",
    "FedAdam",
    "FedAvg",
    "FedProx",
    "Krum",
    "Median",
    "Scaffold",
    "Strategy",
]

STRATEGIES: Mapping[str, type[Strategy]] = {
    "clustered": Clustered,
    "fedadam": FedAdam,
    "fedavg": FedAvg,
    "fedprox": FedProx,
    "krum": Krum,
    "median": Median,
    "scaffold": Scaffold,
}

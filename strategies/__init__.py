"""How updates become the next global parameters. Pure functions on arrays; one file each."""

from collections.abc import Mapping

from strategies.base import Strategy
from strategies.fedadam import FedAdam
from strategies.fedavg import FedAvg

__all__ = ["STRATEGIES", "FedAdam", "FedAvg", "Strategy"]

STRATEGIES: Mapping[str, type[Strategy]] = {
    "fedadam": FedAdam,
    "fedavg": FedAvg,
}

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
from strategies.presets import (
    RFA,
    Bulyan,
    CentredClipping,
    FedAdagrad,
    FedAdam,
    FedAvg,
    FedAvgM,
    FedDyn,
    FedNova,
    FedProx,
    FedYogi,
    Krum,
    Median,
    MultiKrum,
    NormBounded,
    QFedAvg,
    Scaffold,
    TrimmedMean,
)

__all__ = [
    "RFA",
    "STRATEGIES",
    "Bulyan",
    "CentredClipping",
    "Clustered",
    "Composed",
    "FedAdagrad",
    "FedAdam",
    "FedAvg",
    "FedAvgM",
    "FedDyn",
    "FedNova",
    "FedProx",
    "FedYogi",
    "Flower",
    "GPFedRec",
    "Krum",
    "Median",
    "MultiKrum",
    "NormBounded",
    "QFedAvg",
    "Scaffold",
    "Strategy",
    "TrimmedMean",
]

STRATEGIES: Mapping[str, type[Strategy]] = {
    "bulyan": Bulyan,
    "centred_clipping": CentredClipping,
    "clustered": Clustered,
    "fedadagrad": FedAdagrad,
    "fedadam": FedAdam,
    "fedavg": FedAvg,
    "fedavgm": FedAvgM,
    "feddyn": FedDyn,
    "fednova": FedNova,
    "fedprox": FedProx,
    "fedyogi": FedYogi,
    "flower": Flower,
    "gpfedrec": GPFedRec,
    "krum": Krum,
    "median": Median,
    "multi_krum": MultiKrum,
    "norm_bounded": NormBounded,
    "qfedavg": QFedAvg,
    "rfa": RFA,
    "scaffold": Scaffold,
    "trimmed_mean": TrimmedMean,
}

"""How the server steps along the joint change; one file each."""

from collections.abc import Mapping

from strategies.server_optimizers.adam import Adam
from strategies.server_optimizers.base import ServerOptimizer
from strategies.server_optimizers.sgd import SGD

SERVER_OPTIMIZERS: Mapping[str, type[ServerOptimizer]] = {
    "adam": Adam,
    "sgd": SGD,
}

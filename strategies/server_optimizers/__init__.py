"""How the server steps along the joint change; one file each."""

from collections.abc import Mapping

from strategies.server_optimizers.adagrad import Adagrad
from strategies.server_optimizers.adam import Adam
from strategies.server_optimizers.base import ServerOptimizer
from strategies.server_optimizers.sgd import SGD
from strategies.server_optimizers.yogi import Yogi

SERVER_OPTIMIZERS: Mapping[str, type[ServerOptimizer]] = {
    "adagrad": Adagrad,
    "adam": Adam,
    "sgd": SGD,
    "yogi": Yogi,
}

"""The compiled kernels: one client after the other, nothing larger than the client in the cache.

Each client is computed on its own by the same machine code, so its bits depend on nothing but its
own data. The readable reference is `fedrec.training.local_sgd`.
"""

from fedrec.training.executors.numba.train import train
from fedrec.training.executors.numba.values import BALANCES, Data, Local, Rule, Settings, Sums

__all__ = ["BALANCES", "Data", "Local", "Rule", "Settings", "Sums", "train"]

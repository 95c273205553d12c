"""The compiled kernels: one client after the other, nothing larger than the client in the cache.

Each client is computed on its own by the same machine code, so its bits depend on nothing but its
own data. The readable reference is `fedrec.training.kernel`.
"""

from fedrec.training.jit.train import train
from fedrec.training.jit.values import BALANCES, Data, Local, Rule, Settings, Sums

__all__ = ["BALANCES", "Data", "Local", "Rule", "Settings", "Sums", "train"]

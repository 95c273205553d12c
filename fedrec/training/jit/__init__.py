"""The compiled kernels: one client after the other, nothing larger than the client in the cache.

Each client is computed on its own by the same machine code, so its bits depend on nothing but its
own data. The readable reference is `fedrec.training.kernel`.
"""

from fedrec.training.jit.draws import draw_uniform
from fedrec.training.jit.train import BALANCES, Data, Local, Settings, train

__all__ = ["BALANCES", "Data", "Local", "Settings", "draw_uniform", "train"]

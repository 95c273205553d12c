"""Where tensors lie: all of a computation on one device, and back to arrays on the CPU.

What is created by `torch.as_tensor`, `torch.zeros` and the like lies on the device of the
computation (`computing_on`), so the code in between names none. The backward pass of a GPU runs in
a thread of its own, which does not know of it: there a new tensor has to name its device.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from fedrec.types import FloatArray

CPU = "cpu"


@contextmanager
def computing_on(device: str) -> Iterator[None]:
    """Create tensors on a device, such as ``cuda:0``, unless they name another."""
    if device == CPU:  # torch's default; to say so costs time at every operation
        yield
        return
    with torch.device(device):
        yield


def to_array(values: Tensor) -> FloatArray:
    """Return a tensor as an array on the CPU; of a tensor on the CPU, the same memory."""
    return values.detach().cpu().numpy()

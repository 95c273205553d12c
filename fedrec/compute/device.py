"""Where tensors lie: all of a computation on one device, and back to arrays on the CPU.

What is created by `torch.as_tensor`, `torch.zeros` and the like lies on the device of the
computation (`Resources.computing`), so the code in between names none. The backward pass of a GPU
runs in a thread of its own, which does not know of it: there a new tensor has to name its device.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from fedrec.errors import ConfigError
from fedrec.types import FloatArray

Precision: TypeAlias = Literal["float32", "bf16", "fp16"]
"""In what a model computes while training; parameters and gradients are float32."""

_KINDS = {"bf16": torch.bfloat16, "fp16": torch.float16}

_SCALE = 256.0
"""fp16: the loss times it, so that small gradients do not become 0; a power of two is exact."""


@dataclass(frozen=True, slots=True)
class Resources:
    """What a process computes with.

    Args:
        device: ``cpu``, ``cuda`` or ``cuda:N``.
        precision: Of models while training.
        memory: Bytes that clients trained together may take; None: as little as is fast.
    """

    device: str = "cpu"
    precision: Precision = "float32"
    memory: int | None = None

    @contextmanager
    def computing(self) -> Iterator[None]:
        """Create tensors on the device, unless they name another."""
        if self.device == "cpu":  # torch's default; to say so costs time at every operation
            yield
            return
        with torch.device(self.device):
            yield

    def autocast(self) -> AbstractContextManager[object]:
        """Let matrix products and the like compute in the precision."""
        if self.precision == "float32":
            return nullcontext()
        return torch.autocast(self.device.partition(":")[0], _KINDS[self.precision])

    @property
    def loss_scale(self) -> float:
        """Return what the loss is multiplied with, and its gradients are divided by."""
        return _SCALE if self.precision == "fp16" else 1.0


def sees_gpu() -> bool:
    """Return whether torch can compute on a GPU here."""
    return torch.cuda.is_available()


def check_device(device: str) -> None:
    """Check that torch sees a device.

    Raises:
        ConfigError: If it does not.
    """
    if not device.startswith("cuda"):
        return
    n, number = torch.cuda.device_count() if sees_gpu() else 0, int(device[5:] or 0)
    if number >= n:
        gpus = "no GPU" if n == 0 else f"{n} GPU" + "s" * (n > 1)
        raise ConfigError(
            f"engine.device: {device}, but torch {torch.__version__} sees {gpus} here; write "
            "auto or cpu, or install a torch and a driver that fit the GPU"
        )


def gpu_bytes(device: str) -> int:
    """Return how much memory a GPU has."""
    return torch.cuda.get_device_properties(device).total_memory


def described(device: str) -> str:
    """Return a device with the name of its card, as in ``cuda:0 (NVIDIA H100)``."""
    if not device.startswith("cuda") or not sees_gpu():
        return device
    return f"{device} ({torch.cuda.get_device_name(device)})"


def to_array(values: Tensor) -> FloatArray:
    """Return a tensor as an array on the CPU; of a tensor on the CPU, the same memory."""
    return values.detach().cpu().numpy()

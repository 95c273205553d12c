# mypy: disable-error-code="assignment,no-untyped-call,override"
"""A device for machines that have none but the CPU: it computes there, but refuses mixes.

Its tensors call their device ``meta``. As on a GPU, an operation takes all its tensors from one
device, but for single numbers and for indices; and no tensor of it has memory that numpy can see.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode  # noqa: PLC2701
from torch.utils._pytree import tree_flatten, tree_map  # noqa: PLC2701

NAME = "meta"
_INDEXING = {"index.Tensor", "index_put.default", "index_put_.default", "_index_put_impl_.default"}


class Elsewhere(torch.Tensor):
    """A tensor of the device."""

    inner: torch.Tensor

    @staticmethod
    def __new__(cls, inner: torch.Tensor) -> "Elsewhere":
        made = torch.Tensor._make_wrapper_subclass(
            cls,
            inner.size(),
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device=torch.device(NAME),
        )
        made.inner = inner
        return made

    def __repr__(self) -> str:
        return f"Elsewhere({self.inner})"

    def tolist(self) -> Any:
        return self.inner.tolist()

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _compute(func, args, kwargs or {})


class _Mode(TorchDispatchMode):
    """Makes what is created with the device one of its tensors."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _compute(func, args, kwargs or {})


class _OfNumbers(TorchFunctionMode):
    """Keeps the numbers of `torch.tensor`, which torch drops for ``meta`` before anybody sees."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = kwargs or {}
        if func is torch.tensor and str(given.get("device")) == NAME:
            return func(*args, **{**given, "device": "cpu"}).to(NAME)
        return func(*args, **given)


@contextmanager
def other_device() -> Iterator[str]:
    """Let there be such a device; its name."""
    with _Mode(), _OfNumbers():
        yield NAME


def _compute(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    flat, _ = tree_flatten((args, kwargs))
    tensors = [each for each in flat if isinstance(each, torch.Tensor)]
    ours = [each for each in tensors if isinstance(each, Elsewhere)]
    wanted = kwargs.get("device")
    to_other = wanted is not None and torch.device(wanted).type == NAME
    to_cpu = wanted is not None and not to_other
    name = f"{func.overloadpacket.__name__}.{func._overloadname}"
    mixed = [each for each in tensors if not isinstance(each, Elsewhere) and each.dim() > 0]
    if name in _INDEXING and isinstance(args[0], Elsewhere):
        mixed = []
    if name.startswith(("copy_.", "_to_copy.")):
        mixed = []
    if ours and mixed:
        raise RuntimeError(f"{name}: tensors of two devices: {[tuple(t.shape) for t in tensors]}")
    if to_other:
        kwargs = {**kwargs, "device": "cpu"}
    result = func(*tree_map(_inner, args), **tree_map(_inner, kwargs))
    if not (ours or to_other) or to_cpu or (name.startswith("copy_.") and args[0] not in ours):
        return result
    if func._schema.is_mutable and ours and isinstance(args[0], Elsewhere):
        return args[0] if isinstance(result, torch.Tensor) else tree_map(_wrapped, result)
    if "out" in kwargs:
        return kwargs["out"]
    return tree_map(_wrapped, result)


def _inner(value: Any) -> Any:
    return value.inner if isinstance(value, Elsewhere) else value


def _wrapped(value: Any) -> Any:
    return Elsewhere(value) if isinstance(value, torch.Tensor) else value

"""Take the arrays out of a Flower message, so that equal arrays travel once.

The message is serialised without its arrays; each array follows as its description and its bytes,
which an engine may replace by a reference to bytes that the other side already has.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Sequence
from typing import Any, NamedTuple

from flwr.app import Array, Message

__all__ = ["MessageArray", "join_arrays", "split_arrays"]


class MessageArray(NamedTuple):
    """An array of a message.

    Args:
        dtype: as Flower writes it.
        shape: of the array.
        stype: how Flower serialised it.
        data: the serialised bytes, or a reference to them.
    """

    dtype: str
    shape: tuple[int, ...]
    stype: str
    data: Any


class _Pickler(pickle.Pickler):
    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file, protocol=5)
        self.arrays: list[MessageArray] = []

    def persistent_id(self, value: Any) -> int | None:
        if type(value) is not Array:
            return None
        self.arrays.append(MessageArray(value.dtype, value.shape, value.stype, value.data))
        return len(self.arrays) - 1


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: io.BytesIO, arrays: Sequence[Array]) -> None:
        super().__init__(file)
        self._arrays = arrays

    def persistent_load(self, pid: Any) -> Array:
        return self._arrays[int(pid)]


def split_arrays(message: Message) -> tuple[bytes, list[MessageArray]]:
    """Return a message without its arrays, and the arrays in the order in which they occur."""
    body = io.BytesIO()
    pickler = _Pickler(body)
    pickler.dump(message)
    return body.getvalue(), pickler.arrays


def join_arrays(body: bytes, arrays: Sequence[Array]) -> Message:
    """Invert `split_arrays`; the arrays come in the same order."""
    message: Message = _Unpickler(io.BytesIO(body), arrays).load()
    return message

"""A Flower message taken apart, so that equal arrays travel once.

The message is serialised with its arrays left out; each array follows as its description and its
bytes, which an engine may replace by a reference to bytes that the other side already has.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Sequence
from typing import Any, NamedTuple

from flwr.app import Array, Message

__all__ = ["Piece", "assemble", "take_apart"]


class Piece(NamedTuple):
    """An array of a message.

    Args:
        dtype: as Flower writes it.
        shape: of the array.
        stype: how Flower serialised it.
        data: the serialised bytes, or what stands for them.
    """

    dtype: str
    shape: tuple[int, ...]
    stype: str
    data: Any


class _Pickler(pickle.Pickler):
    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file, protocol=5)
        self.pieces: list[Piece] = []

    def persistent_id(self, value: Any) -> int | None:
        if type(value) is not Array:
            return None
        self.pieces.append(Piece(value.dtype, value.shape, value.stype, value.data))
        return len(self.pieces) - 1


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: io.BytesIO, arrays: Sequence[Array]) -> None:
        super().__init__(file)
        self._arrays = arrays

    def persistent_load(self, pid: Any) -> Array:
        return self._arrays[int(pid)]


def take_apart(message: Message) -> tuple[bytes, list[Piece]]:
    """The message without its arrays, and the arrays in the order in which they occur."""
    body = io.BytesIO()
    pickler = _Pickler(body)
    pickler.dump(message)
    return body.getvalue(), pickler.pieces


def assemble(body: bytes, arrays: Sequence[Array]) -> Message:
    """The inverse of `take_apart`.

    Args:
        body: The message without its arrays.
        arrays: One per piece, in the same order.
    """
    message: Message = _Unpickler(io.BytesIO(body), arrays).load()
    return message

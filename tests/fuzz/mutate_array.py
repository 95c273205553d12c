"""Damage of arrays in numpy's ``.npy``: values, shapes, types, and headers that claim another."""

import re
from io import BytesIO
from random import Random
from typing import Any

import numpy as np

from fedrec.types import FloatArray

MAGIC = b"\x93NUMPY"

_TYPES = ("<i4", "<i8", "<u8", ">i8", "<f2", "<f4", "<f8", ">f4", "|u1", "|i1", "|b1", "<c8", "<U2")
_CLAIMED_TYPES = (*_TYPES, "|O", "|V0", "<U0", "<U99999999", "<M8[s]", "<f16", "<m8", "x", "")
_CLAIMED_SIZES = ("0", "1", "-1", "3", "65536", "1000000000", "1152921504606846976", "9" * 30)
_FLOATS = (0.0, -0.0, -1.0, 1e-45, 1e6, 3e38, 1e300, np.nan, np.inf, -np.inf)
_INTEGERS = (0, 1, -1, 2, 7, 127, 128, 2**31 - 1, 2**31, 2**40, 2**62, 2**63 - 1, -(2**63))


_MOST_VALUES = 2**16
"""Of an array that is changed: one of values without bytes may claim any number of them."""


def damaged_array(content: bytes, rng: Random) -> bytes:
    """Return an array with one damage; as it is where it cannot be read.

    Args:
        content: As `numpy.save` writes it.
        rng: Draws the damage.
    """
    if rng.random() < 0.25:
        return _claimed(content, rng)
    array = loaded(content)
    return content if array is None else saved(_changed(array, rng))


def loaded(content: bytes) -> FloatArray | None:
    """Return the array of a ``.npy`` file; None where it cannot be read, or is large."""
    try:
        array: FloatArray = np.load(BytesIO(content), allow_pickle=False)
    except Exception:  # numpy parses the header as Python
        return None
    return array if max((array.size, *array.shape)) < _MOST_VALUES else None


def saved(array: FloatArray) -> bytes:
    """Return an array as a ``.npy`` file."""
    buffer = BytesIO()
    np.lib.format.write_array(buffer, np.asarray(array, order="C"), allow_pickle=False)
    return buffer.getvalue()


def _changed(array: FloatArray, rng: Random) -> FloatArray:
    n = len(array) if array.ndim else 0
    match rng.randrange(8):
        case 0 if array.dtype.kind in "biuf":
            with np.errstate(all="ignore"):
                return np.asarray(array.astype(rng.choice(_TYPES)))
        case 1:
            shapes = [array.shape[:-1], (1, *array.shape), (*array.shape, 1), (-1,), ()]
            size = rng.choice(shapes)
            return np.asarray(np.resize(array, size if size != (-1,) else array.size))
        case 2 if n:
            return array[: rng.randrange(n)] if rng.random() < 0.8 else array[:0]
        case 3 if n:
            return np.concatenate([array, array[rng.randrange(n) :][:3]])
        case 4 if n:
            return np.asarray(array[sorted(range(n), key=lambda _: rng.random())])
        case 5 if n:
            return array[::-1]
        case 6 if array.dtype.kind in "iuf":
            with np.errstate(all="ignore"):
                return np.asarray(array * np.int64(rng.choice((-1, 0, 2, 100)))).astype(array.dtype)
        case _ if array.size and array.dtype.kind in "biuf":
            return _with_values(array, rng)
    return np.zeros(rng.choice(((), (0,), (1,), (2, 2), (0, 3))), rng.choice(_TYPES))


def _with_values(array: FloatArray, rng: Random) -> FloatArray:
    """Return an array with other values in one place, some or all."""
    special: Any = _FLOATS if array.dtype.kind == "f" else _INTEGERS
    flat = array.copy().reshape(-1)
    value = flat[rng.randrange(flat.size)] if rng.random() < 0.2 else rng.choice(special)
    at = rng.randrange(flat.size)
    with np.errstate(all="ignore"):
        typed = np.array([value]).astype(array.dtype)
    flat[at : at + rng.choice((1, 1, 1, 5, flat.size))] = typed
    return flat.reshape(array.shape)


def _claimed(content: bytes, rng: Random) -> bytes:
    """Return an array whose header claims another shape, type or order than its bytes have."""
    start = len(MAGIC) + 4
    length = int.from_bytes(content[start - 2 : start], "little")
    header, data = content[start : start + length].decode("latin1"), content[start + length :]
    match rng.randrange(5):
        case 0 | 1:
            sizes = [*re.finditer(r"\d+(?=[,)])", header)]
            if sizes:
                size = rng.choice(sizes)
                claimed = rng.choice(_CLAIMED_SIZES)
                header = header[: size.start()] + claimed + header[size.end() :]
        case 2:
            header = re.sub(r"'descr': '[^']*'", f"'descr': '{rng.choice(_CLAIMED_TYPES)}'", header)
        case 3:
            header = header.replace("False", rng.choice(("True", "None", "-" * 9_000 + "1")))
        case _:
            shape = ", ".join(rng.choice(_CLAIMED_SIZES) for _ in range(rng.choice((1, 2, 3, 65))))
            header = re.sub(r"\(.*\)", f"({shape},)", header)
    text = header.encode("latin1")
    return content[: start - 2] + len(text).to_bytes(2, "little") + text + data

"""The values of parameters before the first round."""

from zlib import crc32

import numpy as np

from fedrec.seeds import Purpose, normal
from fedrec.types import FloatArray, IntArray, ParamSpec


def initial_local(seed: int, name: str, spec: ParamSpec, owners: IntArray) -> FloatArray:
    """Return the first values of a private parameter, float32 [n, *shape], by its owners' ids."""
    return draw(seed, Purpose.INIT_LOCAL, name, spec, owners)


def draw(seed: int, purpose: Purpose, name: str, spec: ParamSpec, owners: IntArray) -> FloatArray:
    """Return the first values of a parameter, float32 [n, *shape].

    Args:
        seed: Of the run.
        purpose: Whether the parameter is shared or private.
        name: Of the parameter.
        spec: Its declaration.
        owners: int64 [n], the ids of the owners of its values.
    """
    if spec.values is not None:
        return np.tile(spec.values, (len(owners), *[1] * len(spec.shape)))
    values: FloatArray = np.full((len(owners), *spec.shape), spec.init_value, spec.dtype)
    if spec.init_std > 0:
        noise = normal(seed, purpose, owners, spec.shape, salt=crc32(name.encode()))
        values = values + np.float32(spec.init_std) * noise
    return values

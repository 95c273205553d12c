"""Short summaries of the rows that clients changed."""

import numpy as np

from fedrec.seeds import Purpose, bits
from fedrec.types import FloatArray, RowBlock


def count_sketch(block: RowBlock, buckets: int) -> FloatArray:
    """Return the count sketch of each client's rows, float32 [c, buckets, ...].

    Each row is added to a bucket with a sign, both hashed by its item, the same in every round and
    for every client. The inner product of two sketches is that of the rows in the mean.

    Args:
        block: The changed rows.
        buckets: Size of a sketch.

    Reference: charikar2002finding.
    """
    n = len(block.offsets) - 1
    hashed = bits(0, Purpose.SKETCH, 0, block.ids, np.zeros(len(block.ids), np.int64))
    bucket = ((hashed >> np.uint64(32)) % np.uint64(buckets)).astype(np.int64)
    sign = np.where((hashed & np.uint64(1)) == 1, np.float32(1), np.float32(-1))
    owner = np.repeat(np.arange(n), np.diff(block.offsets))
    sketch = np.zeros((n, buckets, *block.values.shape[1:]), np.float32)
    shape = (-1, *[1] * (block.values.ndim - 1))
    np.add.at(sketch, (owner, bucket), block.values * sign.reshape(shape))
    return sketch

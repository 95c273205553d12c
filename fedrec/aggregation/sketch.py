"""Short summaries of the rows that clients changed."""

import numpy as np
import torch

from fedrec.aggregation.update import RowBlock
from fedrec.seeds import Purpose, bits
from fedrec.types import FloatArray


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
    values = block.values * sign.reshape(-1, *[1] * (block.values.ndim - 1))
    at = np.repeat(np.arange(n), np.diff(block.offsets)) * buckets + bucket
    sketch = torch.zeros((n * buckets, *values.shape[1:]), dtype=torch.float32)
    sketch.index_add_(0, torch.from_numpy(at), torch.from_numpy(values))
    return np.asarray(sketch.numpy().reshape(n, buckets, *values.shape[1:]))

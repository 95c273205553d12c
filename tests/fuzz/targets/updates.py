"""Updates of some clients in every form in which they travel."""

from collections.abc import Sequence
from dataclasses import replace
from functools import cache

import numpy as np

from fedrec.aggregation.update import UpdateBatch
from fedrec.compute.context import RoundContext
from fedrec.ragged import empty_rows
from fedrec.testing.strategies import N_ITEMS, updates
from fedrec.transforms.low_rank import LowRank
from fedrec.transforms.pipeline import transformed
from fedrec.transforms.quantize import Float16, Int8
from fedrec.transforms.top_k import TopK

ROWS: Sequence[Sequence[int]] = ([0, 2, 5], [], [1, 2, 3, 4, 5, 6], [6])
ROUND = 1

_TOP_K = TopK(share=0.2, error_feedback=False)
FORMS = ((), (Float16(),), (Int8(),), (_TOP_K,), (LowRank(rank=2), Int8()), (_TOP_K, Float16()))


@cache
def batches() -> tuple[UpdateBatch, ...]:
    """Return updates of four clients, and some that need long numbers or little room."""
    plain, context = updates(ROWS, 0), RoundContext(0, ROUND, len(ROWS), N_ITEMS)
    item = plain.tables["item"]
    beside = replace(plain, tables={**plain.tables, "item/control": item})
    nothing = empty_rows(len(ROWS))
    formed = [transformed(form, beside, {}, nothing, context)[0] for form in FORMS]
    far = replace(item, ids=item.ids * 40_000)
    every = replace(item, ids=np.arange(len(item.ids)) + 3)
    others = [{"item": far, "bias": plain.tables["bias"]}, {"item": far, "every": every}, {}]
    return (*formed, *(replace(plain, tables=tables) for tables in others))

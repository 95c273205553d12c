"""The updates of single clients on the wire, for a strategy that needs each."""

from __future__ import annotations

from collections.abc import Set as AbstractSet

import numpy as np
from flwr.app import Array, ArrayRecord

from fedrec.errors import ProtocolError
from fedrec.types import FloatArray, RowBlock, UpdateBatch

__all__ = ["decode_each", "encode_each"]

_MARK = ":"


def encode_each(batch: UpdateBatch, allowed: AbstractSet[str]) -> ArrayRecord:
    """Some clients' updates.

    Args:
        batch: The updates.
        allowed: The names that may travel.

    Raises:
        ProtocolError: If it holds another name.
    """
    other = sorted({*batch.tables, *batch.dense} - allowed)
    if other:
        raise ProtocolError(
            f"'{other[0]}' may not leave its client: only {', '.join(sorted(allowed))} travel"
        )
    arrays: dict[str, FloatArray] = {
        "round": np.array([batch.round]),
        "clients": batch.client_ids,
        "weight": np.asarray(batch.weight, np.float64),
    }
    for name, block in batch.tables.items():
        arrays[f"offsets{_MARK}{name}"] = block.offsets
        arrays[f"ids{_MARK}{name}"] = block.ids
        arrays[f"rows{_MARK}{name}"] = block.values
    arrays |= {f"dense{_MARK}{name}": value for name, value in batch.dense.items()}
    arrays |= {f"metric{_MARK}{name}": value for name, value in batch.metrics.items()}
    arrays |= {f"extra{_MARK}{name}": value for name, value in batch.extras.items()}
    return ArrayRecord({name: Array(np.asarray(v, order="C")) for name, v in arrays.items()})


def decode_each(record: ArrayRecord) -> UpdateBatch:
    """What `encode_each` encoded."""
    found: dict[str, dict[str, FloatArray]] = {}
    for key, array in record.items():
        kind, _, name = str(key).partition(_MARK)
        found.setdefault(kind, {})[name] = array.numpy()
    return UpdateBatch(
        round=int(found["round"][""][0]),
        client_ids=found["clients"][""],
        weight=found["weight"][""],
        tables={
            name: RowBlock(offsets, found["ids"][name], found["rows"][name])
            for name, offsets in found.get("offsets", {}).items()
        },
        dense=found.get("dense", {}),
        metrics=found.get("metric", {}),
        extras=found.get("extra", {}),
    )

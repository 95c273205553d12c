"""The training message of a client as bytes, and how many bytes that is.

The payload of a client is one blob: a byte for the version, then the item tables, then the dense
parameters, in the order of the layout. Names, shapes and types are not in it, because both sides
know them from the declarations of the model and the strategy; neither are the client's id, its
number of examples, its loss and the other numbers that are summed: they are framing.

- An item table is a byte that says how it is written; the ids of its rows, as the number of bytes
  and then the gaps or the bitmap, whichever is shorter (`fedrec.aggregation.positions`), or nothing
  where they are those of the table that it belongs to (``item`` for ``item/control``) or else
  of the table before it; the scales of the rows; and the values, row after row.
- Of a sparse block only the values whose bits are not all 0 are sent, after their positions among
  all values of the client, written as ids are; or all values, where that is not longer.
- A dense parameter is its values; one in another form than float32 is as a table of one row, but
  has no ids.

Everything is computed for many clients at once, and does not depend on who they are.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Literal

import numpy as np

from fedrec.aggregation.payload_reader import PayloadReader
from fedrec.aggregation.payload_sections import (
    FLAG_BYTES,
    Section,
    base_of,
    little_endian,
    sections_of,
)
from fedrec.aggregation.positions import Bytes
from fedrec.aggregation.update import RowBlock, UpdateBatch
from fedrec.errors import ProtocolError
from fedrec.ragged import offsets_of
from fedrec.types import FloatArray, IntArray

VERSION, VERSION_BYTES = 1, 1

_DTYPES = ("<f4", "<f8", "<f2", "|i1")


@dataclass(frozen=True, slots=True)
class ParamLayout:
    """How the values of a parameter lie in a payload.

    Args:
        name: of the parameter.
        kind: an item table, a dense parameter, or one whose values are coded.
        shape: of a row, or of the dense parameter, as it travels.
        dtype: of its values, as numpy writes it.
        scaled: whether rows have a scale.
        sparse: whether zeros may be left out.
        basis: see `fedrec.aggregation.update.RowBlock`. A simulated node hands it over
            beside the payloads.
    """

    name: str
    kind: Literal["table", "dense", "coded"]
    shape: tuple[int, ...]
    dtype: str
    scaled: bool = False
    sparse: bool = False
    basis: FloatArray | None = None


@dataclass(frozen=True, slots=True)
class Payloads:
    """The updates of some clients, those of each as its payload.

    Args:
        layout: of a payload.
        offsets: int64 [c + 1]; the payload of client ``k`` is
            ``content[offsets[k]:offsets[k + 1]]``.
        content: uint8.
        round, client_ids, weight, metrics, extras: as those of
            `fedrec.aggregation.update.UpdateBatch`.
    """

    layout: tuple[ParamLayout, ...]
    offsets: IntArray
    content: Bytes
    round: int
    client_ids: IntArray
    weight: FloatArray
    metrics: Mapping[str, FloatArray]
    extras: Mapping[str, FloatArray]


def payload_bytes(batch: UpdateBatch) -> IntArray:
    """Return the bytes of each client's payload, int64 [c], as `encode` writes it.

    This is what is reported as the bytes that clients send. It does not depend on the node where a
    client is simulated, nor on whether the node sums the updates of its clients before it answers.

    Args:
        batch: The updates of some clients, as they were trained or transformed.
    """
    total = np.full(len(batch.client_ids), VERSION_BYTES, np.int64)
    for section in sections_of(batch):
        total += section.sizes
    for rows in batch.summed.values():
        total += FLAG_BYTES + rows.uploaded
    return total


def encode(batch: UpdateBatch) -> Payloads:
    """Encode the updates of some clients, none of them summed.

    Args:
        batch: The updates.
    """
    n = len(batch.client_ids)
    version = Section(np.full(n, VERSION_BYTES), lambda: np.full(n, VERSION, np.uint8))
    sections = [version, *sections_of(batch)]
    places = [
        (section.write().reshape(-1).view(np.uint8), offsets_of(section.sizes).tolist())
        for section in sections
        if section.sizes.any()
    ]
    pieces = [content[ends[k] : ends[k + 1]] for k in range(n) for content, ends in places]
    return Payloads(
        layout=_layout_of(batch),
        offsets=offsets_of(np.sum([section.sizes for section in sections], axis=0)),
        content=np.concatenate([np.empty(0, np.uint8), *pieces]),
        round=batch.round,
        client_ids=batch.client_ids,
        weight=batch.weight,
        metrics=batch.metrics,
        extras=batch.extras,
    )


def decode(payloads: Payloads, shapes: Mapping[str, tuple[int, ...]] | None = None) -> UpdateBatch:
    """Invert `encode`: the same values in the same types, bit for bit.

    Args:
        payloads: The payloads.
        shapes: Of the parameters that clients send, as the receiver knows them: where zeros are
            left out, a few bytes would otherwise take as much memory as they like. None: any.

    Raises:
        ProtocolError: If a payload is of another version, not what the layout says, or of another
            parameter.
    """
    reader = PayloadReader(payloads.content, payloads.offsets)
    if (reader.take(np.full(reader.n, VERSION_BYTES)) != VERSION).any():
        raise ProtocolError(
            f"the payload of a client is not of version {VERSION}; install the same version of "
            "fedrec on server and nodes"
        )
    tables: dict[str, RowBlock] = {}
    dense: dict[str, FloatArray] = {}
    coded: dict[str, RowBlock] = {}
    for param in payloads.layout:
        _check(param, shapes)
        like = np.empty((0, *param.shape), param.dtype)
        if param.kind == "dense":
            content = reader.take(np.full(reader.n, prod(param.shape) * like.itemsize))
            dense[param.name] = content.view(like.dtype).reshape(reader.n, *param.shape)
            continue
        scale, no_rows = np.empty(0, np.float16) if param.scaled else None, np.empty(0, np.int64)
        block = RowBlock(np.zeros(1, np.int64), no_rows, like, scale, param.basis, param.sparse)
        if param.kind == "table":
            tables[param.name] = reader.rows(block, True, base_of(param.name, tables))
        else:
            coded[param.name] = reader.rows(block, False, None)
    reader.finish()
    numbers = {"weight": payloads.weight, **payloads.metrics, **payloads.extras}
    for name, values in {"client_ids": payloads.client_ids, **numbers}.items():
        if values.shape != (reader.n,):
            raise ProtocolError(f"there are {reader.n} payloads, and other clients in '{name}'")
    return UpdateBatch(
        payloads.round,
        payloads.client_ids,
        payloads.weight,
        tables,
        dense,
        payloads.metrics,
        payloads.extras,
        coded=coded,
    )


def _check(param: ParamLayout, shapes: Mapping[str, tuple[int, ...]] | None) -> None:
    """Check what is said of a parameter, before memory is taken for its values."""
    shape, basis = param.shape, param.basis
    fits = param.dtype in _DTYPES and min(shape, default=0) >= 0
    if basis is not None:
        fits = fits and basis.dtype == np.float32 and basis.shape[:-1] == shape[-1:] != ()
        shape = (*shape[:-1], *basis.shape[1:])
    if shapes is not None:
        expected = shapes.get(param.name, (-1, -1))
        fits = fits and shape == (expected[1:] if param.kind == "table" else expected)
    if not fits:
        raise ProtocolError(
            f"the payload of a client has {param.name[:40]!r} of the type {param.dtype[:8]!r} and "
            f"the shape {list(shape)[:8]}"
        )


def _layout_of(batch: UpdateBatch) -> tuple[ParamLayout, ...]:
    def of_rows(name: str, kind: Literal["table", "coded"], block: RowBlock) -> ParamLayout:
        shape, dtype = block.values.shape[1:], little_endian(block.values[:0]).dtype.str
        scaled = block.scale is not None
        return ParamLayout(name, kind, shape, dtype, scaled, block.sparse, block.basis)

    return (
        *(of_rows(name, "table", block) for name, block in batch.tables.items()),
        *(
            ParamLayout(name, "dense", value.shape[1:], little_endian(value[:0]).dtype.str)
            for name, value in batch.dense.items()
        ),
        *(of_rows(name, "coded", block) for name, block in batch.coded.items()),
    )

"""Reads the payloads of clients, the same place of all of them at once."""

from math import prod

import numpy as np
from numpy.typing import NDArray

from fedrec.aggregation.payload_sections import ALL, BITMAP, FLAG_BYTES, GAPS, SAME
from fedrec.aggregation.positions import MOST_BYTES, Bytes, read_bitmaps, read_gaps
from fedrec.aggregation.update import RowBlock
from fedrec.errors import ProtocolError
from fedrec.ragged import Ragged, offsets_of
from fedrec.types import FloatArray, IntArray


class PayloadReader:
    """Reads what stands next in the payload of every client.

    Args:
        content: uint8, the payloads.
        offsets: int64 [c + 1], where they begin.
    """

    def __init__(self, content: Bytes, offsets: IntArray) -> None:
        fits = len(offsets) > 0 and offsets[0] == 0 and offsets[-1] == len(content)
        if not fits or (np.diff(offsets) < 0).any():
            raise ProtocolError("the payloads of the clients are not where they should be")
        self.n = len(offsets) - 1
        self._content = content
        self._at, self._ends = offsets[:-1].copy(), offsets[1:]

    def take(self, sizes: IntArray) -> Bytes:
        """Return the next bytes of each client, as many as given in int64 [c], in one array.

        Raises:
            ProtocolError: If a payload is shorter.
        """
        starts, self._at = self._at, self._at + sizes
        if (self._at > self._ends).any():
            raise ProtocolError("the payload of a client is cut off")
        if not sizes.any():
            return np.empty(0, np.uint8)
        cuts = zip(starts.tolist(), self._at.tolist(), strict=True)
        return np.concatenate([self._content[a:b] for a, b in cuts])

    def finish(self) -> None:
        """Check that everything was read; raise a ProtocolError if not."""
        if (self._at != self._ends).any():
            raise ProtocolError("the payload of a client is longer than its layout says")

    def rows(self, like: RowBlock, has_ids: bool, base: RowBlock | None) -> RowBlock:
        """Return the next block of rows.

        Args:
            like: A block without rows, of the form of this one.
            has_ids: Whether it is one of an item table, and not of one row per client.
            base: Whose ids may stand for its own.

        Raises:
            ProtocolError: If there is no such block.
        """
        flags = self.take(np.full(self.n, FLAG_BYTES))
        of_ids, of_values = flags & np.uint8(3), flags >> np.uint8(2)
        if has_ids and base is None and (of_ids == SAME).any():
            raise ProtocolError("the payload of a client has rows without ids")
        everybody = Ragged(np.arange(self.n + 1), np.zeros(self.n, np.int64))
        rows = self._sets(of_ids, SAME, base) if has_ids else everybody
        scale = None if like.scale is None else self.take(2 * rows.lengths).view("<f2")
        values = self._values(like.values, rows.offsets, of_values)
        return RowBlock(rows.offsets, rows.values, values, scale, like.basis, like.sparse)

    def _values(self, like: FloatArray, offsets: IntArray, flags: Bytes) -> FloatArray:
        dtype, width = like.dtype, prod(like.shape[1:])
        shape, of_all = (int(offsets[-1]), *like.shape[1:]), np.diff(offsets) * width
        all_sent = flags == ALL
        if all_sent.all():
            return self.take(of_all * dtype.itemsize).view(dtype).reshape(shape)
        sets = self._sets(flags, ALL, None)
        if (sets.values >= np.repeat(of_all, sets.lengths)).any():
            raise ProtocolError("the payload of a client has values of rows that it does not have")
        values = np.zeros(prod(shape), dtype)
        at = np.repeat(offsets[:-1] * width, sets.lengths) + sets.values
        values[at] = self.take(sets.lengths * dtype.itemsize).view(dtype)
        rest = self.take(of_all * all_sent * dtype.itemsize)
        values[np.repeat(all_sent, of_all)] = rest.view(dtype)
        return values.reshape(shape)

    def _sets(self, flags: Bytes, left_out: int, base: RowBlock | None) -> Ragged:
        """Return the numbers of each client; those left out have those of the base, or none."""
        if (flags > left_out).any():
            raise ProtocolError("the payload of a client is written in an unknown way")
        sizes = self._numbers(flags != left_out)
        gaps, bitmaps = sizes * (flags == GAPS), sizes * (flags == BITMAP)
        parts = [
            read_gaps(self.take(gaps), gaps),
            read_bitmaps(self.take(bitmaps), bitmaps),
        ]
        if base is not None:
            owners = np.repeat(flags == left_out, np.diff(base.offsets))
            parts.append(Ragged(base.offsets, base.ids).where(owners))
        parts = [part for part in parts if len(part.values)] or parts[:1]
        if len(parts) == 1:
            return parts[0]
        offsets = offsets_of(sum((part.lengths for part in parts), np.zeros(self.n, np.int64)))
        values = np.empty(int(offsets[-1]), np.int64)
        for part in parts:
            values[Ragged(offsets, values).positions(np.flatnonzero(part.lengths))] = part.values
        return Ragged(offsets, values)

    def _numbers(self, present: NDArray[np.bool_]) -> IntArray:
        """Return the next number of each client that has one, 0 for others, int64 [c]."""
        numbers = np.zeros(self.n, np.int64)
        for k in range(MOST_BYTES):
            digits = np.zeros(self.n, np.int64)
            digits[present] = self.take(present.astype(np.int64))
            numbers |= (digits & 127) << (7 * k)
            present = digits >= 128
            if not present.any():
                return numbers
        raise ProtocolError("the payload of a client has a number that is too large")

"""What is done to a client's rows before they are summed: clipping and quantisation.

The numbers are those of `fedrec.transforms.clip` and `fedrec.transforms.quantize`, bit for bit.
"""

from collections import namedtuple
from collections.abc import Sequence

import numpy as np

from fedrec.compute.context import stream_keys
from fedrec.compute.numba_compiler import compiled, inlined
from fedrec.seeds import FIRST, GOLDEN, SECOND
from fedrec.transforms.base import Transform
from fedrec.transforms.clip import Clip
from fedrec.transforms.quantize import Quantize
from fedrec.types import FloatArray, IntArray

Steps = namedtuple("Steps", "kinds bounds stochastic keys largest words value_bytes row_bytes")
"""What is done, one after the other.

``kinds`` int64 [s]; ``bounds`` float64 [s], of clipping; ``stochastic`` bool [s], whether rounding
is. ``keys`` uint64 [s, c], where the random words of each client begin. ``largest`` int32 [s],
changed: the bits of the largest absolute value that was rounded. ``words`` uint64, scratch, as many
as the rows of a client need. ``value_bytes``, ``row_bytes``: of a value, of a row beside its
values, in the client's payload.
"""

_CLIP, _CLIP_ROWS, _FLOAT16, _INT8 = 0, 1, 2, 3

_STEP, _FIRST, _SECOND = np.uint64(GOLDEN), np.uint64(FIRST), np.uint64(SECOND)
_30, _27, _31 = np.uint64(30), np.uint64(27), np.uint64(31)
_EXPONENT, _LOWEST, _DIGITS = np.int32(0x7F800000), np.int32(113 << 23), np.int32(10 << 23)
_LEVELS, _LEAST = np.float32(127), np.float32(2.0**-24)
_ZERO, _ONE, _HALF, _2_16 = np.float32(0), np.float32(1), np.float32(0.5), np.float32(2**16)


def steps_of(
    transforms: Sequence[Transform],
    seed: int,
    round: int,
    clients: IntArray,
    change: FloatArray,
) -> Steps:
    """Return what the kernel does to the rows of the table ``item``.

    Args:
        transforms: Some of which `fedrec.training.numba_coverage.transforms_in_numba` is true.
        seed: Of the run.
        round: The round.
        clients: int64 [c], their ids.
        change: float [n, d], as many rows as a client has at most.
    """
    n, value_bytes, row_bytes, words = len(transforms), change.itemsize, 0, 0
    kinds, bounds, stochastic = np.zeros(n, np.int64), np.zeros(n), np.zeros(n, np.bool_)
    keys = np.zeros((n, len(clients)), np.uint64)
    for at, transform in enumerate(transforms):
        if isinstance(transform, Clip):
            kinds[at] = _CLIP if transform.per == "update" else _CLIP_ROWS
            bounds[at] = transform.norm
        elif isinstance(transform, Quantize):
            kinds[at] = _INT8 if transform.scaled else _FLOAT16
            stochastic[at] = transform.rounding == "stochastic"
            keys[at] = stream_keys(seed, round, transform.stream("item"), clients)
            value_bytes = np.dtype(transform.dtype).itemsize
            row_bytes = np.dtype(np.float16).itemsize if transform.scaled else 0
            words = len(change) * -(-change.shape[1] // 4)
    largest, scratch = np.zeros(n, np.int32), np.empty(words, np.uint64)
    return Steps(kinds, bounds, stochastic, keys, largest, scratch, value_bytes, row_bytes)


def check_largest(transforms: Sequence[Transform], steps: Steps) -> None:
    """Check that all values that were rounded fit.

    Raises:
        NumericError: If one does not.
    """
    for transform, largest in zip(transforms, steps.largest.view(np.float32), strict=True):
        if isinstance(transform, Quantize):
            transform.check("item", float(largest))


@compiled
def transform(steps, c, work):
    """Change the rows of client c, float [t, d], as they are when they have arrived."""
    for s in range(len(steps.kinds)):
        kind = steps.kinds[s]
        if kind <= _CLIP_ROWS:
            _clip(work, steps.bounds[s], kind == _CLIP_ROWS)
            continue
        # Numbers of all rows lie side by side; a row without some begins at the same word.
        width = -(-work.shape[1] // 4)
        words = steps.words[: len(work) * width]
        if steps.stochastic[s]:
            _draw(steps.keys[s, c], words)
        numbers = words.view(np.uint16)
        largest = _quantise(work, kind == _INT8, steps.stochastic[s], numbers, 4 * width)
        steps.largest[s] = max(steps.largest[s], largest)


@compiled
def _clip(work, bound, rows):
    """Shorten what is longer than a bound: each row, or all together."""
    total = 0.0
    for p in range(len(work)):
        row = work[p]
        square = _square(row)
        if rows:
            _shorten(row, square, bound)
        total += square
    if not rows:
        for p in range(len(work)):
            _shorten(work[p], total, bound)


@inlined
def _square(row):
    """Return the squared norm of a row: every fourth square added up, then the four sums."""
    fours = len(row) // 4 * 4
    s0 = s1 = s2 = s3 = 0.0
    for a in range(0, fours, 4):
        w, x = np.float64(row[a]), np.float64(row[a + 1])
        y, z = np.float64(row[a + 2]), np.float64(row[a + 3])
        s0, s1, s2, s3 = s0 + w * w, s1 + x * x, s2 + y * y, s3 + z * z
    for a in range(fours, len(row)):
        x = np.float64(row[a])
        s0 += x * x if a == fours else 0.0
        s1 += x * x if a == fours + 1 else 0.0
        s2 += x * x if a == fours + 2 else 0.0
    return (s0 + s2) + (s1 + s3)


@inlined
def _shorten(row, square, bound):
    if square > bound**2:
        factor = np.float32(bound / np.sqrt(square))
        for a in range(len(row)):
            row[a] *= factor


@compiled
def _draw(key, words):
    """Fill in the words of a client, as `fedrec.seeds.words` does."""
    for i in range(len(words)):
        z = key + np.uint64(i + 1) * _STEP
        z = (z ^ (z >> _30)) * _FIRST
        z = (z ^ (z >> _27)) * _SECOND
        words[i] = z ^ (z >> _31)


@compiled
def _quantise(work, has_scale, stochastic, numbers, width):
    """Round rows to int8 with a scale, or to float16; return the bits of the largest value.

    Args:
        work: float [t, d].
        has_scale: Whether to int8.
        stochastic: Whether at random, with ``numbers`` uint16 [t * width].
        numbers: See there.
        width: Of a row among the numbers.
    """
    most = np.int32(0)
    for p in range(len(work)):
        row, drawn = work[p], numbers[p * width : (p + 1) * width]
        top = np.int32(0)
        for a in range(len(row)):
            top = max(top, np.float32(abs(row[a])).view(np.int32))
        most = max(most, top)
        if has_scale:
            wanted = np.int32(top).view(np.float32) / _LEVELS
            step = _step_of_float16(wanted)
            scale = np.ceil(wanted / step) * step
            divisor = max(scale, _LEAST)
            for a in range(len(row)):
                rounded = _rounded(np.float32(row[a]) / divisor, stochastic, drawn[a])
                row[a] = min(max(rounded, -_LEVELS), _LEVELS) * scale
        else:
            for a in range(len(row)):
                value = np.float32(row[a])
                step = _step_of_float16(value)
                row[a] = _rounded(value / step, stochastic, drawn[a]) * step
    return most


@inlined
def _step_of_float16(value):
    """Return the distance from one float16 to the next."""
    exponent = max(np.float32(value).view(np.int32) & _EXPONENT, _LOWEST) - _DIGITS
    return np.int32(exponent).view(np.float32)


@inlined
def _rounded(steps, stochastic, number):
    """Return a whole number next to a float32; up where a random number is below the rest."""
    if not stochastic:
        return np.rint(steps)
    rounded = np.floor(steps)
    return rounded + (_ONE if np.float32(number) < (steps - rounded) * _2_16 - _HALF else _ZERO)

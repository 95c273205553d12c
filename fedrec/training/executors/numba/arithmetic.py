"""Inner products, the logistic function, a step of the private optimizer."""

import numpy as np

from fedrec.compute.numba_compiler import compiled, compiled_sums

_LOG2E, _LN2_HIGH, _LN2_LOW = 1.4426950408889634, 0.693147180369123816, 1.90821492927058770e-10
_MAGIC = 6755399441055744.0  # 1.5 * 2**52: adding it rounds to a whole number in the low bits.
_MAGIC_BITS = np.float64(_MAGIC).view(np.int64)


@compiled_sums
def dot(a, b):
    """Inner product of two rows; the second may be longer."""
    total = a.dtype.type(0.0)
    for i in range(len(a)):
        total += a[i] * b[i]
    return total


@compiled_sums
def weighted_total(a, b, c, d):
    """Sum of (a + b) * c - a * d, float64 [n] each."""
    total = 0.0
    for i in range(len(a)):
        total += (a[i] + b[i]) * c[i] - a[i] * d[i]
    return total


@compiled_sums
def add_rows(rows, at, factor, total):
    """total += sum of factor[i] * rows[at[i]], four rows at a time.

    Args:
        rows: float [n, d].
        at: int32 [s].
        factor: float [s].
        total: float [d].
    """
    n, d = len(at), rows.shape[1]
    fours = n - n % 4
    for i in range(0, fours, 4):
        a, b, c, e = rows[at[i]], rows[at[i + 1]], rows[at[i + 2]], rows[at[i + 3]]
        fa, fb, fc, fe = factor[i], factor[i + 1], factor[i + 2], factor[i + 3]
        for k in range(d):
            total[k] += (fa * a[k] + fb * b[k]) + (fc * c[k] + fe * e[k])
    for i in range(fours, n):
        row, f = rows[at[i]], factor[i]
        for k in range(d):
            total[k] += f * row[k]


@compiled
def logistic(score, chance, price):
    """chance = 1 / (1 + exp(-score)) and price = log(1 + exp(score)), exact in both tails.

    Written out, so that it is computed for many elements at a time and alike in every place: the
    exponential by its series after a split into a power of two and a rest, log(1 + e) as
    2 artanh(e / (2 + e)). The relative error is below 1e-14.

    Args:
        score: float64 [n].
        chance: float64 [n], filled.
        price: float64 [n], filled.
    """
    for i in range(len(score)):
        x = score[i]
        y = abs(x)
        y = 700.0 if y > 700.0 else y
        shifted = y * _LOG2E + _MAGIC
        power = shifted - _MAGIC
        r = (power * _LN2_HIGH - y) + power * _LN2_LOW
        p = ((1.0 / 479001600 * r + 1.0 / 39916800) * r + 1.0 / 3628800) * r + 1.0 / 362880
        p = ((p * r + 1.0 / 40320) * r + 1.0 / 5040) * r + 1.0 / 720
        p = ((p * r + 1.0 / 120) * r + 1.0 / 24) * r + 1.0 / 6
        p = ((p * r + 0.5) * r + 1.0) * r + 1.0
        exponent = np.int64(1023) - (np.float64(shifted).view(np.int64) - _MAGIC_BITS)
        e = p * np.int64(exponent << np.int64(52)).view(np.float64)
        q = 1.0 / (1.0 + e)
        chance[i] = q if x >= 0.0 else e * q
        z = e / (2.0 + e)
        zz = z * z
        s = ((1.0 / 25 * zz + 1.0 / 23) * zz + 1.0 / 21) * zz + 1.0 / 19
        s = ((s * zz + 1.0 / 17) * zz + 1.0 / 15) * zz + 1.0 / 13
        s = ((s * zz + 1.0 / 11) * zz + 1.0 / 9) * zz + 1.0 / 7
        s = (s * zz + 1.0 / 5) * zz + 1.0 / 3
        price[i] = (x if x > 0.0 else 0.0) + 2.0 * (z + z * (s * zz))


@compiled
def optimizer_step(vector, first, second, gradient, steps, optimizer):
    """Make one step of the private optimizer, in place; ``steps`` counts this one."""
    if not optimizer.adam:
        for a in range(len(vector)):
            vector[a] -= optimizer.lr * gradient[a]
        return
    one, two = 1.0 - optimizer.beta1**steps, 1.0 - optimizer.beta2**steps
    for a in range(len(vector)):
        g = np.float64(gradient[a])
        m = optimizer.beta1 * first[a] + (1.0 - optimizer.beta1) * g
        v = optimizer.beta2 * second[a] + (1.0 - optimizer.beta2) * g * g
        first[a], second[a] = m, v
        vector[a] -= optimizer.lr * (m / one) / (np.sqrt(v / two) + optimizer.epsilon)

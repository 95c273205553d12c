"""Small pieces: inner products, the logistic function, one optimiser step."""

from __future__ import annotations

import numpy as np

from fedrec.training.jit.compiler import compiled, compiled_sums

__all__ = ["dot", "log1p_exp", "sigmoid", "total", "user_step"]


@compiled_sums
def dot(a, b):
    """Inner product of two rows."""
    total = a[0] * b[0]
    for i in range(1, len(a)):
        total += a[i] * b[i]
    return total


@compiled
def log1p_exp(x):
    """log(1 + exp(x)), exact in both tails."""
    return max(x, 0.0) + np.log1p(np.exp(-abs(x)))


@compiled
def sigmoid(x):
    """Logistic function, exact in both tails."""
    return 1.0 / (1.0 + np.exp(-x)) if x >= 0 else 1.0 - 1.0 / (1.0 + np.exp(x))


@compiled_sums
def total(a):
    """Sum of a row."""
    total = a.dtype.type(0.0)
    for i in range(len(a)):
        total += a[i]
    return total


@compiled
def user_step(vector, first, second, gradient, steps, adam, lr, beta1, beta2, epsilon):
    """One step of the private optimiser, in place."""
    one, two = 1.0 - beta1**steps, 1.0 - beta2**steps
    for a in range(len(vector)):
        g = gradient[a]
        if adam:
            first[a] = beta1 * first[a] + (1.0 - beta1) * g
            second[a] = beta2 * second[a] + (1.0 - beta2) * g * g
            vector[a] -= lr * (first[a] / one) / (np.sqrt(second[a] / two) + epsilon)
        else:
            vector[a] -= lr * g

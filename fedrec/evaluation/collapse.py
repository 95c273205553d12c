"""Measure how many dimensions of an item table training has used.

The initial values are drawn alike in every dimension, so a table in which training has changed a
single direction still looks full: the *learned part*, the table minus its initial values, shows
the collapse.
"""

from dataclasses import dataclass

import numpy as np

from fedrec.types import FloatArray


@dataclass(frozen=True, slots=True)
class Spectrum:
    """The singular values of a table whose mean row was subtracted.

    Args:
        singular_values: float64 [min(n_items, d)], descending.
    """

    singular_values: FloatArray

    @property
    def effective_rank(self) -> float:
        r"""Return the exponential of the entropy of the normalised singular values.

        .. math:: \exp\bigl(-\sum_i p_i \log p_i\bigr), \quad p_i = \sigma_i / \sum_j \sigma_j

        Weak directions count much: a long tail of small values gives a high rank. It is from 1 to
        d, and 0 for a table whose rows are all equal.

        Reference: roy2007effective.
        """
        positive = self.singular_values[self.singular_values > 0]
        shares = positive / positive.sum()
        return float(np.exp(-np.sum(shares * np.log(shares)))) if len(positive) else 0.0

    @property
    def participation_ratio(self) -> float:
        r"""Return the number of directions that carry the variance.

        .. math:: \bigl(\sum_i \sigma_i^2\bigr)^2 / \sum_i \sigma_i^4

        It is from 1, all variance in one direction, to d, equal in all; and 0 for a table whose
        rows are all equal.

        Reference: gao2017theory.
        """
        largest = float(self.singular_values.max(initial=0.0))
        variances = (self.singular_values / (largest or 1.0)) ** 2
        return float(variances.sum() ** 2 / np.square(variances).sum()) if largest else 0.0


def learned_spectrum(table: FloatArray, initial: FloatArray | float = 0.0) -> Spectrum:
    """Return the spectrum of what training has added to an item table.

    Args:
        table: float [n_items, d].
        initial: float [n_items, d], the values before the first round
            (`fedrec.training.task.ClientTask.initial_globals`); 0: of the table itself.

    Raises:
        ValueError: If the shapes differ or the table is not a matrix.
    """
    if table.ndim != 2 or np.shape(initial) not in ((), table.shape):
        raise ValueError(
            "expected a table [n_items, d] and initial values of its shape, got "
            f"{table.shape} and {np.shape(initial)}"
        )
    if table.size == 0:
        return Spectrum(np.zeros(0))
    learned = np.asarray(table, dtype=np.float64) - initial
    return Spectrum(np.linalg.svd(learned - learned.mean(axis=0), compute_uv=False))

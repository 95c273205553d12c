"""What is done to encoded items: principal components, whitening, norms, a permutation."""

import numpy as np

from fedrec.data.ids import hash_ids, mix_seed
from fedrec.errors import ConfigError, DataError, Fault
from fedrec.features.base import Encoded, Encoder, Mask
from fedrec.types import FloatArray, TextArray

SHRINKAGE = 0.1
"""Of the covariance, as a share of its mean eigenvalue."""
ROWS_PER_NUMBER = 5
"""Items for each number, below which the covariance of all numbers is mostly noise."""


def transform(encoded: Encoded, options: Encoder, ids: TextArray, trained: Mask) -> Encoded:
    """Apply the shared options of an encoder.

    With Σ the covariance and μ the mean of the items that have train interactions and the feature,
    and ε a tenth of Σ's mean eigenvalue: components are V'(x - μ), the first ones; whitened they
    are (Λ + ε)^-½ V'(x - μ); without ``pca``, whitening is (Σ + ε)^-½ (x - μ), in the axes of x.

    Args:
        encoded: All items.
        options: What is applied.
        ids: text [n_items], raw ids: a permutation depends on them alone.
        trained: bool [n_items]: whether an item has train interactions.

    Raises:
        ConfigError: If there are fewer components than are asked for.
        DataError: If there is nothing to fit on.
    """
    values, notes = np.asarray(encoded.values, np.float64), list(encoded.notes)
    fitted_on = encoded.present & trained
    if options.pca is not None or options.whiten:
        values, note = _projected(values, fitted_on, options)
        notes.append(note)
    values = np.where(_rows(encoded.present, values), values, 0.0)
    norms = np.linalg.norm(values.reshape(len(values), -1), axis=1)
    if options.normalize == "row":
        values = values / _rows(np.where(norms > 0, norms, 1.0), values)
    elif options.normalize == "mean":
        mean = norms[fitted_on if fitted_on.any() else encoded.present].mean()
        values = values / (mean or 1.0)
    if options.shuffle is not None:
        rows = np.flatnonzero(encoded.present)
        keys = mix_seed(options.shuffle, hash_ids(ids[rows]))
        values[rows] = values[rows[np.argsort(keys, kind="stable")]]
        notes.append("its rows are permuted among the items, as a control (shuffle)")
    return Encoded(values.astype(np.float32), encoded.present, tuple(notes))


def _projected(values: FloatArray, fitted_on: Mask, options: Encoder) -> tuple[FloatArray, str]:
    """Return the components of the rows, or the whitened rows, and a line about them."""
    if values.ndim != 2:
        raise ConfigError(
            f"pca and whiten need one row of numbers for each item, got shape {values.shape[1:]}"
        )
    n, width = int(fitted_on.sum()), values.shape[1]
    if n < 2:
        raise DataError(
            f"{n} items have it and train interactions; pca and whiten need 2 or more to be fitted"
        )
    n_components = options.pca or width
    if options.pca is not None and n_components > min(n - 1, width):
        few = f"{n} items with train interactions have {min(n - 1, width)} components at most"
        raise ConfigError(Fault("pca", f"{n_components} is too many: {few}"))
    fitted = values[fitted_on]
    mean = fitted.mean(axis=0)
    variances, axes = np.linalg.eigh((fitted - mean).T @ (fitted - mean) / n)
    variances, axes = np.maximum(variances[::-1], 0.0), axes[:, ::-1]
    # An axis has no direction: its largest entry is made positive.
    largest = np.take_along_axis(axes, np.abs(axes).argmax(axis=0)[None], axis=0)
    axes = axes * np.where(largest < 0, -1.0, 1.0)
    share = variances[:n_components].sum() / max(variances.sum(), np.finfo(float).tiny)
    projected = (values - mean) @ axes[:, :n_components]
    if options.whiten:
        projected /= np.sqrt(variances[:n_components] + SHRINKAGE * variances.mean())
    note = f"{n_components} of {width} components hold {share:.0%} of the variance"
    if options.pca is None:
        projected = projected @ axes.T
        note = f"{width} numbers are whitened"
        if n < ROWS_PER_NUMBER * width:
            note += f"; {n} items are few for that, set pca to 128 or less"
    return projected, f"{note}; fitted on the {n:,} items with train interactions"


def _rows(per_item: FloatArray, like: FloatArray) -> FloatArray:
    """Return a value for each item in a shape that is broadcast over the item's numbers."""
    return per_item.reshape(-1, *[1] * (like.ndim - 1))

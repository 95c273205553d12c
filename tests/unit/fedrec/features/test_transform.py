"""Principal components, whitening, norms and the control, by their definitions."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedrec.errors import ConfigError, DataError
from fedrec.features import ArrayFile, Encoded
from fedrec.features.transform import SHRINKAGE, transform
from fedrec.types import FloatArray

RNG = np.random.default_rng(5)
N, WIDTH = 60, 6
VALUES = (RNG.normal(size=(N, 3)) @ RNG.normal(size=(3, WIDTH)) + 2).astype(np.float32)
VALUES += RNG.normal(scale=0.1, size=VALUES.shape).astype(np.float32)
IDS = np.array([f"id-{n}" for n in range(N)], object)
PRESENT, TRAINED = np.arange(N) % 7 != 0, np.arange(N) % 5 != 0
VALUES[~PRESENT] = 0


def changed(values: FloatArray = VALUES, **options: Any) -> Encoded:
    encoder = ArrayFile.model_validate({"path": "x.npy", "by_row": True, **options})
    return transform(Encoded(values, PRESENT), encoder, IDS, TRAINED)


def test_components_are_those_of_a_singular_value_decomposition() -> None:
    fitted = VALUES[PRESENT & TRAINED].astype(np.float64)
    axes = np.linalg.svd(fitted - fitted.mean(0), full_matrices=False)[2][:2]
    axes *= np.sign(axes[np.arange(2), np.abs(axes).argmax(1)])[:, None]
    expected = (VALUES - fitted.mean(0)) @ axes.T
    result = changed(pca=2, normalize="none")
    np.testing.assert_allclose(result.values[PRESENT], expected[PRESENT], atol=1e-5)
    assert "2 of 6 components hold" in result.notes[0]


@given(st.sampled_from([None, 2, 3]))
def test_whitened_variances_are_those_of_the_shrunk_covariance(pca: int | None) -> None:
    fitted = VALUES[PRESENT & TRAINED].astype(np.float64)
    variances = np.linalg.eigvalsh(np.cov(fitted.T, bias=True))[::-1]
    expected = variances / (variances + SHRINKAGE * variances.mean())
    result = changed(whiten=True, pca=pca, normalize="none").values[PRESENT & TRAINED]
    np.testing.assert_allclose(result.mean(0), 0, atol=1e-5)
    came = np.linalg.eigvalsh(np.cov(result.T, bias=True))[::-1]
    np.testing.assert_allclose(came, expected[:pca], atol=1e-4)


def test_items_without_train_interactions_or_without_the_feature_decide_nothing() -> None:
    other = VALUES.copy()
    other[~TRAINED] = RNG.normal(100, 50, other[~TRAINED].shape)
    other[~PRESENT] = np.nan
    for options in ({"pca": 2}, {"whiten": True}, {"normalize": "mean"}):
        one, two = changed(**options).values, changed(other, **options).values
        assert np.array_equal(one[TRAINED & PRESENT], two[TRAINED & PRESENT])
        assert not one[~PRESENT].any() and not two[~PRESENT].any()


def test_norms_are_as_asked_for() -> None:
    norms = np.linalg.norm(changed(pca=3).values, axis=1)
    np.testing.assert_allclose(norms, PRESENT, atol=1e-6)
    mean = np.linalg.norm(changed(normalize="mean").values, axis=1)[PRESENT & TRAINED].mean()
    assert mean == pytest.approx(1, abs=1e-6)
    assert np.array_equal(changed(normalize="none").values, VALUES)


def test_more_axes_than_one_keep_their_shape() -> None:
    tall = VALUES.reshape(N, 2, 3)
    np.testing.assert_array_equal(changed(tall).values.reshape(N, WIDTH), changed().values)
    with pytest.raises(ConfigError, match=r"got shape \(2, 3\)"):
        changed(tall, pca=2)


def test_shuffled_rows_are_the_same_rows_at_other_items() -> None:
    plain, shuffled = changed().values, changed(shuffle=1).values
    assert not np.array_equal(plain, shuffled)
    assert not shuffled[~PRESENT].any()
    assert sorted(map(tuple, plain.tolist())) == sorted(map(tuple, shuffled.tolist()))
    assert np.array_equal(shuffled, changed(shuffle=1).values)
    assert not np.array_equal(shuffled, changed(shuffle=2).values)


def test_what_cannot_be_fitted_is_said() -> None:
    with pytest.raises(ConfigError, match=r"^pca: 7 is too many: .* have 6 components at most"):
        changed(pca=7)
    encoder = ArrayFile.model_validate({"path": "x.npy", "by_row": True, "whiten": True})
    with pytest.raises(DataError, match=r"^0 items have it and train interactions"):
        transform(Encoded(VALUES, PRESENT), encoder, IDS, ~PRESENT)

"""Cosines do not depend on the order of clients, nor of values."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from fedrec.aggregation.similarity import cosines
from fedrec.types import FloatArray

VECTORS = arrays(
    np.float32,
    st.tuples(st.integers(1, 6), st.integers(1, 9)),
    elements=st.integers(-(2**20), 2**20).map(lambda n: n / 2**20),
)


@settings(max_examples=100, deadline=None)
@given(vectors=VECTORS, data=st.data())
def test_they_are_cosines_in_any_order(vectors: FloatArray, data: st.DataObject) -> None:
    similar = cosines(vectors)
    norms = np.sqrt((vectors.astype(np.float64) ** 2).sum(1))
    exact = (vectors.astype(np.float64) @ vectors.T) / np.maximum(np.outer(norms, norms), 1e-300)
    np.testing.assert_allclose(similar, exact, atol=1e-6)
    assert (similar == similar.T).all()
    clients = np.array(data.draw(st.permutations(range(len(vectors)))))
    columns = np.array(data.draw(st.permutations(range(vectors.shape[1]))))
    again = cosines(vectors[clients][:, columns])
    assert again.tobytes() == similar[clients][:, clients].tobytes()


def test_many_values_are_as_exact() -> None:
    vectors = np.random.default_rng(0).standard_normal((30, 200_000)).astype(np.float32)
    vectors += np.float32(3)
    similar = cosines(vectors)
    assert similar[:, ::-1].tobytes() == cosines(vectors[:, ::-1])[:, ::-1].tobytes()
    exact = vectors.astype(np.float64) @ vectors.T.astype(np.float64)
    norms = np.sqrt(exact.diagonal())
    np.testing.assert_allclose(similar, exact / np.outer(norms, norms), atol=1e-8)


def test_zeros_are_like_nothing() -> None:
    assert cosines(np.array([[0, 0], [0, 3]], np.float32)).tolist() == [[0, 0], [0, 1]]
    assert cosines(np.zeros((2, 3), np.float32)).tolist() == [[0, 0], [0, 0]]

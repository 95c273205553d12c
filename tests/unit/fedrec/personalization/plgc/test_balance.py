"""The weights by kernels: shares that see neither rotations nor a common scale."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedrec.personalization.plgc import balance

Tensor = torch.Tensor
Size = Callable[[Tensor, Tensor], Tensor]


def one_user(name: balance.Balance, features: Tensor, labels: Tensor, error: Tensor) -> Tensor:
    """The size of a branch between two users without pairs and one with a row that is not ours."""
    offsets = np.array([0, 0, len(features), len(features), len(features) + 1])
    stranger = torch.full((1, features.shape[1]), 3.0, dtype=features.dtype)
    ones = torch.ones(1, dtype=labels.dtype)
    rows, labels, error = (
        torch.cat(both) for both in ((features, stranger), (labels, ones), (error, ones))
    )
    aim = balance.target(name, labels, error, offsets)
    return balance.branch_sizes(name, rows, aim, offsets)[1]


SIZES: dict[str, Size] = {
    "trace": lambda features, labels: one_user("trace", features, labels, labels),
    "residual": lambda features, labels: one_user("residual", features, labels, labels - 0.3),
    "alignment": lambda features, labels: one_user("alignment", features, labels, labels),
}


@st.composite
def branches(draw: st.DrawFn) -> tuple[Tensor, Tensor, Tensor]:
    """Features of both branches, [n, h] and [n, g], and labels [n]."""
    rng = np.random.default_rng(draw(st.integers(0, 2**31)))
    n, h, g = (draw(st.integers(1, 7)) for _ in range(3))
    local, frozen = rng.standard_normal((n, h)), rng.standard_normal((n, g))
    labels = (rng.random(n) < 0.5).astype(float)
    return torch.tensor(local), torch.tensor(frozen), torch.tensor(labels)


def kernel_definition(name: str, features: Tensor, labels: Tensor) -> float:
    """The sizes with the kernel matrix written out."""
    kernel = (features @ features.T).numpy()
    y = labels.numpy()
    if name == "trace":
        centre = np.eye(len(y)) - 1 / len(y)
        return float(np.trace(centre @ kernel @ centre))
    if name == "residual":
        return float((y - 0.3) @ kernel @ (y - 0.3))
    c = y - y.mean()
    return float(c @ kernel @ c / np.trace(kernel))


@pytest.mark.parametrize("name", SIZES)
@settings(max_examples=50, deadline=None)
@given(branches())
def test_a_size_is_its_definition(name: str, case: tuple[Tensor, Tensor, Tensor]) -> None:
    features, _, labels = case
    expected = kernel_definition(name, features, labels)
    assert float(SIZES[name](features, labels)) == pytest.approx(expected, abs=1e-10)


@pytest.mark.parametrize("name", SIZES)
@settings(max_examples=50, deadline=None)
@given(case=branches(), factor=st.floats(0.01, 100.0), seed=st.integers(0, 99))
def test_a_weight_sees_no_rotation_and_no_common_scale(
    name: str, case: tuple[Tensor, Tensor, Tensor], factor: float, seed: int
) -> None:
    local, frozen, labels = case

    def weight(a: Tensor, b: Tensor) -> float:
        return float(balance.share(SIZES[name](a, labels), SIZES[name](b, labels)))

    plain = weight(local, frozen)
    assert 0 <= plain <= 1
    if SIZES[name](local, labels) + SIZES[name](frozen, labels) < 1e-9:
        return
    assert weight(factor * local, factor * frozen) == pytest.approx(plain, abs=1e-6)
    assert weight(frozen, local) == pytest.approx(1 - plain, abs=1e-6)
    rng = np.random.default_rng(seed)
    h = local.shape[1]
    turn, _ = np.linalg.qr(rng.standard_normal((h, h)))
    assert weight(local @ torch.tensor(turn), frozen) == pytest.approx(plain, abs=1e-6)


@pytest.mark.parametrize("name", SIZES)
@settings(max_examples=50, deadline=None)
@given(branches())
def test_equal_branches_share_alike(name: str, case: tuple[Tensor, Tensor, Tensor]) -> None:
    features, _, labels = case
    size = SIZES[name](features, labels)
    assert float(balance.share(size, size)) == 0.5


@settings(max_examples=50, deadline=None)
@given(branches(), st.floats(0.01, 100.0))
def test_alignment_sees_no_scale_of_one_branch(
    case: tuple[Tensor, Tensor, Tensor], factor: float
) -> None:
    features, _, labels = case
    one, other = (SIZES["alignment"](x, labels) for x in (features, factor * features))
    torch.testing.assert_close(one, other)


@settings(max_examples=50, deadline=None)
@given(branches(), st.floats(-5.0, 5.0))
def test_trace_sees_no_common_shift(case: tuple[Tensor, Tensor, Tensor], shift: float) -> None:
    labels = case[2]
    size = SIZES["trace"]
    torch.testing.assert_close(
        size(case[0] + shift, labels), size(case[0], labels), atol=1e-9, rtol=1e-7
    )


def test_nothing_against_nothing_is_one_half_and_nothing_against_something_is_zero() -> None:
    nothing, labels = torch.zeros(3, 2), torch.tensor([1.0, 0.0, 1.0])
    something = torch.tensor([[1.0], [0.0], [2.0]])
    for size in SIZES.values():
        zero, more = size(nothing, labels), size(something, labels)
        assert float(balance.share(zero, zero)) == 0.5
        assert float(balance.share(zero, more)) == 0.0
        assert float(balance.share(more, zero)) == 1.0

"""Decorrelation: nothing for dimensions that differ, something for those that repeat."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedrec.personalization.plgc.decorrelation import cross_view, single_view
from fedrec.ragged import offsets_of


@st.composite
def tables(draw: st.DrawFn, least: int = 3) -> torch.Tensor:
    """float64 [n, d] with n > d: no column depends on the others by chance."""
    rng = np.random.default_rng(draw(st.integers(0, 2**31)))
    d = draw(st.integers(2, 4))
    n = draw(st.integers(max(least, d + 2), 12))
    return torch.tensor(rng.standard_normal((n, d)) + rng.standard_normal(d))


def whitened(table: torch.Tensor) -> torch.Tensor:
    centred = table - table.mean(0)
    basis: torch.Tensor = torch.linalg.qr(centred)[0]
    return basis


@settings(max_examples=50, deadline=None)
@given(tables(), st.floats(0.0, 1.0))
def test_zero_for_whitened_rows_that_agree(table: torch.Tensor, gamma: float) -> None:
    rows = whitened(table)
    assert float(single_view(rows)) == pytest.approx(0, abs=1e-12)
    assert float(cross_view(rows, rows, gamma)) == pytest.approx(0, abs=1e-12)


@settings(max_examples=50, deadline=None)
@given(tables())
def test_positive_for_a_repeated_column(table: torch.Tensor) -> None:
    rows = whitened(table)
    repeated = torch.cat([rows, rows[:, :1]], dim=1)
    d = repeated.shape[1]
    assert float(single_view(repeated)) == pytest.approx(2 / (d * (d - 1)))
    assert float(cross_view(repeated, repeated, 0.5)) == pytest.approx(0.5 * 2 / d)


@settings(max_examples=50, deadline=None)
@given(tables(), st.data())
def test_no_affine_map_of_a_column_counts(table: torch.Tensor, data: st.DataObject) -> None:
    d = table.shape[1]
    number = st.floats(0.1, 10.0)
    scale = torch.tensor(data.draw(st.lists(number, min_size=d, max_size=d)), dtype=torch.float64)
    shift = torch.tensor(data.draw(st.lists(number, min_size=d, max_size=d)), dtype=torch.float64)
    sign = torch.tensor(data.draw(st.lists(st.sampled_from([-1.0, 1.0]), min_size=d, max_size=d)))
    mapped = scale * table + shift
    torch.testing.assert_close(single_view(sign * mapped), single_view(table))
    other = table.flip(0)
    torch.testing.assert_close(cross_view(mapped, other, 0.1), cross_view(table, other, 0.1))
    torch.testing.assert_close(cross_view(other, mapped, 0.1), cross_view(other, table, 0.1))


@settings(max_examples=50, deadline=None)
@given(tables())
def test_the_order_of_the_rows_does_not_count(table: torch.Tensor) -> None:
    other = table.square()
    torch.testing.assert_close(single_view(table.flip(0)), single_view(table))
    turned = cross_view(table.flip(0), other.flip(0), 0.1)
    torch.testing.assert_close(turned, cross_view(table, other, 0.1))


def correlations(table: torch.Tensor) -> torch.Tensor:
    """The definition as a graph of plain operations."""
    matrix = torch.corrcoef(table.T)
    d = len(matrix)
    return (matrix.square().sum() - torch.diagonal(matrix).square().sum()) / (d * (d - 1))


@settings(max_examples=50, deadline=None)
@given(tables(), tables())
def test_the_gradient_of_several_users_is_each_ones_own(a: torch.Tensor, b: torch.Tensor) -> None:
    d = min(a.shape[1], b.shape[1])
    parts = [a[:, :d], b[:1, :d], b[:, :d]]
    rows = torch.cat(parts).requires_grad_()
    total = single_view(rows, offsets_of(np.array([len(part) for part in parts])))
    (gradient,) = torch.autograd.grad(total, rows)
    leaves = [part.clone().requires_grad_() for part in parts]
    value = correlations(leaves[0]) + correlations(leaves[2])
    expected = torch.autograd.grad(value, [leaves[0], leaves[2]])
    torch.testing.assert_close(total, value)
    alone = torch.zeros_like(parts[1])
    torch.testing.assert_close(gradient, torch.cat([expected[0], alone, expected[1]]))


@settings(max_examples=50, deadline=None)
@given(tables())
def test_no_gradient_reaches_the_frozen_view(table: torch.Tensor) -> None:
    rows, frozen = table.clone().requires_grad_(), table.square().requires_grad_()
    cross_view(rows, frozen, 0.1).backward()  # type: ignore[no-untyped-call]
    assert frozen.grad is None
    assert rows.grad is not None
    assert bool(rows.grad.any())


@pytest.mark.parametrize("shape", [(0, 3), (1, 3)])
def test_nothing_for_fewer_than_two_rows(shape: tuple[int, int]) -> None:
    rows = torch.ones(shape, requires_grad=True)
    for value in (single_view(rows), cross_view(rows, rows, 0.1)):
        assert float(value.detach()) == 0
        if value.requires_grad:
            (gradient,) = torch.autograd.grad(value, rows)
            assert not gradient.any()


def test_a_constant_column_adds_nothing_and_no_nan() -> None:
    rows = torch.tensor([[1.0, 5.0], [2.0, 5.0], [4.0, 5.0]], requires_grad=True)
    (gradient,) = torch.autograd.grad(single_view(rows), rows)
    assert float(single_view(rows.detach())) == 0
    assert bool(torch.isfinite(gradient).all())
    (gradient,) = torch.autograd.grad(cross_view(rows, rows.detach(), 0.1), rows)
    assert bool(torch.isfinite(gradient).all())

"""What transforms keep: identities, bounds, unbiased rounding, what is remembered."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedrec.aggregation.reduce import Summing, joined, reduce_sums
from fedrec.aggregation.update import RowBlock, UpdateBatch
from fedrec.compute.context import RoundContext
from fedrec.config.experiment import Experiment
from fedrec.errors import ConfigError, NumericError
from fedrec.plugins import name_of, table
from fedrec.ragged import Ragged, offsets_of
from fedrec.testing.trial import as_bytes
from fedrec.transforms import TRANSFORMS
from fedrec.transforms.attacks.base import Attack
from fedrec.transforms.base import Transform
from fedrec.transforms.clip import Clip
from fedrec.transforms.gaussian import Gaussian
from fedrec.transforms.low_rank import LowRank
from fedrec.transforms.pipeline import memory_specs, transformed
from fedrec.transforms.quantize import Float16, Int8
from fedrec.transforms.top_k import TopK
from fedrec.types import FloatArray, ParamSpec

N_ITEMS, D = 9, 4
CONTEXT = RoundContext(seed=3, round=2, n_clients=50, n_items=N_ITEMS)
SPECS = {
    "item": ParamSpec("shared", "item", (D,)),
    "bias": ParamSpec("shared", "item", ()),
    "head": ParamSpec("shared", None, (2, D)),
}
EXAMPLES: list[Transform] = [
    Clip(norm=0.5),
    Clip(norm=0.5, per="row"),
    Gaussian(std=0.1),
    Float16(),
    Int8(),
    LowRank(rank=2),
    TopK(share=0.3),
    TopK(share=0.3, error_feedback=False),
]


def batch_of(rows: Sequence[Sequence[int]], seed: int, scale: float = 1.0) -> UpdateBatch:
    """Updates of clients that touch these rows; the ids of clients are 10, 11, ..."""
    rng, n = np.random.default_rng(seed), len(rows)
    ids = np.array([item for row in rows for item in row], np.int64)
    offsets = offsets_of(np.array([len(row) for row in rows], np.int64))

    def values(*shape: int) -> FloatArray:
        return (scale * rng.standard_normal(shape)).astype(np.float32)

    return UpdateBatch(
        round=2,
        client_ids=np.arange(10, 10 + n),
        weight=np.ones(n),
        tables={
            "item": RowBlock(offsets, ids, values(len(ids), D)),
            "bias": RowBlock(offsets, ids, values(len(ids))),
        },
        dense={"head": values(n, 2, D)},
        metrics={"loss": np.ones(n)},
    )


def apply(
    transforms: Sequence[Transform], batch: UpdateBatch, memory: dict[str, Any] | None = None
) -> tuple[UpdateBatch, dict[str, Any]]:
    """The updates after some transforms; the train items of a client are its even rows."""
    block = batch.tables["item"]
    is_even = block.ids % 2 == 0
    positives = Ragged(block.offsets, block.ids).where(is_even)
    n = {"positive": len(positives.values), "client": len(batch.client_ids)}
    if memory is None:
        specs = memory_specs(transforms, SPECS)
        memory = {
            name: np.zeros((n[str(spec.axis)], *spec.shape), np.float32)
            for name, spec in specs.items()
        }
    return transformed(transforms, batch, memory, positives, CONTEXT)


def sums(batch: UpdateBatch) -> Any:
    return as_bytes(reduce_sums(batch, Summing()).sums)


rows_of_clients = st.lists(st.sets(st.integers(0, N_ITEMS - 1)).map(sorted), min_size=1, max_size=5)


def test_every_transform_but_attacks_is_tried_here() -> None:
    assert table("transforms") == TRANSFORMS
    others = {name for name, kind in TRANSFORMS.items() if not issubclass(kind, Attack)}
    assert {name_of("transforms", each) for each in EXAMPLES} == others


@pytest.mark.parametrize(
    "transform", [Clip(norm=1e30), Clip(norm=1e30, per="row"), Gaussian(std=0), TopK(share=1)]
)
@given(rows=rows_of_clients, seed=st.integers(0, 99))
@settings(max_examples=20, deadline=None)
def test_no_bound_no_noise_and_all_values_change_no_bit(
    transform: Transform, rows: list[list[int]], seed: int
) -> None:
    batch = batch_of(rows, seed)
    after, memory = apply([transform], batch)
    assert as_bytes(after.decoded()) == as_bytes(batch)
    assert not any(values.any() for values in memory.values())


@given(rows=rows_of_clients, seed=st.integers(0, 99), exponent=st.integers(-10, 3))
@settings(max_examples=20, deadline=None)
def test_what_int8_and_float16_can_hold_comes_through(
    rows: list[list[int]], seed: int, exponent: int
) -> None:
    batch, rng = batch_of(rows, seed), np.random.default_rng(seed)

    def representable(values: FloatArray) -> FloatArray:
        whole = rng.integers(-126, 127, values.shape).astype(np.float32)
        whole.reshape(len(whole), int(np.prod(values.shape[1:])))[:, 0] = 127
        return np.asarray(whole * np.float32(2.0**exponent), np.float32)

    tables = {
        name: RowBlock(block.offsets, block.ids, representable(block.values))
        for name, block in batch.tables.items()
    }
    dense = {name: representable(value) for name, value in batch.dense.items()}
    batch = UpdateBatch(2, batch.client_ids, batch.weight, tables, dense, batch.metrics)
    for transform in (Int8(), Float16(), Int8(rounding="nearest"), Float16(rounding="nearest")):
        assert as_bytes(apply([transform], batch)[0].decoded()) == as_bytes(batch)


@pytest.mark.parametrize("transform", EXAMPLES, ids=repr)
@given(rows=rows_of_clients, seed=st.integers(0, 99))
@settings(max_examples=15, deadline=None)
def test_a_client_is_transformed_alike_in_any_company(
    transform: Transform, rows: list[list[int]], seed: int
) -> None:
    batch = batch_of(rows, seed)
    together = apply([transform], batch)[0]
    alone = [apply([transform], batch.take(np.array([client])))[0] for client in range(len(rows))]
    assert as_bytes(joined(alone)) == as_bytes(together)
    assert sums(together) == sums(joined(alone[::-1]))


@pytest.mark.parametrize("transform", [Float16(), Int8()], ids=repr)
def test_stochastic_rounding_is_right_on_average(transform: Transform) -> None:
    value = np.linspace(-0.013, 0.017, 500).astype(np.float32)
    n = 400
    dense = np.repeat(value[None], n, axis=0)
    batch = UpdateBatch(2, np.arange(n), np.ones(n), {}, {"head": dense})
    rounded = transformed(
        [transform], batch, {}, Ragged(np.zeros(n + 1, np.int64), np.zeros(0, np.int64)), CONTEXT
    )
    decoded = rounded[0].decoded().dense["head"].astype(np.float64)
    step = np.diff(np.unique(decoded)).max()
    assert np.abs(decoded - value).max() <= step * 1.0001
    # Of n independent roundings to steps of that size.
    assert np.abs(decoded.mean(0) - value).max() < 5 * 0.5 * step / np.sqrt(n)
    assert decoded.std(0).max() > 0


@given(rows=rows_of_clients, seed=st.integers(0, 99), norm=st.floats(0.01, 3))
@settings(max_examples=30, deadline=None)
def test_clipping_keeps_the_bound_and_the_direction(
    rows: list[list[int]], seed: int, norm: float
) -> None:
    batch = batch_of(rows, seed)
    clipped = apply([Clip(norm=norm)], batch)[0]
    for client in range(len(rows)):
        before, after = (_flat(each.take(np.array([client]))) for each in (batch, clipped))
        length = np.linalg.norm(before)
        assert np.linalg.norm(after) <= norm * (1 + 1e-5)
        np.testing.assert_allclose(after, before * min(1, norm / length), rtol=1e-4, atol=1e-7)


def _flat(batch: UpdateBatch) -> FloatArray:
    values = [block.values for block in batch.tables.values()] + [*batch.dense.values()]
    return np.concatenate([value.ravel() for value in values]).astype(np.float64)


@given(seed=st.integers(0, 99), share=st.floats(0.05, 0.9))
@settings(max_examples=20, deadline=None)
def test_what_top_k_does_not_send_of_train_items_is_sent_later(seed: int, share: float) -> None:
    """Sent and remembered together are what was trained, but for other items' rows."""
    batch = batch_of([[0, 2, 4], [2, 6, 8]], seed)  # train items alone
    sent: FloatArray = np.zeros(len(_flat(batch)))
    transform, memory = TopK(share=share), None
    for _ in range(5):
        after, memory = apply([transform], batch, memory)
        dense = after.decoded()
        blocks = [_with_all_rows(dense.tables[n], batch.tables[n]) for n in ("item", "bias")]
        sent += np.concatenate([b.ravel() for b in [*blocks, dense.dense["head"]]])
    assert memory is not None
    rest = np.concatenate([memory[f"transforms/0/{n}"].ravel() for n in ("item", "bias", "head")])
    np.testing.assert_allclose(sent + rest, 5 * _flat(batch), rtol=1e-4, atol=1e-5)


def _with_all_rows(block: RowBlock, like: RowBlock) -> FloatArray:
    values = np.zeros(like.values.shape, np.float32)
    values[Ragged(like.offsets, like.ids).find(_owners(block), block.ids)] = block.values
    return values


def _owners(block: RowBlock) -> Any:
    return Ragged(block.offsets, block.ids).owners()


@given(seed=st.integers(0, 99))
@settings(max_examples=20, deadline=None)
def test_top_k_sends_the_largest(seed: int) -> None:
    batch = batch_of([[1, 3, 5, 7]], seed)
    after = apply([TopK(share=0.25, error_feedback=False)], batch)[0]
    values = batch.tables["item"].values
    sent = _with_all_rows(after.tables["item"], batch.tables["item"])
    largest = np.sort(np.abs(values).ravel())[-4:]
    assert np.array_equal(np.sort(np.abs(sent[sent != 0])), largest)


def test_low_rank_keeps_what_lies_in_its_directions() -> None:
    batch = batch_of([[0, 1, 2, 3, 4, 5]], 0)
    full = apply([LowRank(rank=2)], batch)[0].tables["item"]
    assert full.values.shape == (6, 2) and full.basis is not None
    np.testing.assert_allclose(full.basis @ full.basis.T, np.eye(2) * D / 2, atol=1e-5)
    within = np.asarray(full.values @ full.basis, np.float32)  # lies in the two directions
    again = apply(
        [LowRank(rank=2)],
        UpdateBatch(
            2,
            batch.client_ids,
            batch.weight,
            {"item": RowBlock(full.offsets, full.ids, within), "bias": batch.tables["bias"]},
            {},
        ),
    )[0]
    np.testing.assert_allclose(
        again.tables["item"].decoded().values, np.sqrt(D / 2) * within, rtol=1e-4, atol=1e-6
    )


def test_a_value_that_float16_cannot_hold_is_an_error() -> None:
    with pytest.raises(NumericError, match=r"'item' has the value 1e\+06, above 6.55e\+04"):
        batch = batch_of([[0]], 0)
        block = batch.tables["item"]
        block.values[0, 0] = 1e6
        apply([Float16()], batch)


@pytest.mark.parametrize(
    ("transforms", "said"),
    [
        (["int8", {"name": "clip", "norm": 1}], "transforms: clip may not follow int8"),
        (["top_k", "low_rank"], "transforms: low_rank may not follow top_k"),
        (["float16", "int8"], "transforms: int8 may not follow float16"),
        ("int8", "transforms: expected a list of plug-ins, got 'int8'"),
        (["int9"], r"transforms.0: 'int9' is not in the table of transforms \(did you mean 'int8'"),
        ([{"name": "clip"}], "transforms.0.norm: is missing"),
    ],
)
def test_transforms_that_do_not_fit_are_refused(transforms: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        Experiment.model_validate({"data": "synthetic", "transforms": transforms})


def test_transforms_survive_a_file() -> None:
    transforms = [{"name": "clip", "norm": 1.5}, "top_k", "int8"]
    experiment = Experiment.model_validate({"data": "synthetic", "transforms": transforms})
    again = Experiment.model_validate(experiment.model_dump(mode="json"))
    assert again == experiment
    assert [type(each) for each in again.transforms] == [Clip, TopK, Int8]


def test_top_k_hides_nothing_that_is_not_finite() -> None:
    batch = batch_of([[0, 1, 2, 3]], 0)
    batch.tables["item"].values[2, 1] = np.nan
    with pytest.raises(NumericError, match="'item' is not finite"):
        sums(apply([TopK(share=0.1)], batch)[0].decoded())

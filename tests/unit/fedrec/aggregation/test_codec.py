"""What a client sends, as bytes: nothing is lost, and nothing is sent that is not counted."""

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedrec.aggregation.codec import Payloads, decode, encode, payload_bytes
from fedrec.aggregation.reduce import Summing, joined, keep_each, reduce_sums, sorted_by_client
from fedrec.aggregation.update import RowBlock, UpdateBatch
from fedrec.errors import NumericError, ProtocolError
from fedrec.ragged import offsets_of
from fedrec.types import FloatArray, IntArray

TYPES = [np.dtype(kind) for kind in (np.float32, np.float16, np.int8, np.float64)]
Rows = list[list[int]]


def bits_of(draw: st.DrawFn, shape: tuple[int, ...], dtype: np.dtype[Any]) -> FloatArray:
    """Any bits, among them NaN and -0.0, with some zeros or nearly nothing else."""
    rng = np.random.default_rng(draw(st.integers(0, 2**31)))
    size = int(np.prod(shape))
    values = rng.integers(0, 256, size * dtype.itemsize, np.uint8).view(dtype)
    special = np.array([0, -0.0, np.nan, 1] if dtype.kind == "f" else [0, -127, 127, 1], dtype)
    chosen = rng.random(size) < draw(st.sampled_from([0.2, 1.0]))
    values[chosen] = rng.choice(special, int(chosen.sum()))
    values[rng.random(size) < draw(st.sampled_from([0.0, 0.5, 0.97]))] = 0
    return values.reshape(shape)


@st.composite
def blocks(draw: st.DrawFn, rows: Rows) -> Any:
    """A block with some rows of each client, in any form."""
    ids = np.array([item for row in rows for item in row], np.int64)
    offsets = offsets_of(np.array([len(row) for row in rows], np.int64))
    shape: tuple[int, ...] = draw(st.sampled_from([(), (3,), (2, 2)]))
    is_scaled, is_sparse, is_low_rank = draw(st.tuples(*[st.booleans()] * 3))
    scale = np.linspace(-2, 2, len(ids)).astype(np.float16) if is_scaled else None
    basis = None
    if shape and is_low_rank:
        basis = np.linspace(-1, 1, shape[-1] * 5, dtype=np.float32).reshape(shape[-1], 5)
    values = bits_of(draw, (len(ids), *shape), draw(st.sampled_from(TYPES)))
    return RowBlock(offsets, ids, values, scale, basis, is_sparse)


@st.composite
def batches(draw: st.DrawFn) -> UpdateBatch:
    """Clients with no row, one, all or some; tables with equal, shared and different rows."""
    items = draw(st.sampled_from([1, 9, 300, 70_000]))
    row: st.SearchStrategy[list[int]] = st.one_of(
        st.just([]),
        st.sampled_from([[0], [items - 1]]),
        st.just(list(range(min(items, 300)))),
        st.sets(st.integers(0, items - 1), max_size=12).map(sorted),
    )
    rows: Rows = draw(st.lists(row, min_size=1, max_size=5))
    some = [draw(st.sampled_from([r, r[:1], r[1:]])) for r in rows]
    n, width = len(rows), draw(st.integers(1, 3))
    tables = {
        "item": draw(blocks(rows)),
        "item/control": draw(blocks(rows)),
        "bias": draw(blocks(some)),
        "bias/control": draw(blocks(some)),
        "other": draw(blocks(rows)),
    }
    dense = {
        "head": bits_of(draw, (n, 2, width), np.dtype(np.float32)),
        "constant": bits_of(draw, (n,), np.dtype(np.float32)),
    }
    coded = {"body": draw(blocks([[0]] * n))}
    names = draw(st.permutations(list(tables)))[: draw(st.integers(0, 5))]
    weight = np.arange(n) + 1.0
    clients = np.arange(n, dtype=np.int64) * 3
    return UpdateBatch(
        7, clients, weight, {name: tables[name] for name in names}, dense, coded=coded
    )


def raw(value: Any) -> Any:
    """A value with its arrays as their types, shapes and bytes."""
    if isinstance(value, np.ndarray):
        return value.dtype.str, value.shape, value.tobytes()
    if isinstance(value, Mapping):
        return {name: raw(each) for name, each in value.items()}
    if isinstance(value, RowBlock | UpdateBatch):
        return {each.name: raw(getattr(value, each.name)) for each in fields(value)}
    return value


def of_client(batch: UpdateBatch, client: int) -> UpdateBatch:
    at = np.array([client])
    return replace(
        batch,
        client_ids=batch.client_ids[at],
        weight=batch.weight[at],
        tables={name: block.take(at) for name, block in batch.tables.items()},
        dense={name: value[at] for name, value in batch.dense.items()},
        coded={name: block.take(at) for name, block in batch.coded.items()},
    )


@settings(deadline=None)
@given(batch=batches())
def test_decoding_gives_the_same_bits(batch: UpdateBatch) -> None:
    assert raw(decode(encode(batch))) == raw(batch)


@settings(deadline=None)
@given(batch=batches())
def test_the_bytes_of_a_client_are_those_of_its_message_alone(batch: UpdateBatch) -> None:
    payloads, counted = encode(batch), payload_bytes(batch)
    assert counted.tolist() == np.diff(payloads.offsets).tolist()
    for client in range(len(counted)):
        alone = encode(of_client(batch, client)).content
        together = payloads.content[payloads.offsets[client] : payloads.offsets[client + 1]]
        assert alone.tobytes() == together.tobytes()


@settings(deadline=None)
@given(batch=batches())
def test_a_client_is_decoded_alone_as_among_others(batch: UpdateBatch) -> None:
    with np.errstate(all="ignore"):
        plain = batch.decoded()
        for client in range(len(batch.client_ids)):
            assert raw(of_client(batch, client).decoded()) == raw(of_client(plain, client))
        assert raw(plain.decoded()) == raw(plain)
    assert not plain.coded
    for value in (*plain.dense.values(), *(block.values for block in plain.tables.values())):
        assert value.dtype in (np.float32, np.float64)


@settings(deadline=None)
@given(batch=batches(), seed=st.integers(0, 99))
def test_the_form_survives_joining_and_sorting(batch: UpdateBatch, seed: int) -> None:
    order = np.random.default_rng(seed).permutation(len(batch.client_ids))
    alone = [of_client(batch, client) for client in order]
    assert raw(sorted_by_client(alone)) == raw(batch)
    assert raw(joined([of_client(batch, k) for k in range(len(order))])) == raw(batch)


def rows_of(clients: Rows, values: FloatArray, **form: Any) -> RowBlock:
    ids = np.array([item for row in clients for item in row], np.int64)
    return RowBlock(offsets_of(np.array([len(row) for row in clients])), ids, values, **form)


def sent(**tables: RowBlock) -> list[int]:
    n = len(next(iter(tables.values())).offsets) - 1
    counted: list[int] = payload_bytes(
        UpdateBatch(1, np.arange(n), np.ones(n), tables, {})
    ).tolist()
    return counted


@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        ([], 0),
        ([0], 1),  # one gap, or one byte of bits
        ([127], 1),
        ([128], 2),
        ([5000, 5001, 5002], 2 + 1 + 1),
        (list(range(2000)), 250),  # bits
        (list(range(0, 2000, 8)), 250),
        (list(range(0, 2000, 20)), 100),
    ],
)
def test_ids_take_the_cheaper_of_gaps_and_bits(ids: list[int], expected: int) -> None:
    values = np.ones((len(ids), 2), np.float32)
    length = 1 if expected < 128 else 2
    assert sent(item=rows_of([ids], values)) == [1 + 1 + length + expected + values.nbytes]


def test_the_ids_of_a_table_stand_for_those_beside_it() -> None:
    clients = [[1, 5, 200], [], [3]]
    block = rows_of(clients, np.ones((4, 2), np.float32))
    other = replace(block, ids=block.ids + np.array([0, 0, 1, 0]))
    alone, both = sent(item=block), sent(item=block, **{"item/control": block})
    changed = sent(item=block, **{"item/control": other})
    assert np.subtract(both, alone).tolist() == [1 + 24, 1, 1 + 8]
    assert np.subtract(changed, both).tolist() == [1 + 1 + 1 + 2, 0, 0]


def test_values_take_the_bytes_of_their_type() -> None:
    clients, values = [[0, 1, 2], [4]], np.ones((4, 8), np.float32)
    scale = np.ones(4, np.float16)
    plain = np.array(sent(item=rows_of(clients, values)))
    half = np.array(sent(item=rows_of(clients, values.astype(np.float16))))
    eighth = np.array(sent(item=rows_of(clients, values.astype(np.int8), scale=scale)))
    low_rank = np.array(
        sent(item=rows_of(clients, values[:, :2].copy(), basis=np.ones((2, 8), np.float32)))
    )
    rows = np.array([3, 1])
    assert (plain - half).tolist() == (rows * 8 * 2).tolist()
    assert (plain - eighth).tolist() == (rows * (8 * 3 - 2)).tolist()
    assert (plain - low_rank).tolist() == (rows * 6 * 4).tolist()


def test_zeros_of_a_sparse_block_are_not_sent() -> None:
    values = np.zeros((4, 50), np.float32)
    values[1, 3] = values[2, 49] = -0.0
    values[0, 0] = 1.0
    clients = [[0, 1, 2], [4]]
    plain, sparse = (
        sent(item=rows_of(clients, values)),
        sent(item=rows_of(clients, values, sparse=True)),
    )
    assert np.subtract(plain, sparse).tolist() == [600 - (1 + 3 + 12), 200 - 1]
    full = np.ones_like(values)
    assert sent(item=rows_of(clients, full)) == sent(item=rows_of(clients, full, sparse=True))


def test_int8_with_a_scale_is_exact() -> None:
    """Seven bits times eleven are fewer than the 24 of a float32."""
    q = np.repeat(np.arange(-127, 128, dtype=np.int8)[None], 3, axis=0)
    scale = np.array([2.0**-24, 0.1, 65504.0], np.float16)
    values = RowBlock(np.array([0, 3]), np.arange(3), q, scale).decoded().values
    assert values.dtype == np.float32
    np.testing.assert_array_equal(values, q.astype(np.float64) * scale.astype(np.float64)[:, None])


def test_a_basis_multiplies_the_last_axis() -> None:
    rng = np.random.default_rng(0)
    values = rng.standard_normal((4, 2, 3)).astype(np.float32)
    basis = rng.standard_normal((3, 7)).astype(np.float32)
    block = RowBlock(np.array([0, 4]), np.arange(4), values, basis=basis)
    np.testing.assert_allclose(block.decoded().values, values @ basis, atol=1e-6)


def test_a_plain_block_is_its_own_decoding() -> None:
    block = rows_of([[1, 2]], np.ones((2, 3), np.float32))
    assert block.decoded() is block


@settings(deadline=None)
@given(batch=batches())
def test_sums_are_those_of_what_the_server_decodes(batch: UpdateBatch) -> None:
    summing = Summing()
    with np.errstate(all="ignore"):
        plain = batch.decoded()
        try:
            expected = reduce_sums(plain, summing)
        except NumericError:
            with pytest.raises(NumericError):
                reduce_sums(batch, summing)
            return
        got = reduce_sums(batch, summing)
    assert raw(got.sums) == raw(expected.sums)
    assert raw(got.ids) == raw(expected.ids)


@pytest.mark.parametrize("where", ["tables", "coded"])
def test_a_scale_that_is_not_finite_is_an_error(where: str) -> None:
    scale = np.array([np.inf], np.float16)
    block = RowBlock(np.array([0, 1]), np.array([0]), np.ones((1, 2), np.int8), scale)
    tables, coded = ({"item": block}, {}) if where == "tables" else ({}, {"item": block})
    with pytest.raises(NumericError, match="'item' is not finite"):
        keep_each(UpdateBatch(1, np.arange(1), np.ones(1), tables, {}, coded=coded))


@settings(deadline=None)
@given(batch=batches(), data=st.data())
def test_a_damaged_payload_is_refused_or_is_another_update(
    batch: UpdateBatch, data: st.DataObject
) -> None:
    """No client can make the server fail otherwise, or give it arrays that do not fit together."""
    payloads = encode(batch)
    content = payloads.content.copy()
    at = data.draw(st.integers(0, len(content) - 1))
    content[at] ^= data.draw(st.integers(1, 255))
    offsets: IntArray = payloads.offsets.copy()
    if data.draw(st.booleans()):
        content = content[:-1]
        offsets[offsets > len(content)] = len(content)
    damaged: Payloads = replace(payloads, content=content, offsets=offsets)
    try:
        update = decode(damaged)
    except ProtocolError:
        return
    n = len(batch.client_ids)
    for block in (*update.tables.values(), *update.coded.values()):
        assert len(block.offsets) == n + 1
        assert block.offsets[0] == 0 and (np.diff(block.offsets) >= 0).all()
        assert block.offsets[-1] == len(block.ids) == len(block.values)
        assert (block.ids >= 0).all()


@pytest.mark.parametrize("extra", [-1, 1])
def test_a_payload_of_another_length_is_refused(extra: int) -> None:
    batch = UpdateBatch(1, np.arange(1), np.ones(1), {}, {"head": np.ones((1, 3), np.float32)})
    payloads = encode(batch)
    content = np.resize(payloads.content, len(payloads.content) + extra)
    with pytest.raises(ProtocolError, match=r"payload of a client is (cut off|longer)"):
        decode(replace(payloads, content=content, offsets=payloads.offsets + np.array([0, extra])))


def test_another_version_is_refused() -> None:
    payloads = encode(UpdateBatch(1, np.arange(1), np.ones(1), {}, {"head": np.ones((1, 3))}))
    content = payloads.content.copy()
    content[0] += 1
    with pytest.raises(ProtocolError, match="same version of fedrec"):
        decode(replace(payloads, content=content))


@pytest.mark.parametrize("ids", [[2, 1], [1, 1], [-1, 3]])
def test_rows_out_of_place_are_refused(ids: list[int]) -> None:
    with pytest.raises(ProtocolError, match="rows that are not sorted, or a row twice"):
        sent(item=rows_of([ids], np.ones((2, 3), np.float32)))

"""Masked vectors, shares of one secret each, and public keys: nothing else leaves a client."""

from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np
import pytest

from fedrec.flower import records
from fedrec.secure_sum import client, server
from fedrec.secure_sum.messages import MaskedSum, RevealedShares
from fedrec.types import IntArray
from tests.secure_sums import SESSION, Nodes, ints, layout_of, secure_words, sums_of, updates

N = 6
SUMS = sums_of(updates(N, seed=1))
LAYOUT = layout_of(SUMS)


def run() -> Nodes:
    """Return nodes after a secure sum in which a client drops out at each step but the first."""
    nodes = Nodes([[k] for k in range(N)])
    alive = [range(N), range(N), [0, 1, 2, 3, 4], [0, 1, 2, 3]]
    secure_words(nodes, SUMS, alive)
    return nodes


NODES = run()


def bytes_of(message: Any) -> bytes:
    """Return all bytes of a message, as it would travel."""
    content = records.encode(message)
    arrays: Any = content["arrays"]
    rest: Any = content["rest"]
    return bytes(b"".join(array.data for array in arrays.values()) + rest["json"].encode())


def test_no_plain_value_travels() -> None:
    """Neither rows, of whatever length, nor weights, nor the ids of touched rows."""
    sent = b"".join(map(bytes_of, NODES.sent))
    masked = b"".join(bytes_of(each) for each in NODES.sent if isinstance(each, MaskedSum))
    for sums in SUMS:
        vector = LAYOUT.pack(sums, N)
        # Short numbers may be bytes of others by chance.
        plain = vector[np.abs(vector.view(np.int64)) >= 2**30]
        assert len(plain) > 8
        assert all(word.tobytes() not in sent for word in plain)
        ids = sums.ids["item"]
        if len(ids) > 1:
            assert all(ids.astype(kind).tobytes() not in masked for kind in (np.int32, np.int64))


def secrets_of(nodes: Nodes) -> Iterator[bytes]:
    for secrets in nodes.secrets.values():
        for seeds in (secrets.mask_seeds, secrets.self_seeds, secrets.channel_keys):
            yield from map(bytes, seeds)


def test_no_secret_travels() -> None:
    sent = b"".join(map(bytes_of, NODES.sent))
    assert len({*secrets_of(NODES)}) == 3 * N
    assert all(secret not in sent for secret in secrets_of(NODES))


def test_shares_of_one_secret_of_each_are_revealed() -> None:
    revealed = [each for each in NODES.sent if isinstance(each, RevealedShares)]
    assert len(revealed) == 4
    for each in revealed:
        state = NODES.masking[int(each.holders[0])]
        by_owner = dict(zip(each.owners.tolist(), each.shares, strict=True))
        assert sorted(by_owner) == [*range(N)]
        for owner, share in zip(state.owners.values.tolist(), state.shares, strict=True):
            of_key, of_seed = share[:16], share[16:]
            assert np.array_equal(by_owner[owner], of_key if owner == 5 else of_seed)


def masked_by_one(size: int, values: IntArray) -> tuple[np.ndarray, np.ndarray]:
    """Return two vectors of a client as the server sees them, masked with the same keys."""
    both = []
    states = [client.advertise(SESSION, ints([k])) for k in range(2)]
    keys = server.collect_keys(SESSION, ints([0, 1]), [public for _, public in states])
    shared = [client.share(states[k][0], keys.request(ints([k]))) for k in range(2)]
    shares = server.collect_shares(keys, [sealed for _, sealed in shared])
    masking = client.receive(shared[0][0], shares.request(ints([0])))
    for vector in (np.zeros(size, np.int64), values):
        sent = client.mask(masking, ints([0]), vector.view(np.uint64))[1]
        both.append(sent.words.view("<u8")[:-1])
    return both[0], both[1]


def test_two_vectors_with_the_same_keys_differ_by_what_is_in_them() -> None:
    values = np.random.default_rng(0).integers(-(2**40), 2**40, 5000)
    zero, masked = masked_by_one(5000, values)
    assert np.array_equal((masked - zero).view(np.int64), values)


@pytest.mark.parametrize("bound", [1, 2**62])
def test_the_bytes_of_a_masked_vector_are_uniform(bound: int) -> None:
    """By a chi-squared test at eight standard deviations, of each byte of a word and of all."""
    size = 200_000
    values = np.random.default_rng(0).integers(-bound, bound, size)
    for words in masked_by_one(size, values):
        columns = words.view(np.uint8).reshape(size, 8).T
        for column in [*columns, columns.reshape(-1)]:
            counts = np.bincount(column, minlength=256)
            expected = len(column) / 256
            statistic = float(((counts - expected) ** 2).sum() / expected)
            assert abs(statistic - 255) < 8 * np.sqrt(2 * 255)
        assert len(np.unique(words)) == size


def test_masks_are_fresh_in_each_session() -> None:
    zero, _ = masked_by_one(1000, np.zeros(1000, np.int64))
    again, _ = masked_by_one(1000, np.zeros(1000, np.int64))
    assert not (zero == again).any()


def test_keys_are_fresh_though_the_session_is_the_same() -> None:
    again = run()
    assert not {*secrets_of(NODES)} & {*secrets_of(again)}


def leaves(value: Any) -> Iterator[Any]:
    if is_dataclass(value):
        for each in fields(value):
            yield from leaves(getattr(value, each.name))
    else:
        yield value


def test_messages_have_the_same_size_whatever_is_in_the_vectors() -> None:
    """So the number of rows that a client touches does not show."""
    sizes = []
    for seed in (1, 2):
        nodes, sums = Nodes([[k] for k in range(N)]), sums_of(updates(N, seed))
        alive = [range(N)] * 4
        secure_words(nodes, sums, alive)
        sizes.append([[np.size(leaf) for leaf in leaves(each)] for each in nodes.sent])
    assert sizes[0] == sizes[1]


def test_a_node_sends_one_vector_for_all_of_its_clients() -> None:
    nodes = Nodes([[0, 1, 2], [3, 4, 5]])
    _, words = secure_words(nodes, SUMS, [range(N)] * 4)
    masked = [each for each in nodes.sent if isinstance(each, MaskedSum)]
    assert [each.clients.tolist() for each in masked] == [[0, 1, 2], [3, 4, 5]]
    assert LAYOUT.unpack(words).weight == sum(each.weight for each in SUMS)

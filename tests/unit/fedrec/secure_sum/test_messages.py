"""What travels and what nodes keep can be records, and is checked wherever it is made."""

from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest

from fedrec.errors import ProtocolError
from fedrec.flower import records
from fedrec.secure_sum.messages import (
    Keys,
    MaskedSum,
    NeighbourKeys,
    PublicKeys,
    RevealedShares,
    SealedShares,
    Survivors,
)
from tests.secure_sums import Nodes, layout_of, secure_words, sums_of, updates

SUMS = sums_of(updates(6))
NODES = Nodes([[0, 1, 2], [3], [4, 5]])
_ALIVE = [range(6), range(6), [0, 2, 3, 4, 5], [0, 2, 3, 4, 5]]
secure_words(NODES, SUMS, _ALIVE, degree=2)
SENT = {type(each): each for each in NODES.sent}
VALUES = [*SENT.values(), NODES.secrets[0], NODES.shared[0], NODES.masking[0], layout_of(SUMS)]
BYTES, IDS = np.zeros((2, 32), np.uint8), np.array([1, 4])


def equal(a: Any, b: Any) -> bool:
    if hasattr(a, "__dataclass_fields__"):
        return all(equal(getattr(a, each.name), getattr(b, each.name)) for each in fields(a))
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and np.array_equal(a, b)
    return bool(a == b)


def test_all_messages_were_sent() -> None:
    kinds = {PublicKeys, NeighbourKeys, SealedShares, MaskedSum, Survivors, RevealedShares}
    assert SENT.keys() == kinds


@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
def test_every_value_travels_as_a_record(value: Any) -> None:
    assert equal(records.decode(records.encode(value), type(value)), value)


DAMAGES: dict[str, Callable[[Any], Any]] = {
    "cut": lambda array: array[:-1],
    "another axis": lambda array: array[None],
    "other numbers": lambda array: array * 1.0,
}


@pytest.mark.parametrize("value", SENT.values(), ids=lambda value: type(value).__name__)
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_message_of_other_shapes_is_refused(value: Any, damage: str) -> None:
    arrays = [each.name for each in fields(value) if np.size(getattr(value, each.name)) > 1]
    assert arrays
    # Of a list of survivors some may be missing: the client whom it concerns refuses it.
    for name in () if damage == "cut" and isinstance(value, Survivors) else arrays:
        with pytest.raises(ProtocolError):
            replace(value, **{name: DAMAGES[damage](getattr(value, name))})


@pytest.mark.parametrize(
    "ids", [IDS[::-1], np.array([1, 1]), np.array([-1, 1]), IDS.astype(np.int32), IDS[None]]
)
def test_clients_are_sorted_each_once(ids: Any) -> None:
    Keys(IDS, BYTES, BYTES)
    with pytest.raises(ProtocolError, match="sorted, each once"):
        Keys(ids, BYTES, BYTES)


def test_a_damaged_masked_vector_is_refused() -> None:
    masked: MaskedSum = SENT[MaskedSum]
    words = masked.words.copy()
    words[17] ^= 128
    changes: list[dict[str, Any]] = [
        {"words": words},
        {"clients": masked.clients + 1},
        {"session": replace(masked.session, round=9)},
        {"checksum": masked.checksum[::-1]},
    ]
    for change in changes:
        with pytest.raises(ProtocolError, match="damaged"):
            replace(masked, **change)


@pytest.mark.parametrize("threshold", [0, 1, 4])
def test_a_threshold_that_gives_both_secrets_away_is_refused(threshold: int) -> None:
    request: NeighbourKeys = SENT[NeighbourKeys]
    assert request.closed.shape[1] == 3
    with pytest.raises(ProtocolError, match=f"a threshold of {threshold} for 3 shares"):
        replace(request, threshold=threshold)


def test_nobody_survives_and_drops_out() -> None:
    survivors: Survivors = SENT[Survivors]
    with pytest.raises(ProtocolError, match="both survived and dropped"):
        replace(survivors, dropped=survivors.survived[:1])


def test_pairs_stand_once() -> None:
    sent: RevealedShares = SENT[RevealedShares]
    holders, owners = sent.holders.copy(), sent.owners.copy()
    holders[1], owners[1] = holders[0], owners[0]
    with pytest.raises(ProtocolError, match="a pair of clients twice"):
        replace(sent, holders=holders, owners=owners)


def test_secrets_are_not_printed() -> None:
    for state in (NODES.secrets[0], NODES.shared[0], NODES.masking[0]):
        assert "seeds" not in repr(state)
        assert "shares=" not in repr(state)
        assert "channel_keys" not in repr(state)

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from fedrec.data.split import check_split
from fedrec.errors import DataError
from fedrec.ragged import Ragged, offsets_of
from fedrec.types import Split


def ragged(*rows: list[int]) -> Ragged:
    return Ragged(
        offsets_of(np.array([len(row) for row in rows], np.int64)),
        np.array([value for row in rows for value in row], np.int64),
    )


SOUND = Split(
    n_items=5,
    train=ragged([0, 2], [], [1, 4]),
    valid=ragged([1], [3], []),
    test=ragged([4], [], [0]),
    clients=ragged([0, 2], [1]),
    timestamps=np.array([1.0, 3, 1, 2]),
    ratings=None,
    user_ids=np.array(["ann", "bob", "cleo"]),
    item_ids=np.array(["v", "w", "x", "y", "z"]),
)
VALID_TIMES, TEST_TIMES = np.array([3.0, 5.0]), np.array([3.0, 2.0])


def test_a_sound_split_passes() -> None:
    check_split(SOUND)
    check_split(SOUND, valid_times=VALID_TIMES, test_times=TEST_TIMES, split_by="leave_one_out")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"test": ragged([2], [], [])}, "is held out twice, or trained on"),
        ({"valid": ragged([2], [], [])}, "is held out twice, or trained on"),
        ({"valid": ragged([4], [], [])}, "is held out twice, or trained on"),
        ({"clients": ragged([0], [1])}, "a user is not held by one client"),
        ({"clients": ragged([0, 1], [1, 2])}, "a user is not held by one client"),
    ],
)
def test_every_fault_is_found(change: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        check_split(replace(SOUND, **change))


@pytest.mark.parametrize(
    ("train", "valid", "test", "split_by"),
    [
        ([1.0, 3.5, 1, 2], [3.0, 5], [3.0, 2], "leave_one_out"),
        ([1.0, 3, 1, 2], [4.0, 5], [3.0, 2], "leave_one_out"),
        ([1.0, 3, 1, 2], [3.0, 5], [3.0, 1.5], "leave_one_out"),
        ([1.0, 3, 1, 2], [3.0, 5], [3.0, 2], "temporal"),
    ],
)
def test_training_on_the_future_is_found(
    train: list[float], valid: list[float], test: list[float], split_by: str
) -> None:
    late = replace(SOUND, timestamps=np.array(train))
    with pytest.raises(DataError, match="an interaction is later than one that is held out"):
        check_split(late, np.array(valid), np.array(test), split_by=split_by)

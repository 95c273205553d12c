from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from fedrec.data.split import check_split
from fedrec.errors import DataError
from fedrec.types import Ragged, Split, offsets_of


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
        ({"test": ragged([2], [], [])}, "item 'x' of user 'ann' is in train and in test"),
        ({"valid": ragged([2], [], [])}, "item 'x' of user 'ann' is in train and in valid"),
        ({"valid": ragged([4], [], [])}, "item 'z' of user 'ann' is in valid and in test"),
        ({"clients": ragged([0], [1])}, "user 'cleo' is held by 0 clients"),
        ({"clients": ragged([0, 1], [1, 2])}, "user 'bob' is held by 2 clients"),
    ],
)
def test_every_fault_is_found_and_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        check_split(replace(SOUND, **change))


def test_training_on_the_future_is_found() -> None:
    late = replace(SOUND, timestamps=np.array([1.0, 3.5, 1, 2]))
    with pytest.raises(DataError, match="user 'ann' has a train interaction later than a valid"):
        check_split(late, valid_times=VALID_TIMES, test_times=TEST_TIMES, split_by="leave_one_out")
    with pytest.raises(DataError, match="user 'ann' has a valid interaction later than a test"):
        check_split(
            SOUND, valid_times=np.array([4.0, 5.0]), test_times=TEST_TIMES, split_by="leave_one_out"
        )
    with pytest.raises(DataError, match="user 'cleo' has a train interaction later than a test"):
        check_split(
            SOUND,
            valid_times=VALID_TIMES,
            test_times=np.array([3.0, 1.5]),
            split_by="leave_one_out",
        )
    with pytest.raises(DataError, match="the data has a train interaction later than a test"):
        check_split(SOUND, valid_times=VALID_TIMES, test_times=TEST_TIMES, split_by="temporal")
    with pytest.raises(DataError, match="cannot be checked without timestamps"):
        check_split(SOUND, split_by="temporal")

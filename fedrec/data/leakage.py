"""Proof that a split does not leak: runs on every split, and fails loudly."""

from __future__ import annotations

from typing import Literal

import numpy as np

from fedrec.errors import DataError
from fedrec.types import FloatArray, IntArray, Ragged, Split

__all__ = ["check_split"]


def check_split(
    split: Split,
    *,
    valid_times: FloatArray | None = None,
    test_times: FloatArray | None = None,
    order: Literal["none", "per_user", "global"] = "none",
) -> None:
    """See that nothing that is held out can be trained on.

    Every row is sorted and unique, every id in range, no item of a user in two parts, every user
    held by exactly one client; and in time, train is not later than validation, and neither is
    later than the test.

    Args:
        split: What is checked.
        valid_times: float64 [valid nnz], parallel to ``split.valid.values``.
        test_times: float64 [test nnz], parallel to ``split.test.values``.
        order: Whether that order in time must hold: within each user (leave-one-out), over all
            users (temporal), or not at all (ratio, or no timestamps).

    Raises:
        DataError: At the first fault, with the raw ids.
    """
    parts = {"train": split.train, "valid": split.valid, "test": split.test}
    for label, rows in parts.items():
        if len(rows) != split.n_users:
            raise _fault(split, f"{label} has {len(rows)} rows for {split.n_users} users")
        _check_rows(split, label, rows, split.n_items)
    if len(split.user_ids) != split.n_users or len(split.item_ids) != split.n_items:
        raise _fault(split, "the tables of raw ids do not fit the number of users or items")
    for label, values in (("timestamps", split.timestamps), ("ratings", split.ratings)):
        if values is not None and len(values) != len(split.train.values):
            raise _fault(split, f"{label} are not parallel to the train items")
    keys = {label: rows.owners() * split.n_items + rows.values for label, rows in parts.items()}
    for one, other in (("train", "valid"), ("train", "test"), ("valid", "test")):
        # Rows are sorted by now, so the keys are; the second is usually the shorter.
        at = np.searchsorted(keys[one], keys[other])
        both = np.append(keys[one], -1)[at] == keys[other]
        if both.any():
            user, item = divmod(int(keys[other][both][0]), split.n_items)
            raise _fault(
                split,
                f"item '{split.item_ids[item]}' of user '{split.user_ids[user]}' is in {one} and "
                f"in {other}",
            )
    _check_clients(split)
    if order != "none":
        _check_times(split, valid_times, test_times, order)


def _check_rows(split: Split, label: str, rows: Ragged, count: int) -> None:
    offsets, values = rows.offsets, rows.values
    if offsets[0] != 0 or offsets[-1] != len(values) or (np.diff(offsets) < 0).any():
        raise _fault(split, f"the offsets of {label} do not fit its values")
    outside = (values < 0) | (values >= count)
    if outside.any():
        bad = int(values[np.flatnonzero(outside)[0]])
        raise _fault(split, f"{label} holds {bad}, expected 0 to {count - 1}")
    rising = np.diff(values) > 0
    starts = offsets[1:-1]
    rising[starts[(starts > 0) & (starts < len(values))] - 1] = True
    if not rising.all():
        row = int(np.searchsorted(offsets, np.flatnonzero(~rising)[0], side="right")) - 1
        raise _fault(split, f"row {row} of {label} is not sorted, or holds an entry twice")


def _check_clients(split: Split) -> None:
    _check_rows(split, "clients", split.clients, split.n_users)
    held = np.bincount(split.clients.values, minlength=split.n_users)
    if (held != 1).any():
        user = int(np.flatnonzero(held != 1)[0])
        raise _fault(
            split, f"user '{split.user_ids[user]}' is held by {int(held[user])} clients, expected 1"
        )
    if (split.clients.lengths == 0).any():
        empty = int(np.flatnonzero(split.clients.lengths == 0)[0])
        raise _fault(split, f"client {empty} holds no user")


def _check_times(
    split: Split,
    valid_times: FloatArray | None,
    test_times: FloatArray | None,
    order: Literal["per_user", "global"],
) -> None:
    if split.timestamps is None or valid_times is None or test_times is None:
        raise _fault(split, f"the order in time ({order}) cannot be checked without timestamps")
    train = _span(split.train, split.timestamps, order)
    valid = _span(split.valid, valid_times, order)
    test = _span(split.test, test_times, order)
    for (one, (_, end)), (other, (start, _)) in (
        (("train", train), ("valid", valid)),
        (("train", train), ("test", test)),
        (("valid", valid), ("test", test)),
    ):
        late = np.flatnonzero(end > start)
        if len(late):
            whose = f"user '{split.user_ids[int(late[0])]}'" if order == "per_user" else "the data"
            raise _fault(split, f"{whose} has a {one} interaction later than a {other} interaction")


def _span(rows: Ragged, times: FloatArray, order: str) -> tuple[FloatArray, FloatArray]:
    """The first and the last time of each row, or of all; inf and -inf where there is none."""
    count = 1 if order == "global" else len(rows)
    owners: IntArray = np.zeros(len(times), np.int64) if order == "global" else rows.owners()
    first, last = np.full(count, np.inf), np.full(count, -np.inf)
    np.minimum.at(first, owners, times)
    np.maximum.at(last, owners, times)
    return first, last


def _fault(split: Split, what: str) -> DataError:
    return DataError(
        f"split of {split.name} is unsound: {what}; clear the cache folder's 'prepared', and "
        "report this if it comes back"
    )

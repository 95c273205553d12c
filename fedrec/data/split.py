"""Filter interactions, hold some out for validation and test, and prove that nothing leaks.

The order is fixed: duplicates, then the rating threshold, then the k-core, then cold items, then
the split of all other interactions, with which users that are too short for it are settled. Users
and items without any interaction left lose their index.

Ties in time, and the order of data without timestamps, are decided by a hash of the split's seed
and the raw ids of user and item: not by the order of the file, nor by the seed of a run. Data
without timestamps has no latest item; leave-one-out then holds out random ones by the same hash.
"""

from dataclasses import replace
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fedrec.data.base import DataSet, SplitBy
from fedrec.data.ids import hash_ids, mix_seed
from fedrec.errors import DataError
from fedrec.ragged import offsets_of
from fedrec.types import FloatArray, IntArray, Interactions, Split

Mask: TypeAlias = NDArray[np.bool_]
Subsets: TypeAlias = NDArray[np.int8]
TRAIN, VALID, TEST, DROPPED = 0, 1, 2, -1
TIMED = ("leave_one_out", "temporal")


def filter_interactions(data: Interactions, options: DataSet, problems: list[str]) -> Interactions:
    """Apply duplicates, threshold and k-core, in this order, and give new indices.

    Each option that cannot be applied is left out, and adds a line to ``problems``.

    Raises:
        DataError: If the data is unsound.
    """
    check_interactions(data)
    # Products of indices would overflow a shorter type.
    users, items = (each.astype(np.int64, casting="same_kind") for each in (data.users, data.items))
    data = replace(data, users=users, items=items)
    data = select(data, keep_one(data, options.duplicates, problems))
    threshold, ratings = options.threshold, data.ratings
    if threshold is not None and ratings is None:
        named = "name their column in data.columns.rating, or "
        problems.append(
            f"data.threshold is {threshold:g}, but {data.name} has no ratings; "
            f"{named if hasattr(options, 'columns') else ''}set data.threshold: null"
        )
    elif threshold is not None and ratings is not None:
        if ratings.max() >= threshold:
            data = select(data, ratings >= threshold)
        else:
            problems.append(
                f"data.threshold: no rating of {data.name} is {threshold:g} or more; the highest "
                f"is {ratings.max():g}"
            )
    if options.k_core > 1:
        keep = k_core(data.users, data.items, options.k_core)
        if keep.any():
            data = select(data, keep)
        else:
            problems.append(
                f"data.k_core: {options.k_core} leaves nothing of {data.name}; lower it, or set 0"
            )
    return data


def check_interactions(data: Interactions) -> None:
    """Check that a data set keeps its promises: lengths, ranges of indices, text, finite numbers.

    Raises:
        DataError: Naming what is wrong.
    """
    n = len(data)
    faults = {"no interactions; expected at least one": n == 0}
    for kind, indices, ids, columns in (
        ("user", data.users, data.user_ids, data.user_columns),
        ("item", data.items, data.item_ids, data.item_columns),
    ):
        m, outside = len(ids), indices[(indices < 0) | (indices >= len(ids))][:1]
        faults |= {
            f"{len(indices)} {kind}s for {n} interactions": len(indices) != n,
            f"{kind} index {outside} is out of range; there are {m} {kind}s": len(outside) > 0,
            f"two {kind}s have the same raw id": len(set(ids.tolist())) < m,
        }
        for name, texts in {f"{kind}_ids": ids, **columns}.items():
            others = [text for text in texts.tolist() if not isinstance(text, str)][:1]
            faults |= {
                f"column '{name}' has {len(texts)} cells, expected {m}": len(texts) != m,
                f"column '{name}': expected text, got {others}": bool(others),
            }
    for kind, values in (("rating", data.ratings), ("timestamp", data.timestamps)):
        if values is not None:
            rows = np.flatnonzero(~np.isfinite(values))[:1]
            faults |= {
                f"{len(values)} {kind}s for {n} interactions": len(values) != n,
                f"{kind} {values[rows]} of row {rows + 1} is not finite": len(rows) > 0,
            }
    for fault, is_there in faults.items():
        if is_there:
            raise DataError(f"{data.name}: {fault}")


def keep_one(
    data: Interactions, duplicates: Literal["error", "first", "last"], problems: list[str]
) -> Mask:
    """Choose rows so that each user has each item once.

    Args:
        data: Interactions.
        duplicates: Keep the ``first`` or the ``last`` in time (in the order of the rows where
            there is no time, or the same); for ``error``, the last.
        problems: Gets a line if there are any and ``duplicates`` is ``error``.
    """
    keys = data.users * len(data.item_ids) + data.items
    times = np.zeros(len(data)) if data.timestamps is None else data.timestamps
    by_pair = np.lexsort((times, keys))  # stable: of the same time, the row that comes first
    is_same = keys[by_pair][1:] == keys[by_pair][:-1]
    if duplicates == "error" and is_same.any():
        rows = by_pair[1:][is_same]
        user, item = data.user_ids[data.users[rows.min()]], data.item_ids[data.items[rows.min()]]
        problems.append(
            f"{data.name}: user '{user}' has item '{item}' more than once ({len(rows)} such rows); "
            "set data.duplicates to first or last"
        )
    keep = np.ones(len(data), np.bool_)
    keep[(by_pair[1:] if duplicates == "first" else by_pair[:-1])[is_same]] = False
    return keep


def k_core(users: IntArray, items: IntArray, k: int) -> Mask:
    """Return bool [n], the largest set of rows in which every user and item has at least k.

    It does not depend on the order in which rows are removed.
    """
    keep = np.ones(len(users), np.bool_)
    while True:
        of_user, of_item = (np.bincount(each, keep) for each in (users, items))
        fewer = keep & (of_user[users] >= k) & (of_item[items] >= k)
        if np.array_equal(fewer, keep):
            return keep
        keep = fewer


def select(data: Interactions, keep: Mask) -> Interactions:
    """Return some rows with new indices; users and items that no row names are left out."""
    users, old_users = _renumber(data.users[keep], len(data.user_ids))
    items, old_items = _renumber(data.items[keep], len(data.item_ids))
    return replace(
        data,
        users=users,
        items=items,
        ratings=None if data.ratings is None else data.ratings[keep],
        timestamps=None if data.timestamps is None else data.timestamps[keep],
        user_ids=data.user_ids[old_users],
        item_ids=data.item_ids[old_items],
        user_columns={name: column[old_users] for name, column in data.user_columns.items()},
        item_columns={name: column[old_items] for name, column in data.item_columns.items()},
    )


def _renumber(indices: IntArray, count: int) -> tuple[IntArray, IntArray]:
    used = np.bincount(indices, minlength=count) > 0
    return (np.cumsum(used, dtype=np.int64) - 1)[indices], np.flatnonzero(used)


def hold_out(
    data: Interactions,
    by: SplitBy,
    short_users: Literal["error", "train_only", "drop"],
    problems: list[str],
    of_all_users: bool = True,
) -> Subsets:
    """Assign each interaction to training, validation or test.

    Interactions with items that `cold_items` holds out go where their item goes, those of dropped
    users excepted; what follows is about the others.

    ``leave_one_out``: a user's latest interaction is for the test, the second latest for
    validation; it needs 3. ``ratio``: random shares of each user's interactions, at least one
    for the test, one for validation (unless its share is 0) and one for training.
    ``temporal``: the globally latest interactions are for the test, those before for validation.
    Here a user is too short if it has nothing in the training period; there is then nothing that
    ``train_only`` could keep, and it drops the user too.

    If a user is too short and may not be, or there is no time to split by, a line is added to
    ``problems``, and the split goes on with ``train_only`` or ``leave_one_out``.

    Args:
        data: Interactions.
        by: How they are held out.
        short_users: What becomes of users with too few.
        problems: Gets a line for each.
        of_all_users: Whether these are all users of a run, of whom some have test items. A device
            has its own users alone, who may have none.

    Returns:
        int8 [n]: ``TRAIN``, ``VALID``, ``TEST`` or ``DROPPED``.

    Raises:
        DataError: If nothing is left for training or for the test, or fewer than two items would
            be cold.
    """
    subset_of_item = cold_items(data, by)
    is_warm = subset_of_item[data.items] == TRAIN
    subsets = subset_of_item[data.items]
    times = None if data.timestamps is None else data.timestamps[is_warm]
    warm = replace(
        data, users=data.users[is_warm], items=data.items[is_warm], ratings=None, timestamps=times
    )
    needed = (TRAIN, TEST) if of_all_users else (TRAIN,)
    subsets[is_warm] = _hold_out_in_time(warm, by, short_users, problems, needed)
    if by.users is not None:
        given_back = (subsets > TRAIN) & ~_chosen_users(data, by, subsets > TRAIN)[data.users]
        subsets[given_back] = np.where(is_warm & (by.name != "temporal"), TRAIN, DROPPED)[
            given_back
        ]
    trains = np.isin(np.arange(len(data.user_ids)), data.users[subsets == TRAIN])
    subsets[~trains[data.users]] = DROPPED
    return subsets


def _chosen_users(data: Interactions, by: SplitBy, is_held_out: Mask) -> Mask:
    """Return bool [n_users]: whose items stay held out, see `SplitBy`.

    Raises:
        DataError: If fewer users have any.
    """
    has_some = np.bincount(data.users, is_held_out, len(data.user_ids)) > 0
    if by.users is not None and has_some.sum() < by.users:
        raise DataError(
            f"data.split.users: {by.users} is more than the {has_some.sum()} users of {data.name} "
            "that have items held out; lower it or leave it out"
        )
    by_hash = np.argsort(mix_seed(by.seed, hash_ids(data.user_ids)), kind="stable")
    chosen = np.zeros(len(has_some), np.bool_)
    chosen[by_hash[has_some[by_hash]][: by.users]] = True
    return chosen


def cold_items(data: Interactions, by: SplitBy) -> Subsets:
    """Choose the items that are held out from everybody's training.

    Returns:
        int8 [n_items]: ``VALID`` for one half of them (the smaller), ``TEST`` for the other;
        ``TRAIN`` for all other items.

    Raises:
        DataError: If some are wanted, but fewer than two.
    """
    subsets = np.full(len(data.item_ids), TRAIN, np.int8)
    if not by.cold_items:
        return subsets
    count = int(_share(by.cold_items, np.array(len(subsets)), 0))
    if count < 2:
        raise DataError(
            f"data.split.cold_items: {by.cold_items:g} of the {len(subsets)} items of {data.name} "
            f"is {count}, expected one for validation and one for the test; raise it"
        )
    by_hash = np.lexsort((np.arange(len(subsets)), mix_seed(by.seed, hash_ids(data.item_ids))))
    subsets[by_hash[: count // 2]] = VALID
    subsets[by_hash[count // 2 : count]] = TEST
    return subsets


def cold_last(data: Interactions, is_train: Mask) -> tuple[Interactions, int]:
    """Give the last indices to the items without train interactions; return how many these are.

    Args:
        data: Interactions.
        is_train: bool [n], which of them are trained on.
    """
    is_cold = np.bincount(data.items[is_train], minlength=len(data.item_ids)) == 0
    items = np.argsort(is_cold, kind="stable")
    columns = {name: column[items] for name, column in data.item_columns.items()}
    index = np.argsort(items)[data.items]
    renumbered = replace(data, items=index, item_ids=data.item_ids[items], item_columns=columns)
    return renumbered, int(is_cold.sum())


def _hold_out_in_time(
    data: Interactions,
    by: SplitBy,
    short_users: Literal["error", "train_only", "drop"],
    problems: list[str],
    not_empty: tuple[int, ...],
) -> Subsets:
    """Assign interactions with items that are not cold; see `hold_out`."""
    users, times = data.users, data.timestamps
    if by.name == "temporal" and times is None:
        problems.append(
            f"data.split: temporal needs timestamps, but {data.name} has none; name their column "
            "in data.columns.timestamp, or use leave_one_out or ratio"
        )
        by = SplitBy()
    groups = users * (by.name != "temporal")  # within which rows are sorted
    counts = np.bincount(groups)
    in_time = () if times is None or by.name == "ratio" else (times,)
    hashes = hash_ids(data.user_ids)[users], hash_ids(data.item_ids)[data.items]
    in_groups = np.lexsort((data.items, users, mix_seed(by.seed, *hashes), *in_time, groups))
    count = counts[groups[in_groups]]
    ranks = np.arange(len(data)) - offsets_of(counts)[groups[in_groups]]
    test = valid = np.array(1)
    if by.name != "ratio":
        ranks = count - 1 - ranks  # the latest first
    if by.name != "leave_one_out":
        test = _share(by.test, count, 1)
        valid = _share(by.valid, count, int(by.name == "ratio" and by.valid > 0))
        valid = np.minimum(valid, count - test - 1)
    subsets = np.empty(len(data), np.int8)
    subsets[in_groups] = np.select([ranks < test, ranks < test + valid], [TEST, VALID], TRAIN)
    needed = {"leave_one_out": 3, "ratio": 2 + (by.valid > 0), "temporal": 1}[by.name]
    counts = np.bincount(users, minlength=len(data.user_ids))
    is_short = (counts < needed) | ~np.isin(np.arange(len(counts)), users[subsets == TRAIN])
    if is_short.any() and short_users == "error":
        user, others = int(np.argmax(is_short)), int(is_short.sum()) - 1
        problems.append(
            f"{data.name}: user '{data.user_ids[user]}' has {counts[user]} "
            f"interaction{'s' if counts[user] != 1 else ''}"
            f"{' with items that are not cold' if by.cold_items else ''}, {by.name} needs {needed}"
            f"{' in the training period' if by.name == 'temporal' else ''}"
            f"{f' (and {others} more users)' if others else ''}; set data.short_users to "
            "train_only or drop"
        )
    keeps = short_users != "drop" and by.name != "temporal"
    subsets[is_short[users]] = TRAIN if keeps else DROPPED
    for subset in not_empty:
        if not (subsets == subset).any():
            label = "train on" if subset == TRAIN else "test on"
            raise DataError(
                f"{data.name}: the split leaves nothing to {label}; change data.split, or filter "
                "less with data.threshold, data.k_core or data.short_users"
            )
    return subsets


def check_split(
    split: Split,
    valid_times: FloatArray | None = None,
    test_times: FloatArray | None = None,
    *,
    split_by: str | None = None,
) -> None:
    """Check that nothing that is held out can be trained on.

    No user has an item in two subsets, nobody trains on a cold item, every user is held by exactly
    one client; and in time, train is not later than validation, and neither is later than the
    test, but for cold items.

    Args:
        split: The split.
        valid_times: float64 [valid nnz], parallel to ``split.valid.values``.
        test_times: float64 [test nnz], parallel to ``split.test.values``.
        split_by: Whether times must rise so: within each user (``leave_one_out``), over all
            users (``temporal``), or not at all.

    Raises:
        DataError: Naming what is wrong.
    """
    rows = (split.train, split.valid, split.test)
    users = np.concatenate([each.owners() for each in rows])
    keys = users * split.n_items + np.concatenate([each.values for each in rows])
    clients = np.bincount(split.clients.values, minlength=split.n_users)
    faults = {
        "an item of a user is held out twice, or trained on": len(np.unique(keys)) < len(keys),
        "a user is not held by one client": bool((clients != 1).any()),
        "a cold item is trained on": bool((split.train.values >= split.n_drawn).any()),
    }
    times = [each for each in (split.timestamps, valid_times, test_times) if each is not None]
    if split_by in TIMED and len(times) == len(rows):
        subsets = np.repeat(np.arange(len(rows)), [len(each.values) for each in rows])
        groups = users * (split_by == "leave_one_out")  # within which time must rise
        in_time = np.lexsort((subsets, np.concatenate(times), groups))
        in_time = in_time[(keys % split.n_items < split.n_drawn)[in_time]]
        is_earlier = (np.diff(groups[in_time]) == 0) & (np.diff(subsets[in_time]) < 0)
        faults["an interaction is later than one that is held out"] = bool(is_earlier.any())
    for fault, is_there in faults.items():
        if is_there:
            raise DataError(
                f"split of {split.name} is unsound: {fault}; clear the cache folder's 'prepared', "
                "and report this if it comes back"
            )


def _share(share: float, counts: IntArray, least: int) -> IntArray:
    """Return floor(share * count), with 0.3 * 10 = 3, but not less than a number."""
    return np.asarray(np.maximum(np.floor(share * counts + 1e-9).astype(np.int64), least))

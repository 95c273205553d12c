"""Make the split of a data set on disk, where workers map it into memory.

``load`` → filters → held-out parts → clients → leakage check → a file in the cache, under a hash of
all that it depends on.
"""

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from fedrec.data.base import DataProblems, DataSet, SplitBy
from fedrec.data.clients import Clients, assign_clients
from fedrec.data.negatives import check_pool
from fedrec.data.split import (
    DROPPED,
    TEST,
    TRAIN,
    VALID,
    check_split,
    cold_last,
    filter_interactions,
    hold_out,
    select,
)
from fedrec.data.textfile import unpacked_name
from fedrec.errors import DataError, FedRecError, RunFolderError
from fedrec.ragged import Ragged, offsets_of
from fedrec.storage.files import (
    cache_folder,
    checksum_of,
    map_arrays,
    read_arrays,
    write_arrays,
    writing,
)
from fedrec.types import IntArray, Interactions, Split, TextArray

FORMAT = 4
RAGGED = ("train", "valid", "test", "clients")
NUMBERS = ("timestamps", "ratings")
IDS = ("user_ids", "item_ids")
COLUMNS = ("user_columns", "item_columns")


def prepare(data: DataSet, clients: Clients, kept_split: Path | None = None) -> Path:
    """Make the split of an experiment on disk, unless it was made before.

    Args:
        data: What is split.
        clients: Who is a client.
        kept_split: The file of a split that was made of the same; returned if the data is not here.

    Returns:
        A file for `open_split`. A damaged one is made anew; two processes may make the same.

    Raises:
        FedRecError: If the data is missing, damaged, or cannot be used as configured.
    """
    if kept_split is not None and not data.is_here():
        read_arrays(kept_split)  # compares its checksum
        return kept_split
    path = cache_folder() / "prepared" / f"{_key(data, clients)}.safetensors"
    try:
        read_arrays(path)
    except RunFolderError:  # it is not there, or damaged
        split = split_of(data, clients)
        with writing(path):
            save_split(split, path)
    return path


def split_of(data: DataSet, clients: Clients) -> Split:
    """Make the split of an experiment, in memory, and check it for leakage.

    Raises:
        FedRecError: As `prepare`; where there are several problems, all that can be seen.
    """
    problems: list[str] = []
    options = data
    try:
        interactions = data.load()
    except DataProblems as faults:
        if faults.rest is None:
            raise
        problems += faults.lines
        interactions = faults.rest
        # Rows are missing: whether enough are left cannot be judged.
        lenient = {"threshold": None, "k_core": 0, "short_users": "train_only", "split": SplitBy()}
        options = data.model_copy(update=lenient)
    came: object = interactions  # of a data set of one's own
    if not isinstance(came, Interactions):
        raise DataError(
            f"data: load of {type(data).__name__} returned {type(came).__name__}, expected "
            "fedrec.types.Interactions"
        )
    try:
        split = split_interactions(interactions, options, clients, problems)
    except FedRecError:  # It may be a consequence of the problems before it.
        if not problems:
            raise
    if problems:
        raise DataProblems(problems)
    return split


def split_interactions(
    interactions: Interactions,
    options: DataSet,
    clients: Clients,
    problems: list[str],
    catalogue: TextArray | None = None,
) -> Split:
    """Filter interactions, hold some out, and check the split for leakage.

    Args:
        interactions: Of all users of a run; of some of them if there is a ``catalogue``.
        options: The filters and the split.
        clients: Who is a client.
        problems: Gets a line for each option that cannot be applied.
        catalogue: text [n_items], the raw ids of the items of the run, among them all that the
            interactions name, in the same order; None: those that are left after the filters.

    Raises:
        FedRecError: If the data is unsound, or the split leaves nothing.
    """
    data, alone = filter_interactions(interactions, options, problems), catalogue is not None
    subsets = hold_out(data, options.split, options.short_users, problems, not alone)
    data, subsets = select(data, subsets != DROPPED), subsets[subsets != DROPPED]
    if catalogue is not None:
        at = np.flatnonzero(np.isin(catalogue, data.item_ids))
        data = replace(data, items=at[data.items], item_ids=catalogue, item_columns={})
    n_cold = 0
    if options.split.cold_items:
        data, n_cold = cold_last(data, subsets == TRAIN)
    by_user = np.lexsort((data.items, data.users))
    rows = [by_user[subsets[by_user] == subset] for subset in (TRAIN, VALID, TEST)]
    train, valid, test = (_by_user(data, each) for each in rows)
    times = [None if data.timestamps is None else data.timestamps[each] for each in rows]
    split_by = None if data.timestamps is None else options.split.name
    split = Split(
        n_items=len(data.item_ids),
        train=train,
        valid=valid,
        test=test,
        clients=assign_clients(data, train, clients),
        timestamps=times[0],
        ratings=None if data.ratings is None else data.ratings[rows[0]],
        user_ids=data.user_ids.astype(object),
        item_ids=data.item_ids.astype(object),
        user_columns={name: column.astype(object) for name, column in data.user_columns.items()},
        item_columns={name: column.astype(object) for name, column in data.item_columns.items()},
        name=data.name,
        n_cold=n_cold,
    )
    check_split(split, *times[1:], split_by=split_by)
    check_pool(split, options.protocol)
    return split


def save_split(split: Split, path: Path) -> None:
    """Write a split into a file: numbers as arrays, texts as JSON. Its folder is made."""
    numbers = {name: getattr(split, name) for name in NUMBERS}
    arrays = {name: values for name, values in numbers.items() if values is not None}
    for name in RAGGED:
        rows: Ragged = getattr(split, name)
        arrays |= {f"{name}.offsets": rows.offsets, f"{name}.values": rows.values}
    kinds: dict[str, Any] = {name: getattr(split, name).tolist() for name in IDS}
    for name in COLUMNS:
        columns = getattr(split, name).items()
        kinds[name] = {column: values.tolist() for column, values in columns}
    texts = {"texts": json.dumps({**kinds, "n_cold": split.n_cold})}
    version = checksum_of(arrays, texts)
    write_arrays(path, arrays, {**texts, "name": split.name, "version": version}, durable=False)


def open_split(path: Path) -> Split:
    """Open the file of a split; its numbers stay on disk and are mapped read-only.

    Raises:
        RunFolderError: If it is missing or damaged.
    """
    arrays, about = map_arrays(path)
    texts = json.loads(about["texts"])
    values: dict[str, Any] = {name: arrays.get(name) for name in NUMBERS}
    for name in RAGGED:
        values[name] = Ragged(arrays[f"{name}.offsets"], arrays[f"{name}.values"])
    values |= {name: np.array(texts[name], object) for name in IDS}
    for name in COLUMNS:
        columns = texts[name].items()
        values[name] = {column: np.array(each, object) for column, each in columns}
    return Split(
        n_items=len(texts["item_ids"]),
        name=about["name"],
        n_cold=texts["n_cold"],
        **values,
    )


def version_of(path: Path) -> str:
    """Return a hash of what the file of a split holds, wherever it came from, but for its name."""
    return map_arrays(path)[1]["version"]


def _by_user(data: Interactions, rows: IntArray) -> Ragged:
    """Return one row per user: the items of some interactions, which are sorted by user."""
    lengths = np.bincount(data.users[rows], minlength=len(data.user_ids))
    return Ragged(offsets_of(lengths), data.items[rows])


def _key(data: DataSet, clients: Clients) -> str:
    kind = f"{type(data).__module__}:{type(data).__qualname__}"
    section = data.model_dump(mode="json", exclude={"path": True, "items": {"path"}})
    section["name"] = unpacked_name(getattr(data, "path", "")).stem
    values = [FORMAT, kind, section, data.fingerprint(), clients.model_dump(mode="json")]
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:32]

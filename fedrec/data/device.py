"""What one device has of a run's data: the interactions of its own users, nothing else.

Its split is, user by user, that of a run in one place on the data of all: whatever is decided per
user (duplicates, the rating threshold, which interactions are held out, ties in time) depends on
that user's interactions and on hashes of raw ids. Options that look at other people's data are
refused, see `needs_others`.
"""

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from fedrec.data.base import DataProblems, DataSet
from fedrec.data.clients import Clients
from fedrec.data.prepare import split_interactions
from fedrec.data.split import select
from fedrec.data.textfile import unpacked_name
from fedrec.errors import ConfigError, DataError
from fedrec.plugins import as_mapping, lookup
from fedrec.ragged import Ragged, empty_rows
from fedrec.types import Interactions, Split, TextArray

LOG = logging.getLogger("fedrec")

READERS: Mapping[str, Mapping[str, Any]] = {
    ".parquet": {"name": "parquet"},
    ".inter": {"name": "inter"},
    ".tsv": {"name": "csv", "separator": "\t"},
    ".sqlite": {"name": "sqlite"},
    ".sqlite3": {"name": "sqlite"},
    ".db": {"name": "sqlite"},
}
"""By the ending of a file, how it is read; all others are csv."""
SHOWN = 3
"""Unknown items that a warning names."""


def reader_of(path: Path) -> dict[str, Any]:
    """Return the section ``data`` that reads a file, by its ending."""
    return {**READERS.get(unpacked_name(path).suffix.lower(), {"name": "csv"}), "path": path}


def device_file(section: Mapping[str, Any]) -> DataSet:
    """Return what reads a device's own file.

    Args:
        section: Such as from `reader_of`, with more keys: ``columns``, ``table``, ...

    Raises:
        ConfigError: If a key or its value is wrong.
    """
    values = dict(as_mapping(section))
    kind = lookup("data", str(values.pop("name", "csv")))
    if not issubclass(kind, DataSet):
        raise ConfigError(f"data: {kind.__name__} is not a data set")
    return kind.model_validate(values)


def needs_others(data: DataSet, clients: Clients) -> list[str]:
    """Return a line for each option whose outcome depends on the data of other devices."""
    by, settings = data.split, dict[str, bool]()
    settings["data.k_core: counts the users of each item; set 0"] = data.k_core > 1
    settings[
        "data.split: temporal splits at one time for all users; use leave_one_out or ratio"
    ] = by.name == "temporal"
    settings["data.split.cold_items: chooses among the items that some user has; set 0"] = (
        by.cold_items > 0
    )
    settings["data.split.users: chooses among all users; leave it out"] = by.users is not None
    settings[f"clients.by: {clients.by} groups users of several devices; use user"] = (
        clients.by != "user"
    )
    return [line for line, is_set in settings.items() if is_set]


def device_split(data: Interactions, catalogue: TextArray, options: DataSet) -> Split:
    """Split the interactions of a device's users as a run on all data splits them.

    Interactions with items that the catalogue does not have are left out, with a warning.

    Args:
        data: What the device's file holds.
        catalogue: text [n_items], the raw ids of the items of the run.
        options: The experiment's filters and split.

    Returns:
        The device's users, each a client, numbered from 0; items have the run's numbers.

    Raises:
        DataError: If nothing is left to train on, or the data is unsound.
    """
    index = {text: at for at, text in enumerate(catalogue.tolist())}
    at = np.array([index.get(text, -1) for text in data.item_ids.tolist()], np.int64)
    items = at[data.items] if len(data) else data.items
    unknown = data.item_ids[at < 0]
    if len(unknown):
        count, more = int((items < 0).sum()), len(unknown) - SHOWN
        names = ", ".join(f"'{text:.40}'" for text in unknown[:SHOWN].tolist())
        LOG.warning(
            f"{data.name}: {count} of {len(data)} interactions are with items that the catalogue "
            f"of the run does not have: {names}{f' and {more} more' if more > 0 else ''}; they "
            "are left out"
        )
    if not (items >= 0).any():
        raise DataError(
            f"{data.name}: none of its items, such as '{data.item_ids[0]}', is in the catalogue of "
            f"the run, which has such as '{catalogue[0]}'; give the column of the raw ids"
        )
    in_catalogue = replace(data, items=items, item_ids=catalogue, item_columns={})
    known, problems = select(in_catalogue, items >= 0), list[str]()
    split = split_interactions(known, options, Clients(), problems, catalogue)
    if problems:
        raise DataProblems(problems)
    return split


def split_of_devices(catalogue: Split, n_users: int) -> Split:
    """Return what a server knows of the data that stays on devices: how many users there are.

    Args:
        catalogue: The items, without users, see `items_alone`.
        n_users: Users, each a client. Their numbers are their raw ids.
    """
    nothing = empty_rows(n_users)
    numbers = np.arange(n_users, dtype=np.int64)
    return replace(
        catalogue,
        train=nothing,
        valid=nothing,
        test=nothing,
        clients=Ragged(np.arange(n_users + 1, dtype=np.int64), numbers),
        user_ids=numbers.astype(str).astype(object),
    )


def items_alone(
    ids: TextArray, columns: Mapping[str, TextArray] | None = None, name: str = "items"
) -> Split:
    """Return a split with items and without users.

    Args:
        ids: text [n_items], the raw ids, sorted as `fedrec.data.ids.index_ids` sorts them.
        columns: Further columns of the items, text [n_items] each.
        name: What the data set is called in tables.
    """
    none = empty_rows(0)
    nobody = np.zeros(0, object)
    return Split(
        len(ids),
        none,
        none,
        none,
        none,
        None,
        None,
        nobody,
        ids,
        item_columns=columns or {},
        name=name,
    )

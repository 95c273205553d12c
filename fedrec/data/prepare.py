"""Make the split of a data set on disk, where workers map it into memory.

``load`` → filters → held-out parts → clients → leakage check → arrays in the cache, under a hash
of all that they depend on.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fedrec.data.base import DataSet, SplitBy
from fedrec.data.filters import filter_interactions, select
from fedrec.data.leakage import check_split
from fedrec.data.negatives import check_pool
from fedrec.data.partition import assign_clients
from fedrec.data.problems import DataProblems, UnsuitableData
from fedrec.data.split import DROPPED, TEST, TRAIN, VALID, hold_out
from fedrec.errors import DataError
from fedrec.storage.cache import cache_folder, publish, scratch
from fedrec.types import FloatArray, IntArray, Interactions, Ragged, Split, offsets_of

if TYPE_CHECKING:
    from fedrec.data.clients import Clients

__all__ = ["open_split", "prepare", "save_split", "split_of", "version_of"]

FORMAT = 1
META = "meta.json"
RAGGED = ("train", "valid", "test", "clients")


def prepare(data: DataSet, clients: Clients) -> Path:
    """Make the split of an experiment on disk, unless it was made before.

    Args:
        data: The data set with its filters and its split.
        clients: Who holds which users.

    Returns:
        A folder for `open_split`. A damaged one is made anew, and two processes that make the
        same at once do not disturb each other.

    Raises:
        DataError: If the data is missing, damaged, or cannot be used as configured.
        ConfigError: If it does not allow the clients.
        MissingExtra: If an optional part is needed and not installed.
    """
    target = cache_folder() / "prepared" / _key(data, clients)
    if _intact(target):
        check_pool(open_split(target), data.protocol)
        return target
    split = split_of(data, clients)
    with scratch(target) as folder:
        save_split(split, folder)
        return publish(folder, target, _intact)


def split_of(data: DataSet, clients: Clients) -> Split:
    """Make the split of an experiment, in memory, and check it for leakage.

    Args:
        data: The data set with its filters and its split.
        clients: Who holds which users.

    Raises:
        DataError: As `prepare`; where there are several problems, all that can be seen.
        ConfigError: As `prepare`.
        MissingExtra: As `prepare`.
    """
    lines: list[str] = []
    options = data
    try:
        interactions = data.load()
    except DataProblems as problems:
        if problems.rest is None:
            raise
        lines += problems.lines
        interactions = problems.rest
        # Rows are missing: whether enough are left cannot be judged.
        lenient = {"threshold": None, "k_core": 0, "short_users": "train_only", "split": SplitBy()}
        options = data.model_copy(update=lenient)
    for _ in range(len(DataSet.model_fields)):
        try:
            split = _split(interactions, options, clients)
            break
        except UnsuitableData as problem:
            lines.append(str(problem))
            options = options.model_copy(update=problem.without)
        except DataError:
            if not lines:
                raise
            break  # It may be a consequence of the problems before it.
    if lines:
        raise DataProblems(lines)
    return split


def _split(interactions: Interactions, options: DataSet, clients: Clients) -> Split:
    kept = filter_interactions(interactions, options)
    parts = hold_out(kept, options.split, options.short_users)
    kept, parts = select(kept, parts != DROPPED), parts[parts != DROPPED]
    order = np.lexsort((kept.items, kept.users))
    train_rows = order[parts[order] == TRAIN]
    train, times = _part(kept, train_rows)
    valid, valid_times = _part(kept, order[parts[order] == VALID])
    test, test_times = _part(kept, order[parts[order] == TEST])
    split = Split(
        n_items=len(kept.item_ids),
        train=train,
        valid=valid,
        test=test,
        clients=assign_clients(kept, train, clients),
        timestamps=times,
        ratings=None if kept.ratings is None else kept.ratings[train_rows],
        user_ids=kept.user_ids,
        item_ids=kept.item_ids,
        item_columns=kept.item_columns,
        name=kept.name,
    )
    ordered = {"leave_one_out": "per_user", "temporal": "global"}.get(options.split.name)
    check_split(
        split,
        valid_times=valid_times,
        test_times=test_times,
        order="none" if ordered is None or times is None else ordered,  # type: ignore[arg-type]
    )
    check_pool(split, options.protocol)
    return split


def save_split(split: Split, folder: Path) -> None:
    """Write a split as ``.npy`` files without pickles, and what they are as ``meta.json``.

    Args:
        split: What is written.
        folder: An empty folder.
    """
    arrays: dict[str, NDArray[Any]] = {}
    for name in RAGGED:
        rows: Ragged = getattr(split, name)
        arrays |= {f"{name}.offsets": rows.offsets, f"{name}.values": rows.values}
    for name in ("timestamps", "ratings", "user_ids", "item_ids"):
        array = getattr(split, name)
        if array is not None:
            arrays[name] = array
    arrays |= {f"item_columns.{name}": column for name, column in split.item_columns.items()}
    files = {}
    for number, (name, array) in enumerate(arrays.items()):
        path = folder / f"{number:02d}.npy"
        np.save(path, array.astype(np.str_) if array.dtype == object else array, allow_pickle=False)
        files[name] = {"file": path.name, "bytes": path.stat().st_size, "sha256": _sha256(path)}
    meta = {"format": FORMAT, "name": split.name, "n_items": split.n_items, "arrays": files}
    (folder / META).write_text(json.dumps(meta, indent=1), encoding="utf-8")


def open_split(path: Path) -> Split:
    """Open a prepared split; its arrays stay on disk and are mapped read-only.

    Args:
        path: The folder that `prepare` returned.

    Raises:
        DataError: If it is not there, or not one.
    """
    try:
        meta = json.loads((path / META).read_text(encoding="utf-8"))
        if meta["format"] != FORMAT:
            raise ValueError(f"format {meta['format']}, expected {FORMAT}")
        arrays = {
            name: np.asarray(np.load(path / entry["file"], mmap_mode="r", allow_pickle=False))
            for name, entry in meta["arrays"].items()
        }
        rows = {
            name: Ragged(arrays[f"{name}.offsets"], arrays[f"{name}.values"]) for name in RAGGED
        }
        prefix = "item_columns."
        return Split(
            n_items=int(meta["n_items"]),
            **rows,
            timestamps=arrays.get("timestamps"),
            ratings=arrays.get("ratings"),
            user_ids=arrays["user_ids"],
            item_ids=arrays["item_ids"],
            item_columns={
                name.removeprefix(prefix): array
                for name, array in arrays.items()
                if name.startswith(prefix)
            },
            name=str(meta["name"]),
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _no_split(path, error) from error


def version_of(path: Path) -> str:
    """Hash what is in a prepared split, wherever it came from and whatever it is called.

    Args:
        path: The folder that `prepare` returned.

    Returns:
        A sha256.

    Raises:
        DataError: If it is not there, or not one.
    """
    try:
        meta = json.loads((path / META).read_text(encoding="utf-8"))
        content = [meta["n_items"], {name: file["sha256"] for name, file in meta["arrays"].items()}]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _no_split(path, error) from error
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _no_split(path: Path, error: Exception) -> DataError:
    return DataError(f"{path}: not a prepared split ({error}); remove it and run again")


def _part(data: Interactions, rows: IntArray) -> tuple[Ragged, FloatArray | None]:
    """Return one row per user of the items of some sorted interactions, and their times."""
    lengths = np.bincount(data.users[rows], minlength=len(data.user_ids))
    times = None if data.timestamps is None else data.timestamps[rows]
    return Ragged(offsets_of(lengths), data.items[rows]), times


def _key(data: DataSet, clients: Clients) -> str:
    kind = f"{type(data).__module__}:{type(data).__qualname__}"
    section = data.model_dump(mode="json", exclude={"protocol", "path"})
    section["name"] = data.label
    parts = [FORMAT, kind, section, data.fingerprint(), clients.model_dump(mode="json")]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]


def _intact(folder: Path) -> bool:
    try:
        meta = json.loads((folder / META).read_text(encoding="utf-8"))
        return bool(meta["format"] == FORMAT) and all(
            (folder / entry["file"]).stat().st_size == entry["bytes"]
            and _sha256(folder / entry["file"]) == entry["sha256"]
            for entry in meta["arrays"].values()
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def _sha256(path: Path) -> str:
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()

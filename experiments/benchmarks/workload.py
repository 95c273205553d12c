"""What is measured on: the data, the clients, the method; the same for all that compete."""

import gzip
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

import numpy as np

from fedrec.config.experiment import Experiment
from fedrec.data.base import DataSet, SplitBy
from fedrec.data.fetch import MovieLens100K
from fedrec.data.prepare import save_split, split_of
from fedrec.data.synthetic import Synthetic
from fedrec.data.tabular import Frame
from fedrec.errors import ConfigError, DataError, did_you_mean
from fedrec.ragged import Ragged, offsets_of
from fedrec.training.task import ClientTask
from fedrec.types import IntArray, Split

__all__ = [
    "DATA",
    "PERSONALIZATIONS",
    "DataName",
    "PersonalizationName",
    "Workload",
    "some_clients",
    "synthetic_workload",
    "workload",
]

DataName: TypeAlias = Literal["ml-1m", "ml-100k", "gowalla", "tiny"]
PersonalizationName: TypeAlias = Literal["none", "plgc"]

DATA: tuple[DataName, ...] = get_args(DataName)
PERSONALIZATIONS: Mapping[str, Mapping[str, Any]] = {
    "none": {"name": "none"},
    "plgc": {
        "name": "plgc",
        "branch": "similarity",
        "mode": "joint",
        "balance": "alignment",
        "tau": 2.0,
        "decorrelation": 0.0001,
        "history_cap": 200,
    },
}


@dataclass(frozen=True, slots=True)
class _Lists:
    """Data in files of ``user item item item`` below ``FEDREC_DATA``, and how it is split."""

    users: int
    items: int
    pairs: int
    files: tuple[str, ...]
    split: SplitBy


LISTS: Mapping[str, _Lists] = {
    "ml-1m": _Lists(6040, 3706, 1_000_209, ("ml-1m/interactions.txt.gz",), SplitBy()),
    "gowalla": _Lists(
        29_858,
        40_981,
        1_027_370,
        tuple(f"gowalla/{name}.txt.gz" for name in ("train", "valid", "test")),
        SplitBy(name="ratio", valid=0.1, test=0.2),
    ),
}


@dataclass(frozen=True, slots=True)
class Workload:
    """Clients that train, and how.

    Args:
        about: one line on the data, for the table.
        experiment: the method; what it says of rounds and engine is set by who runs it.
        split: the clients' data.
    """

    about: str
    experiment: Experiment
    split: Split

    @property
    def task(self) -> ClientTask:
        """What the clients train."""
        return self.experiment.client_task()

    def write(self, folder: Path) -> None:
        """Make ``config.yaml`` and ``split``, from which other processes read all this.

        Args:
            folder: Made if absent; must not hold them yet.
        """
        save_split(self.split, folder / "split")
        (folder / "config.yaml").write_text(self.experiment.to_yaml(), encoding="utf-8")


def workload(
    data: str,
    personalization: str = "none",
    *,
    clients: int | None = None,
    dim: int = 32,
    negatives: int = 4,
    model: Mapping[str, Any] | None = None,
    train: Mapping[str, Any] | None = None,
) -> Workload:
    """Every user a client, matrix factorisation, one full-batch step in a round.

    Args:
        data: ``ml-1m``, ``ml-100k``, ``gowalla``, or ``tiny`` (synthetic, for tests).
        personalization: ``none`` or ``plgc``.
        clients: Take this many, of all lengths; None for all.
        dim: Length of the vectors.
        negatives: Per positive.
        model: Another model.
        train: Overrides of the training section.

    Raises:
        ConfigError: If a name is not known.
        DataError: If the data cannot be had.
    """
    _check_personalization(personalization)
    data_set, about = _data(data)
    experiment = _experiment(
        data_set,
        model or {"name": "mf", "embedding_dim": dim},
        {"negatives": negatives, **(train or {})},
        PERSONALIZATIONS[personalization],
    )
    split = split_of(data_set, experiment.clients)
    if clients is not None and clients < split.n_clients:
        split = some_clients(split, clients)
        about = f"{about}; {clients} of its clients"
    return Workload(about, experiment, split)


def synthetic_workload(
    users: int, items: int, personalization: str, *, per_user: float = 30.0, dim: int = 32
) -> Workload:
    """Clients of a made data set, for growth curves.

    Args:
        users: Number of clients.
        items: Size of the catalogue.
        personalization: ``none`` or ``plgc``.
        per_user: Mean interactions of a user.
        dim: Length of the vectors.

    Raises:
        ConfigError: If a name is not known.
    """
    _check_personalization(personalization)
    data = Synthetic(users=users, items=items, interactions_per_user=per_user, spread=0.8)
    experiment = _experiment(
        data, {"name": "mf", "embedding_dim": dim}, {}, PERSONALIZATIONS[personalization]
    )
    about = f"synthetic: {users:,} users, {items:,} items"
    return Workload(about, experiment, split_of(data, experiment.clients))


def some_clients(split: Split, count: int) -> Split:
    """Some of the clients of a split in which each is one user: of all lengths, evenly.

    Args:
        split: The clients.
        count: How many are kept; the catalogue stays whole.
    """
    by_length = np.argsort(split.train.lengths, kind="stable")
    chosen = np.sort(by_length[np.linspace(0, split.n_users - 1, count).round().astype(np.int64)])
    shard = split.shard(chosen)
    alone = np.arange(count, dtype=np.int64)
    return replace(
        split,
        train=shard.train,
        valid=shard.valid,
        test=shard.test,
        clients=Ragged(offsets_of(np.ones(count, np.int64)), alone),
        timestamps=shard.timestamps,
        ratings=shard.ratings,
        user_ids=split.user_ids[chosen],
    )


def _check_personalization(name: str) -> None:
    if name not in PERSONALIZATIONS:
        hint = did_you_mean(name, PERSONALIZATIONS)
        raise ConfigError(f"--personalization: unknown '{name}'{hint}")


def _experiment(
    data: DataSet,
    model: Mapping[str, Any],
    train: Mapping[str, Any],
    personalization: Mapping[str, Any],
) -> Experiment:
    return Experiment.model_validate(
        {
            "data": data,
            "model": dict(model),
            "train": {
                "optimizers": {"item": {"lr": 1.0}, "shared": {"lr": 1.0}},
                "weight_decay": 0.1,
                **train,
            },
            "personalization": dict(personalization),
            "strategy": {"name": "fedadam", "server_optimizer": {"lr": 0.005}},
        }
    )


def _data(name: str) -> tuple[DataSet, str]:
    if name == "ml-100k":
        return MovieLens100K(), "ml-100k: 943 users, 1,682 items, 100,000 pairs"
    if name in LISTS:
        lists = LISTS[name]
        shape = f"{lists.users:,} users, {lists.items:,} items, {lists.pairs:,} pairs"
        paths = [Path(os.environ.get("FEDREC_DATA") or "") / file for file in lists.files]
        if os.environ.get("FEDREC_DATA") and all(path.is_file() for path in paths):
            return _pairs(paths, lists.split), f"{name}: {shape}"
        synthetic = Synthetic(
            users=lists.users,
            items=lists.items,
            interactions_per_user=lists.pairs / lists.users,
            spread=1.0,
            split=lists.split,
        )
        return synthetic, f"synthetic of the shape of {name}: {shape}, but for rounding"
    if name == "tiny":
        tiny = Synthetic(users=40, items=120, taste_groups=3, interactions_per_user=15.0)
        return tiny, "tiny: 40 made users, 120 items"
    raise ConfigError(f"--data: unknown '{name}'{did_you_mean(name, DATA)}")


def _pairs(paths: Sequence[Path], split: SplitBy) -> Frame:
    """Read lines of a user and its items, separated by blanks."""
    import pandas as pd

    rows: list[IntArray] = []
    for path in paths:
        try:
            text = gzip.decompress(path.read_bytes()).decode("ascii")
            rows += [np.array(line.split(), dtype=np.int64) for line in text.splitlines()]
        except (OSError, EOFError, ValueError) as error:
            raise DataError(f"{path}: cannot be read: {error}; remove it and run again") from error
    users: IntArray = np.repeat([row[0] for row in rows], [len(row) - 1 for row in rows])
    frame = pd.DataFrame({"user": users, "item": np.concatenate([row[1:] for row in rows])})
    return Frame.of(frame, split=split)

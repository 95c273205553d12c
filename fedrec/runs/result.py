"""A run that was made: what it came to, and what it recommends."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from fedrec.baselines.base import Baseline, Scorer
from fedrec.config.experiment import Experiment, load_experiment
from fedrec.errors import ConfigError, DataError, RunFolderError, did_you_mean
from fedrec.evaluation.ranking import top_k
from fedrec.evaluation.scorer import UserScorer
from fedrec.runs.folder import CONFIG
from fedrec.runs.groups import by_group
from fedrec.runs.reader import RunFolder
from fedrec.types import FloatArray, IntArray, Params, Ragged, Split, offsets_of

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Recommendation", "RunResult", "RunResults", "load"]

BLOCK = 256
"""Users that are ranked at once."""


@dataclass(frozen=True, slots=True)
class Recommendation:
    """One recommended item.

    Args:
        item: Its raw id.
        title: Its title, where the data has one.
        score: The user's score for it.
    """

    item: str
    title: str | None
    score: float


@dataclass(frozen=True)
class RunResult:
    """A run: its folder, its result, and what it recommends.

    Args:
        folder: The run folder.
    """

    folder: Path

    @cached_property
    def result(self) -> dict[str, Any]:
        """The content of ``result.json``."""
        return RunFolder(self.folder).result()

    @cached_property
    def experiment(self) -> Experiment:
        """What was run."""
        RunFolder(self.folder).verify(CONFIG)
        return load_experiment(self.folder / CONFIG)

    @cached_property
    def _split(self) -> Split:
        return RunFolder(self.folder).split()

    @cached_property
    def _scorer(self) -> tuple[Scorer, IntArray]:
        """Scores by row, and the user of each row."""
        model = self.experiment.model
        split = self._split
        if isinstance(model, Baseline):
            return model.fit(split, self.experiment.seed), np.arange(split.n_users, dtype=np.int64)
        folder = RunFolder(self.folder)
        shard = split.shard(np.arange(split.n_clients, dtype=np.int64))
        task = self.experiment.client_task()
        kept_model = folder.model()
        local: dict[str, FloatArray] = {}
        by_user, by_client, by_row = (folder.local(per) for per in ("user", "client", "positive"))
        place = np.argsort(shard.user_ids, kind="stable")
        for name, spec in task.locals().items():
            if "/" in name:
                continue
            kept = {"user": by_user, "client": by_client}.get(spec.axis or "", by_row)
            if name not in kept:
                raise RunFolderError(
                    f"{self.folder}: '{name}' of the best round is missing, the run broke off "
                    "while it was kept; run it again"
                )
            local[name] = kept[name]
            if spec.axis == "user":
                local[name] = np.empty_like(kept[name])
                local[name][place] = kept[name]

        def scorer(params: Params) -> Scorer:
            score = UserScorer(task, shard, params, local)
            return lambda rows: np.asarray(score(rows)["mixed"].numpy())

        clients = shard.client_ids[shard.client_of_user()]
        return by_group(kept_model, clients, scorer), shard.user_ids

    def recommend(self, user: str, k: int = 10) -> list[Recommendation]:
        """The items with the highest scores for a user, its train and validation items left out.

        Args:
            user: Its raw id.
            k: How many.

        Returns:
            Best first; fewer than k where the catalogue has no more.

        Raises:
            DataError: If the user is not in the data.
        """
        split = self._split
        found = np.flatnonzero(split.user_ids == str(user))
        if len(found) == 0:
            hint = (
                did_you_mean(str(user), split.user_ids.tolist()) if split.n_users < 10_000 else ""
            )
            if "did you mean" not in hint:
                hint = f"; its ids are such as '{split.user_ids[0]}' and '{split.user_ids[-1]}'"
            raise DataError(f"user '{user}' is not in the data{hint}")
        titles = split.item_columns.get("title")
        return [
            Recommendation(
                str(split.item_ids[item]),
                None if titles is None else str(titles[item]),
                float(score),
            )
            for item, score in self._top(found, k)[0]
        ]

    def recommend_all(self, k: int = 10) -> pd.DataFrame:
        """Return the k best items of every user, train and validation items left out.

        Args:
            k: How many.

        Returns:
            One row per user and item: ``user``, ``rank`` (from 1), ``item``, ``score``; raw ids.
        """
        import pandas as pd

        split = self._split
        rows = [
            (user, rank, item, score)
            for first in range(0, split.n_users, BLOCK)
            for user, best in enumerate(
                self._top(np.arange(first, min(first + BLOCK, split.n_users)), k), start=first
            )
            for rank, (item, score) in enumerate(best, start=1)
        ]
        frame = pd.DataFrame(rows, columns=["user", "rank", "item", "score"])
        frame["user"] = split.user_ids[frame["user"].to_numpy(np.int64)]
        frame["item"] = split.item_ids[frame["item"].to_numpy(np.int64)]
        return frame

    def curve(self) -> pd.DataFrame:
        """Return one row per round: ``loss``, ``clients``, times, and metrics where evaluated.

        Metrics are called as in `per_user`: ``valid.ndcg@10``, ``test.local.ndcg@10``.
        """
        import pandas as pd

        rows = []
        for record in RunFolder(self.folder).rounds():
            row: dict[str, Any] = {
                "round": record.round,
                "clients": record.clients,
                "loss": record.loss,
                "seconds.train": record.seconds.train,
                "seconds.evaluate": record.seconds.evaluate,
            }
            for view, parts in (record.evaluation or {}).items():
                middle = "" if view == "mixed" else f"{view}."
                for part, values in parts.items():
                    row |= {f"{part}.{middle}{label}": v for label, v in values.items()}
            rows.append(row)
        return pd.DataFrame(rows).set_index("round") if rows else pd.DataFrame()

    def per_user(self) -> pd.DataFrame:
        """Return one row per user: raw id, client, train items, metrics at the best round."""
        return RunFolder(self.folder).per_user()

    def embeddings(self, of: Literal["item", "user"] = "item") -> pd.DataFrame:
        """Return vectors of the best round by raw id.

        Args:
            of: ``item``: the shared item table; ``user``: the private vectors of the users.

        Returns:
            One row per id, one column per dimension.

        Raises:
            ConfigError: If the model has no such vectors.
        """
        import pandas as pd

        folder, split = RunFolder(self.folder), self._split
        if isinstance(self.experiment.model, Baseline):
            raise ConfigError("embeddings: a baseline has none")
        found = (folder.model() if of == "item" else folder.local("user")).get(of)
        if found is None or found.ndim != 2:
            raise ConfigError(f"embeddings: the model has no vectors of {of}s")
        return pd.DataFrame(found, index=split.item_ids if of == "item" else split.user_ids)

    def _repr_html_(self) -> str:
        """Return a table of the scores, for notebooks."""
        import pandas as pd

        result = self.result
        metrics = result["metrics"]
        table = pd.DataFrame({"valid": metrics["valid"], "test": metrics["test"]})
        title = f"{result['name']}, seed {result['seed']}, {result['status']}"
        where = f"round {result['best_round']} of {result['rounds']}; {self.folder}"
        notes = "".join(f"<p>{escape(line)}</p>" for line in result.get("warnings") or [])
        return f"<p><b>{escape(title)}</b>, {escape(where)}</p>{table.to_html()}{notes}"

    def _top(self, users: IntArray, k: int) -> list[list[tuple[int, float]]]:
        """Return the best items of some users, with their scores.

        Args:
            users: int64 [u], indices of users.
            k: How many.
        """
        split = self._split
        if not 1 <= k <= split.n_items:
            raise ConfigError(f"k: expected 1 to {split.n_items}, the number of items, got {k}")
        scorer, order = self._scorer
        place = np.empty(split.n_users, np.int64)
        place[order] = np.arange(split.n_users)
        scores = scorer(place[users])
        seen = [np.union1d(split.train.row(user), split.valid.row(user)) for user in users.tolist()]
        offsets = offsets_of(np.array([len(items) for items in seen], np.int64))
        top = top_k(scores, Ragged(offsets, np.concatenate(seen)), k)
        return [
            [(int(item), float(of_user[item])) for item in best if item >= 0]
            for best, of_user in zip(top, scores, strict=True)
        ]


class RunResults(list[RunResult]):
    """Runs of one experiment that differ in the seed."""

    def summary(self) -> pd.DataFrame:
        """Return ``mean``, ``sd`` and ``n`` of every metric over the seeds."""
        import pandas as pd

        values = pd.DataFrame(
            [
                {
                    f"{part}.{label}": value
                    for part in ("valid", "test")
                    for label, value in run.result["metrics"][part].items()
                }
                for run in self
            ],
            dtype=float,
        )
        return pd.DataFrame({"mean": values.mean(), "sd": values.std(), "n": values.count()})

    def _repr_html_(self) -> str:
        """Return the table of `summary`, for notebooks."""
        return str(self.summary().to_html())


def load(folder: str | Path) -> RunResult:
    """A run that was made earlier.

    Args:
        folder: The run folder.

    Raises:
        RunFolderError: If it is none.
    """
    return RunResult(RunFolder(Path(folder)).path)

"""A run that was made: what it came to, and what it recommends."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from fedrec.baselines.base import Baseline, Scorer
from fedrec.config.experiment import Experiment, load_experiment
from fedrec.errors import ConfigError, DataError, RunFolderError, did_you_mean
from fedrec.evaluation.ranking import top_k
from fedrec.evaluation.scorer import UserScorer
from fedrec.runs.folder import CONFIG
from fedrec.runs.groups import by_group
from fedrec.runs.reader import RunFolder
from fedrec.types import FloatArray, IntArray, Params, Ragged, Split

__all__ = ["Recommendation", "RunResult", "load"]


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
        by_user, by_client, by_row = (folder.local(per) for per in ("user", "client", "row"))
        place = np.argsort(shard.user_ids, kind="stable")
        for name, spec in task.locals().items():
            if "/" in name:
                continue
            kept = {"user": by_user, "client": by_client}.get(spec.per or "client", by_row)
            if name not in kept:
                raise RunFolderError(
                    f"{self.folder}: '{name}' of the best round is missing, the run broke off "
                    "while it was kept; run it again"
                )
            local[name] = kept[name]
            if spec.per == "user":
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
        if not 1 <= k <= split.n_items:
            raise ConfigError(f"k: expected 1 to {split.n_items}, the number of items, got {k}")
        scorer, users = self._scorer
        row = np.flatnonzero(users == found[0])
        scores = scorer(row)
        known = np.union1d(split.train.row(int(found[0])), split.valid.row(int(found[0])))
        top = top_k(scores, Ragged(np.array([0, len(known)]), known), k)[0]
        titles = split.item_columns.get("title")
        return [
            Recommendation(
                str(split.item_ids[item]),
                None if titles is None else str(titles[item]),
                float(scores[0, item]),
            )
            for item in top[top >= 0]
        ]


def load(folder: str | Path) -> RunResult:
    """A run that was made earlier.

    Args:
        folder: The run folder.

    Raises:
        RunFolderError: If it is none.
    """
    return RunResult(RunFolder(Path(folder)).path)

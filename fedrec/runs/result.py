"""A run that was made: what it came to, and what it recommends."""

from __future__ import annotations

from functools import cached_property
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from fedrec.baselines.base import Baseline, Scorer
from fedrec.config.experiment import Experiment, recorded_experiment
from fedrec.config.sources import sources_of
from fedrec.data.catalogue import Catalogue
from fedrec.errors import ConfigError, DataError, RunFolderError
from fedrec.features.prepare import open_catalogue, prepare_features
from fedrec.plugins import expand_path
from fedrec.runs.folder import CONFIG, FEATURES, SOURCE, SPLIT
from fedrec.runs.reader import RunFolder
from fedrec.runs.recommend import (
    AXES,
    Recommendation,
    best_items,
    index_of,
    recommendations,
    trained_scorer,
)
from fedrec.types import IntArray

if TYPE_CHECKING:
    import pandas as pd

# Users that are ranked at once.
BLOCK = 256


class RunResult(RunFolder):
    """A run: its folder, its result, and what it recommends."""

    @property
    def folder(self) -> Path:
        """The run folder."""
        return self.path

    @cached_property
    def experiment(self) -> Experiment:
        """What was run.

        Raises:
            RunFolderError: If a plug-in has another source here than it had in the run.
        """
        experiment = recorded_experiment(self.verify(CONFIG))
        for name, text in sources_of(experiment).items():
            source = self.folder / SOURCE / name
            if not source.is_file() or source.read_text("utf-8") != text:
                raise RunFolderError(
                    f"{name}: is not the source of the run, which is {source}; rename one of "
                    "them, or start where the other is not found"
                )
        return experiment

    @cached_property
    def catalogue(self) -> Catalogue:
        """What is known of the items of the run.

        Raises:
            FedRecError: If its features are neither in the run folder nor can be made again.
        """
        path = prepare_features(self.experiment.features, self.path / SPLIT, self.path / FEATURES)
        return open_catalogue(self.split, path)

    @cached_property
    def _scorer(self) -> Scorer:
        """Scores by index of the user."""
        model, split = self.experiment.model, self.split
        if isinstance(model, Baseline):
            return model.fit(split, self.experiment.seed, self.catalogue)
        task = self.experiment.client_task(self.catalogue)
        task = task.at_end() if self.result.get("end") else task
        if task.weights != (was := self.result.get("weights", "")):
            raise RunFolderError(
                f"{self.folder}: the frozen weights of the model are not what they were (hash "
                f"{task.weights:.8}, was {was:.8}); bring the old model back"
            )
        local = {axis: self.local(axis) for axis in AXES}
        first_stage = self.experiment.evaluate.first_stage_of(split)
        return trained_scorer(task, split, self.model(), local, str(self.folder), first_stage)

    @cached_property
    def _attackers(self) -> IntArray:
        """Return the users of the clients that attack."""
        split = self.split
        return split.clients.take(self.experiment.attackers_of(split)).values

    def recommend(self, user: str | float, k: int = 10) -> list[Recommendation]:
        """Return the best items for a user, its train and validation items left out.

        Args:
            user: Its raw id; a whole number may have a point, as in a column of a data frame.
            k: How many.

        Returns:
            Best first; fewer than k where the catalogue has no more.

        Raises:
            DataError: If the user is not in the data, or an attacker.
        """
        at = index_of(self.split, user)
        if at in self._attackers:
            raise DataError(f"user '{user}' is an attacker of this run, and attackers do not rank")
        ranked = best_items(self.split, self._scorer, np.array([at]), k)
        return recommendations(self.split, ranked)

    def recommend_all(self, k: int = 10) -> pd.DataFrame:
        """Return the k best items of every honest user, train and validation items left out.

        One row per user and item: ``user``, ``rank`` (from 1), ``item``, ``score``; raw ids.
        """
        import pandas as pd

        split = self.split
        honest = np.setdiff1d(np.arange(split.n_users), self._attackers)
        blocks = np.array_split(honest, -(-len(honest) // BLOCK))
        rows = [row for users in blocks for row in best_items(split, self._scorer, users, k)]
        frame = pd.DataFrame(rows, columns=["user", "rank", "item", "score"])
        frame["user"] = split.user_ids[frame["user"].to_numpy(np.int64)]
        frame["item"] = split.item_ids[frame["item"].to_numpy(np.int64)]
        return frame

    def curve(self) -> pd.DataFrame:
        """Return one row per round: ``loss``, ``clients``, times, bytes, metrics where evaluated.

        On a virtual clock ``virtual.seconds`` is the time at the end of the round.

        Metrics are called as in `per_user`: ``valid.ndcg@10``, ``test.local.ndcg@10``.
        """
        import pandas as pd

        rows = []
        for record in self.rounds():
            row = record.model_dump(include={"round", "clients", "loss", "seconds", "bytes"})
            row["failures"] = len(record.failures)
            row |= {} if record.virtual is None else {"virtual": record.virtual.model_dump()}
            for view, parts in (record.evaluation or {}).items():
                middle = "" if view == "mixed" else f"{view}."
                for part, values in parts.items():
                    row |= {f"{part}.{middle}{label}": v for label, v in values.items()}
            rows.append(row)
        return pd.json_normalize(rows).set_index("round") if rows else pd.DataFrame()

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

        if isinstance(self.experiment.model, Baseline):
            raise ConfigError("embeddings: a baseline has none")
        vectors = (self.model() if of == "item" else self.local("user")).get(of)
        if vectors is None or vectors.ndim != 2:
            raise ConfigError(f"embeddings: the model has no vectors of {of}s")
        ids = self.split.item_ids if of == "item" else self.split.user_ids
        return pd.DataFrame(vectors, index=ids)

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


class RunResults(list[RunResult]):
    """Runs of one experiment that differ in the seed."""

    def summary(self) -> pd.DataFrame:
        """Return ``mean``, ``sd`` and ``n`` of every metric over the seeds.

        Metrics are called as in `RunResult.per_user`: ``valid.ndcg@10``, ``test.local.ndcg@10``.
        """
        import pandas as pd

        rows = []
        for metrics in (run.result["metrics"] for run in self):
            views = {f"test.{view}": values for view, values in metrics["views"].items()}
            parts = {"valid": metrics["valid"], "test": metrics["test"], **views}
            rows.append({f"{part}.{m}": v for part, of in parts.items() for m, v in of.items()})
        values = pd.DataFrame(rows, dtype=float)
        return pd.DataFrame({"mean": values.mean(), "sd": values.std(), "n": values.count()})

    def _repr_html_(self) -> str:
        """Return the table of `summary`, for notebooks."""
        return str(self.summary().to_html())


def load(folder: str | Path) -> RunResult:
    """Return a run that was made earlier.

    Raises:
        RunFolderError: If it is no run folder.
    """
    return RunResult(expand_path(folder))

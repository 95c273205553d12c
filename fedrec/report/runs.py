"""Runs as a report sees them: read, checked, and grouped by everything but the seed."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
from pydantic import ValidationError

from fedrec.errors import RunFolderError, did_you_mean
from fedrec.report.labels import flatten, labels
from fedrec.report.result import Config, Result
from fedrec.runs.folder import FINISHED
from fedrec.runs.log import RoundRecord
from fedrec.runs.reader import RunFolder, find

__all__ = ["Group", "Run", "Selection", "load", "pretty_metric"]

NOT_THE_EXPERIMENT = ("seed", "engine")
PRETTY = {"ndcg": "NDCG", "hit_rate": "HR", "recall": "Recall", "mrr": "MRR", "gini": "Gini"}


def pretty_metric(label: str) -> str:
    """Return the title of a metric: ``NDCG@10`` for ``ndcg@10``."""
    name, at, cut = label.partition("@")
    return PRETTY.get(name, name.replace("_", " ").capitalize()) + at + cut


@dataclass(frozen=True)
class Run:
    """One run folder, read.

    Args:
        folder: Where it lies.
        config: The resolved experiment.
        result: What it came to, also so far.
        rounds: The run log.
        torn: Whether the last line of the run log was cut off.
    """

    folder: RunFolder
    config: Mapping[str, Any]
    result: Result
    rounds: tuple[RoundRecord, ...]
    torn: bool

    @property
    def seed(self) -> int:
        """The run's seed."""
        return self.result.seed or 0

    @property
    def finished(self) -> bool:
        """Whether the run came to its end."""
        return self.result.status in FINISHED

    @cached_property
    def per_user(self) -> pd.DataFrame | None:
        """The results of each user by raw id; None where the run wrote none that can be read."""
        try:
            frame = self.folder.per_user()
        except RunFolderError:
            return None
        return frame.set_index("user") if "user" in frame else None

    def notes(self) -> list[str]:
        """Return what a reader must know about the run."""
        notes = [f"warning: {warning}" for warning in self.result.warnings]
        if not self.finished:
            status = "not finished" if self.result.status == "running" else self.result.status
            notes.append(f"{status} at round {self.result.rounds or 0}")
        if self.torn:
            notes.append("the last line of the run log was cut off and is left out")
        failed = [len(record.failures) for record in self.rounds if record.failures]
        if failed:
            notes.append(f"{sum(failed)} client failures in {len(failed)} rounds")
        return notes


@dataclass(frozen=True)
class Group:
    """Runs of one experiment that differ only in the seed.

    Args:
        runs: One per seed.
        label: The settings in which it differs from the other groups.
        notes: What a reader must know about it.
    """

    runs: tuple[Run, ...]
    label: str
    notes: tuple[str, ...] = ()
    _means: dict[str, pd.Series[float] | None] = field(default_factory=dict, repr=False)

    @property
    def first(self) -> Run:
        """The run that stands for what all have in common."""
        return self.runs[0]

    @cached_property
    def settings(self) -> dict[str, Any]:
        """The experiment by dotted key, without seed and engine."""
        config = self.first.config
        return flatten({k: v for k, v in config.items() if k not in NOT_THE_EXPERIMENT})

    @property
    def centralised(self) -> bool:
        """Whether the method saw all users' data in one place."""
        return self.first.result.centralised

    @property
    def personalized(self) -> bool:
        """Whether clients train a personalization."""
        return not self.centralised and self.settings.get("personalization.name") not in (
            None,
            "none",
        )

    @property
    def legacy(self) -> bool:
        """Whether the published, leaking protocol was used."""
        return self.first.result.protocol == "legacy"

    @property
    def finished(self) -> bool:
        """Whether its runs came to their end."""
        return self.first.finished

    @property
    def kind(self) -> str:
        """``legacy``, ``unfinished``, ``centralised`` or ``federated``."""
        if self.legacy:
            return "legacy"
        if not self.finished:
            return "unfinished"
        return "centralised" if self.centralised else "federated"

    @property
    def title(self) -> str:
        """The label and what sets its numbers apart."""
        marks = [
            *(["centralised"] if self.centralised else []),
            *(["LEGACY protocol"] if self.legacy else []),
            *([] if self.finished else ["unfinished"]),
            *(["warning"] if any(run.result.warnings for run in self.runs) else []),
        ]
        return self.label + (f" [{', '.join(marks)}]" if marks else "")

    @property
    def data_key(self) -> str:
        """Equal for groups with the same data, split and protocol, whose rounds the same chose."""
        facts = [self.first.config.get("data"), self.first.result.protocol, self.chooser]
        return json.dumps(facts, sort_keys=True, default=str)

    @property
    def size(self) -> tuple[int | None, int | None]:
        """Users and items of the data; None where the run did not come to write them."""
        return self.first.result.users, self.first.result.items

    @property
    def metric_names(self) -> tuple[str, ...]:
        """The metrics, in the order of the experiment; the first chose the round."""
        evaluate = self.first.config.get("evaluate") or {}
        return tuple(dict.fromkeys([*evaluate.get("metrics", ()), *self.first.result.metrics.test]))

    @property
    def chooser(self) -> str:
        """The metric that chose the round on validation."""
        return self.metric_names[0] if self.metric_names else "ndcg@10"

    def values(self, part: str, metric: str, view: str = "mixed") -> tuple[float, ...]:
        """Return one value per run that has it, of ``valid`` or ``test`` at the best round."""
        scores = [run.result.metrics for run in self.runs]
        sources = [getattr(s, part) if view == "mixed" else s.views.get(view, {}) for s in scores]
        return tuple(v for source in sources if (v := source.get(metric)) is not None)

    def mean(self, part: str, metric: str) -> float:
        """Return the mean over runs, minus infinity where there is no value."""
        values = self.values(part, metric)
        return sum(values) / len(values) if values else float("-inf")

    def per_run(self, column: str) -> list[pd.Series[float]]:
        """Return a column of the per-user results of each run that has it, by raw user id."""
        frames = [run.per_user for run in self.runs]
        return [f[column].astype("float64") for f in frames if f is not None and column in f]

    def per_user(self, column: str) -> pd.Series[float] | None:
        """Return a column of the per-user results, averaged over seeds, by raw user id.

        Returns:
            float64 [n], users without a value left out; None where no run has the column.
        """
        if column not in self._means:
            columns = self.per_run(column)
            self._means[column] = (
                pd.concat(columns, axis=1).mean(axis=1).dropna() if columns else None
            )
        return self._means[column]


@dataclass(frozen=True)
class Selection:
    """The runs of a report.

    Args:
        groups: All of them.
        left_out: Why each run that could not be read is missing.
    """

    groups: tuple[Group, ...]
    left_out: tuple[str, ...] = ()

    @cached_property
    def sections(self) -> tuple[tuple[Group, ...], ...]:
        """The groups that can be compared with each other, the best on validation first."""
        sizes = {group.data_key: group.size for group in self.groups if group.finished}
        sections: dict[object, list[Group]] = {}
        for group in self.groups:
            size = group.size if group.finished else sizes.get(group.data_key)
            sections.setdefault((group.data_key, size), []).append(group)
        return tuple(
            tuple(sorted(s, key=lambda g: (not g.finished, -g.mean("valid", g.chooser))))
            for s in sections.values()
        )

    def baseline(self, section: Sequence[Group], named: str | None = None) -> Group | None:
        """Return what the other groups of a section are compared with.

        Args:
            section: The groups.
            named: A label, the only label that holds this text, or a run folder; None, or a
                group of another section: the best on validation of the federated groups without
                personalization, else of the centralised baselines, else of all.

        Raises:
            RunFolderError: If the name fits no group of the report, or several.
        """
        if named is not None:
            chosen = self._named(named)
            if not chosen.finished:
                raise RunFolderError(f"--baseline '{named}': did not come to its end")
            if any(group is chosen for group in section):
                return chosen
        finished = [group for group in section if group.finished]
        plain = [group for group in finished if not (group.centralised or group.personalized)]
        central = [group for group in finished if group.centralised]
        return next(iter(plain or central or finished), None)

    def _named(self, name: str) -> Group:
        place = Path(name).resolve()
        for group in self.groups:
            if any(run.folder.path.resolve() == place for run in group.runs):
                return group
        exact = [g for g in self.groups if name.lower() in (g.label.lower(), g.title.lower())]
        fits = exact or [g for g in self.groups if name.lower() in g.title.lower()]
        if len(fits) == 1:
            return fits[0]
        if fits:
            several = "; ".join(group.label for group in fits)
            raise RunFolderError(f"--baseline '{name}': fits several: {several}")
        raise RunFolderError(
            f"--baseline '{name}': expected a label or a run folder of the report"
            + did_you_mean(name, [group.label for group in self.groups])
        )


def load(paths: Sequence[Path]) -> Selection:
    """Read and group runs.

    Runs belong together when their experiments differ in nothing but seed and engine (which
    changes no result). Those that did not come to their end form groups of their own, so that no
    mean mixes the two. Among several runs, one that cannot be read is left out by name.

    Args:
        paths: Run folders, or folders that hold some.

    Raises:
        RunFolderError: If there is none, or none can be read.
    """
    if not paths:
        raise RunFolderError("no run was named; give at least one run folder")
    errors: list[RunFolderError] = []
    folders = {folder.path.resolve(): folder for folder in find(paths, errors)}
    grouped: dict[tuple[str, bool], list[Run]] = {}
    for folder in folders.values():
        try:
            run = _read(folder)
        except RunFolderError as error:
            errors.append(error)
            continue
        settings = {k: v for k, v in run.config.items() if k not in NOT_THE_EXPERIMENT}
        users = run.result.users if run.finished else None
        key = json.dumps([settings, users], sort_keys=True, default=str)
        grouped.setdefault((key, run.finished), []).append(run)
    if not grouped:
        raise errors[0]
    groups = _labelled([_group(runs) for runs in grouped.values()])
    return Selection(groups, tuple(str(error) for error in errors))


def _labelled(groups: Sequence[Group]) -> tuple[Group, ...]:
    if len(groups) == 1:
        return tuple(groups)
    texts = labels([g.settings for g in groups], [g.centralised for g in groups])
    named = [replace(g, label=text or g.label) for g, text in zip(groups, texts, strict=True)]
    titles = Counter(group.title for group in named)
    return tuple(
        replace(g, label=f"{g.label} ({g.first.folder.path})") if titles[g.title] > 1 else g
        for g in named
    )


def _read(folder: RunFolder) -> Run:
    """Read a run folder; what has the wrong type in it is an error here and nowhere later."""
    file = "config.yaml"
    try:
        config = folder.config()
        Config.model_validate(config)
        file = "result.json"
        result = Result.model_validate(folder.result())
    except ValidationError as error:
        fault = error.errors()[0]
        where = ".".join(map(str, fault["loc"]))
        message = f"{folder.path / file}: {where}: {fault['msg'].lower()}"
        raise RunFolderError(message) from error
    return Run(folder, config, result, tuple(folder.rounds()), folder.torn())


def _group(runs: Sequence[Run]) -> Group:
    by_seed: dict[int, list[Run]] = {}
    for run in runs:
        by_seed.setdefault(run.seed, []).append(run)
    notes = []
    for seed, same in sorted(by_seed.items()):
        digests = {run.result.digest for run in same}
        if len(same) > 1 and same[0].finished:
            how = "equal digests" if len(digests) == 1 else "DIFFERENT digests: not reproduced"
            notes.append(f"seed {seed} was run {len(same)} times, {how}; counted once")
        elif len(same) > 1:
            notes.append(f"seed {seed} was started {len(same)} times; counted once")
    chosen = tuple(same[0] for _, same in sorted(by_seed.items()))
    by_text: dict[str, list[int]] = {}
    for run in chosen:
        for note in run.notes():
            by_text.setdefault(note, []).append(run.seed)
    for note, seeds in by_text.items():
        word = "seed" if len(seeds) == 1 else "seeds"
        notes.append(f"{word} {', '.join(map(str, seeds))}: {note}")
    first = chosen[0]
    return Group(chosen, first.result.name or first.folder.path.resolve().name, tuple(notes))

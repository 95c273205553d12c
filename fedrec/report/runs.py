"""Runs as a report sees them: read, and grouped by everything but the seed."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fedrec.config.yaml import flatten
from fedrec.errors import RunFolderError, did_you_mean
from fedrec.report.labels import labels
from fedrec.runs.folder import CONFIG, FINISHED, LOCAL, MODEL, PER_USER, SPLIT
from fedrec.runs.reader import RunFolder, find
from fedrec.runs.result import RunResult
from fedrec.storage.files import reading

__all__ = ["Group", "Run", "Selection", "load", "pretty_metric"]

SHOWN = (SPLIT, PER_USER, MODEL, LOCAL)
"""What a report shows besides configuration, log and result."""
NOT_THE_EXPERIMENT = ("seed", "engine")
PRETTY = {"ndcg": "NDCG", "hit_rate": "HR", "mrr": "MRR"}


def pretty_metric(label: str) -> str:
    """Return the title of a metric: ``NDCG@10`` for ``ndcg@10``, ``Mine@5`` for ``own:mine@5``."""
    name, at, cut = label.partition("@")
    name = name.rpartition(":")[2]
    return PRETTY.get(name, name[:1].upper() + name[1:].replace("_", " ")) + at + cut


@dataclass(frozen=True)
class Run:
    """One run folder, read.

    Args:
        folder: Where it lies.
        config: The resolved experiment.
        result: What it came to, also so far.
        curve: The run log, as in `fedrec.runs.result.RunResult.curve`.
        per_user: The results of each user by raw id; empty where the run left none.
        damaged: What is wrong with other files of the folder.
        metrics: The metrics of the experiment; the first chose the round.
        finished: Whether the run came to its end.
    """

    folder: RunFolder
    config: Mapping[str, Any]
    result: Mapping[str, Any]
    curve: pd.DataFrame
    per_user: pd.DataFrame
    damaged: tuple[str, ...]
    metrics: tuple[str, ...]
    finished: bool

    @property
    def seed(self) -> int:
        """The run's seed."""
        return self.result["seed"] or 0

    @cached_property
    def data(self) -> str:
        """What tells data and split from others: a hash of their content, wherever it was read."""
        try:
            split = self.folder.split
        except RunFolderError:
            return json.dumps(self.config["data"], sort_keys=True, default=str)
        content = hashlib.sha256("\0".join((*split.user_ids, "", *split.item_ids)).encode())
        for rows in (split.train, split.valid, split.test):
            content.update(rows.offsets.tobytes() + rows.values.tobytes())
        return content.hexdigest()

    def notes(self) -> list[str]:
        """Return what a reader must know about the run."""
        notes = [f"warning: {warning}" for warning in self.result.get("warnings", ())]
        notes += [f"left out: {error}" for error in self.damaged]
        if not self.finished:
            status = self.result["status"].replace("running", "not finished")
            notes.append(f"{status} at round {self.result['rounds'] or 0}")
        if self.folder.torn():
            notes.append("the last line of the run log was cut off and is left out")
        failures = self.curve.get("failures", pd.Series(dtype=int))
        if failures.any():
            notes.append(f"{failures.sum()} client failures in {(failures > 0).sum()} rounds")
        return notes


@dataclass(frozen=True)
class Group:
    """Runs of one experiment that differ only in the seed.

    Args:
        runs: One per seed.
        label: The settings in which it differs from the other groups.
        kind: ``legacy``, ``unfinished``, ``centralised`` or ``federated``.
        marks: What sets its numbers apart from others, such as ``warning``.
        protocol: How the numbers were made; the legacy protocol is said aloud.
        settings: The experiment by dotted key, without seed and engine.
        notes: What a reader must know about it.
    """

    runs: tuple[Run, ...]
    label: str
    kind: str
    marks: tuple[str, ...]
    protocol: str
    settings: Mapping[str, Any]
    notes: tuple[str, ...]

    @property
    def first(self) -> Run:
        """The run that stands for what all have in common."""
        return self.runs[0]

    @property
    def centralised(self) -> bool:
        """Whether the method saw all users' data in one place."""
        return "centralised" in self.marks

    @property
    def title(self) -> str:
        """The label and what sets its numbers apart."""
        return self.label + (f" [{', '.join(self.marks)}]" if self.marks else "")

    @property
    def chooser(self) -> str:
        """The metric that chose the round on validation."""
        return self.first.metrics[0]

    @cached_property
    def _results(self) -> pd.DataFrame:
        return pd.json_normalize([dict(run.result) for run in self.runs])

    def values(self, key: str) -> pd.Series[float]:
        """Return a number of ``result.json``, of the runs that have it.

        Args:
            key: Dotted, such as ``metrics.test.ndcg@10``.
        """
        return pd.to_numeric(self._results.get(key, pd.Series(dtype=float))).dropna()

    @property
    def valid(self) -> pd.Series[float]:
        """The score that chose the round, of each run that has one."""
        return self.values(f"metrics.valid.{self.chooser}")

    @cached_property
    def users(self) -> pd.DataFrame:
        """The results of each user, averaged over seeds, by raw user id; empty without any."""
        every = pd.concat([run.per_user for run in self.runs])
        return every.groupby(level=0).mean(numeric_only=True)


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
        sizes: dict[object, object] = {}
        sections: dict[object, list[Group]] = {}
        for group in sorted(self.groups, key=lambda group: not group.first.finished):
            data = group.first.data, group.first.result["protocol"], group.chooser
            size: object = group.first.result.get("users"), group.first.result.get("items")
            sizes.setdefault(data, size)  # of a run that did not come to write it: the others'
            size = size if group.first.finished else sizes[data]
            sections.setdefault((data, size), []).append(group)
        for members in sections.values():  # one without a value has NaN, which does not sort
            members.sort(key=lambda g: np.nan_to_num(-g.valid.mean(), nan=np.inf))
            members.sort(key=lambda g: not g.first.finished)
        return tuple(map(tuple, sections.values()))

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
            if not chosen.first.finished:
                raise RunFolderError(f"--baseline '{named}': did not come to its end")
            if any(group is chosen for group in section):
                return chosen
        finished = [group for group in section if group.first.finished]
        central = [group for group in finished if group.centralised]
        names = {"none", None}
        plain = [g for g in finished if g.settings.get("personalization.name") in names]
        plain = [group for group in plain if not group.centralised]
        return next(iter(plain or central or finished), None)

    def _named(self, name: str) -> Group:
        place, text = Path(name).resolve(), name.lower()
        fitting = (
            [g for g in self.groups if any(r.folder.path.resolve() == place for r in g.runs)]
            or [g for g in self.groups if text in (g.label.lower(), g.title.lower())]
            or [g for g in self.groups if text in g.title.lower()]
        )
        if not fitting:
            raise RunFolderError(
                f"--baseline '{name}': expected a label or a run folder of the report"
                + did_you_mean(name, [group.label for group in self.groups])
            )
        if len(fitting) > 1:
            several = "; ".join(group.label for group in fitting)
            raise RunFolderError(f"--baseline '{name}': fits several: {several}")
        return fitting[0]


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
    grouped: dict[str, list[Run]] = {}
    for folder in folders.values():
        with _collected(errors):
            run = _read(folder)
            key = [_experiment(run), run.finished, run.finished and run.result.get("users")]
            grouped.setdefault(json.dumps(key, sort_keys=True, default=str), []).append(run)
    if not grouped:
        raise errors[0]
    groups = _labelled([_group(runs) for runs in grouped.values()])
    return Selection(groups, tuple(str(error) for error in errors))


def _read(folder: RunFolder) -> Run:
    config = folder.config()
    with reading(folder.path / CONFIG):  # whose first reader notices what is damaged in it
        metrics = tuple(str(metric) for metric in config["evaluate"]["metrics"])
        _ = config["data"]["name"], config["model"]["name"]
    result = folder.result
    finished = result["status"] in FINISHED
    curve, per_user, errors = RunResult(folder.path).curve(), pd.DataFrame(), list[RunFolderError]()
    if (folder.path / PER_USER).exists():
        with _collected(errors):
            per_user = folder.per_user().set_index("user")
    for name in result.get("files", ()):
        if name.startswith(SHOWN):
            with _collected(errors):
                folder.verify(name)
    damaged = tuple(dict.fromkeys(map(str, errors)))
    return Run(folder, config, result, curve, per_user, damaged, metrics, finished)


@contextmanager
def _collected(errors: list[RunFolderError]) -> Iterator[None]:
    try:
        yield
    except RunFolderError as error:
        errors.append(error)


def _experiment(run: Run) -> dict[str, Any]:
    return {key: value for key, value in run.config.items() if key not in NOT_THE_EXPERIMENT}


def _group(runs: Sequence[Run]) -> Group:
    by_seed: dict[int, list[Run]] = {}
    for run in sorted(runs, key=lambda run: run.seed):
        by_seed.setdefault(run.seed, []).append(run)
    notes = []
    seeds_of: dict[str, list[int]] = {}
    for seed, same in by_seed.items():
        equal = len({run.result.get("digest") for run in same}) == 1
        how = "equal digests" if equal else "DIFFERENT digests: not reproduced"
        if len(same) > 1:
            ended = f"was run {len(same)} times, {how}"
            started = f"was started {len(same)} times"
            notes.append(f"seed {seed} {ended if same[0].finished else started}; counted once")
        for note in same[0].notes():
            seeds_of.setdefault(note, []).append(seed)
    for note, seeds in seeds_of.items():
        word = "seed" if len(seeds) == 1 else "seeds"
        notes.append(f"{word} {', '.join(map(str, seeds))}: {note}")
    chosen = tuple(same[0] for same in by_seed.values())
    first, result = chosen[0], chosen[0].result
    settings = flatten(_experiment(first))
    legacy = result["protocol"] == "legacy"
    marks = {
        "centralised": bool(result.get("centralised")),
        "LEGACY protocol": legacy,
        "unfinished": not first.finished,
        "warning": any(run.result.get("warnings") or run.damaged for run in chosen),
    }
    ranking = result.get("ranking", "full")
    protocol = (
        str(settings.get("data.split.name", "unknown split")).replace("_", " "),
        "LEGACY protocol (leaks)" if legacy else f"{result['protocol']} protocol",
        ranking if " " in ranking else f"{ranking} ranking",
    )
    kinds = [kind for kind in ("unfinished", "centralised") if marks[kind]]
    return Group(
        chosen,
        label=result.get("name") or first.folder.path.resolve().name,
        kind="legacy" if legacy else next(iter(kinds), "federated"),
        marks=tuple(mark for mark, holds in marks.items() if holds),
        protocol=", ".join(protocol),
        settings=settings,
        notes=tuple(notes),
    )


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

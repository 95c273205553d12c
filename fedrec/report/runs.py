"""Runs as a report sees them: read, and grouped by everything but the seed."""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pandas as pd

from fedrec.config.yaml import flatten
from fedrec.errors import RunFolderError, did_you_mean
from fedrec.evaluation.slices import sliced
from fedrec.plugins import expand_path
from fedrec.report.labels import labels
from fedrec.runs.folder import CONFIG, FINISHED, LOCAL, MODEL, PER_USER, SPLIT
from fedrec.runs.reader import RunFolder, find
from fedrec.runs.result import RunResult
from fedrec.storage.files import reading

Values: TypeAlias = "pd.Series[float]"
SHOWN = (SPLIT, PER_USER, MODEL, LOCAL)
"""What a report shows besides configuration, log and result."""
NOT_COMPARED = ("seed", "engine")
PRETTY = {"ndcg": "NDCG", "hit_rate": "HR", "mrr": "MRR", "er": "ER"}


def pretty_metric(label: str) -> str:
    """Return the title of a metric: ``NDCG@10`` for ``ndcg@10``, ``Mine@5`` for ``own:mine@5``."""
    name, at, cut = label.partition("@")
    name = name.rpartition(":")[2]
    return PRETTY.get(name, name[:1].upper() + name[1:].replace("_", " ")) + at + cut


@dataclass(frozen=True, eq=False)
class Run:
    """One run folder, read.

    Args:
        folder: Where it lies.
        config: The resolved experiment.
        settings: The same by dotted key, without seed and engine, which changes no result.
        metrics: Those of the experiment; the first chose the round.
        slices: Those of the experiment.
        chooser: The metric that chose the round on validation, such as ``ndcg@10[tail]``.
        seed: Its seed.
        data: What tells data and split from others: a hash of their content, wherever it was read.
        result: What it came to, also so far.
        finished: Whether the run came to its end.
        log: One row per round, see `fedrec.runs.result.RunResult.curve`.
        users: The results of each user by raw id; empty where the run left none.
        damaged: What is wrong with other files of the folder.
    """

    folder: RunFolder
    config: Mapping[str, Any]
    settings: Mapping[str, Any]
    metrics: Sequence[str]
    slices: Sequence[str]
    chooser: str
    seed: int
    data: str
    result: Mapping[str, Any]
    finished: bool
    log: pd.DataFrame
    users: pd.DataFrame
    damaged: Sequence[str]

    def notes(self) -> list[str]:
        """Return what a reader must know about the run."""
        notes = [f"warning: {warning}" for warning in self.result.get("warnings", ())]
        notes += [f"left out: {error}" for error in self.damaged]
        if not self.finished:
            status = self.result["status"].replace("running", "not finished")
            notes.append(f"{status} at round {self.result['rounds'] or 0}")
        if self.folder.torn():
            notes.append("the last line of the run log was cut off and is left out")
        failures = self.log.get("failures", pd.Series(dtype=int))
        if failures.any():
            notes.append(f"{failures.sum()} client failures in {(failures > 0).sum()} rounds")
        return notes


@dataclass(frozen=True, eq=False)
class Group:
    """Runs of one experiment that differ only in the seed.

    Args:
        runs: One per seed.
        first: The run that stands for what all have in common.
        label: The settings in which it differs from the other groups.
        kind: ``legacy``, ``unfinished``, ``centralised`` or ``federated``.
        centralised: Whether the method saw all users' data in one place.
        marks: What sets its numbers apart from others, such as ``warning``.
        protocol: How the numbers were made; the legacy protocol is said aloud.
        notes: What a reader must know about it.
        users: The results of each user, averaged over seeds, by raw user id; empty without any.
        results: One row per run, one column per dotted key of ``result.json``.
    """

    runs: Sequence[Run]
    first: Run
    label: str
    kind: str
    centralised: bool
    marks: Sequence[str]
    protocol: str
    notes: Sequence[str]
    users: pd.DataFrame
    results: pd.DataFrame

    @property
    def title(self) -> str:
        """The label and what sets its numbers apart."""
        return self.label + (f" [{', '.join(self.marks)}]" if self.marks else "")

    @property
    def ranks_warm(self) -> bool:
        """Whether the metrics without a slice rank warm items among warm items."""
        return bool(self.first.slices or self.first.settings.get("data.split.cold_items"))

    @property
    def chooser(self) -> str:
        """The metric that chose the round on validation."""
        return self.first.chooser

    def values(self, key: str) -> Values:
        """Return a number of ``result.json``, of the runs that have it.

        Args:
            key: Dotted, such as ``metrics.test.ndcg@10``.
        """
        return pd.to_numeric(self.results.get(key, pd.Series(dtype=float))).dropna()

    @property
    def valid(self) -> Values:
        """The score that chose the round, of each run that has one."""
        return self.values(f"metrics.valid.{self.chooser}")


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
        sections: dict[object, list[Group]] = {}
        for group in self.groups:
            protocol = group.first.result["protocol"], group.ranks_warm
            made = group.first.data, *protocol, group.chooser
            sections.setdefault(made, []).append(group)
        for members in sections.values():  # one without a value has NaN, which does not sort
            members.sort(
                key=lambda g: (not g.first.finished, np.nan_to_num(-g.valid.mean(), nan=np.inf))
            )
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
            if chosen in section:
                return chosen
        finished = [group for group in section if group.first.finished]
        central = [group for group in finished if group.centralised]
        plain = [
            group
            for group in finished
            if group.first.settings.get("personalization.name") in ("none", None)
            and not group.centralised
        ]
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


def load(paths: Sequence[str | Path]) -> Selection:
    """Read and group runs.

    Runs belong together when their data is the same and their experiments differ in nothing but
    seed and engine (which changes no result). Those that did not come to their end form groups of
    their own, so that no mean mixes the two. Among several runs, one that cannot be read is left
    out by name.

    Args:
        paths: Run folders, or folders that hold some.

    Raises:
        RunFolderError: If there is none, or none can be read.
    """
    if not paths:
        raise RunFolderError("no run was named; give at least one run folder")
    errors: list[RunFolderError] = []
    folders = {each.path.resolve(): each for each in find([*map(expand_path, paths)], errors)}
    grouped: dict[str, list[Run]] = {}
    for folder in folders.values():
        with _collected(errors):
            run = _read(folder)
            key = json.dumps([run.settings, run.finished, run.data], sort_keys=True, default=str)
            grouped.setdefault(key, []).append(run)
    if not grouped:
        raise errors[0]
    groups = [_group(runs) for runs in grouped.values()]
    texts = labels([g.first.settings for g in groups], [g.centralised for g in groups])
    named = [replace(g, label=text or g.label) for g, text in zip(groups, texts, strict=True)]
    titles = Counter(group.title for group in named)
    unique = (
        replace(g, label=f"{g.label} ({g.first.folder.path})") if titles[g.title] > 1 else g
        for g in named
    )
    return Selection(tuple(unique), tuple(map(str, errors)))


def _read(folder: RunFolder) -> Run:
    config, result, errors = folder.config(), folder.result, list[RunFolderError]()
    with reading(folder.path / CONFIG):  # whose first reader notices what is damaged in it
        metrics = tuple(map(str, config["evaluate"]["metrics"]))
        slices = tuple(map(str, config["evaluate"].get("slices", ())))
        chooser = sliced(metrics[0], config["evaluate"].get("choose_on") or "")
        _ = config["data"]["name"], config["model"]["name"]
    data = json.dumps([config["data"], result.get("users"), result.get("items")], default=str)
    users = pd.DataFrame()
    # What attackers train on differs from seed to seed.
    if (folder.path / SPLIT).exists() and not result.get("attackers"):
        with _collected(errors):
            data = _content(folder)
    if (folder.path / PER_USER).exists():
        with _collected(errors):
            users = folder.per_user().set_index("user")
    for name in result.get("files", ()):
        if name.startswith(SHOWN):
            with _collected(errors):
                folder.verify(name)
    return Run(
        folder,
        config,
        flatten({key: value for key, value in config.items() if key not in NOT_COMPARED}),
        metrics,
        slices,
        chooser,
        seed=result["seed"] or 0,
        data=data,
        result=result,
        finished=result["status"] in FINISHED,
        log=RunResult(folder.path).curve(),
        users=users,
        damaged=tuple(dict.fromkeys(map(str, errors))),
    )


def _content(folder: RunFolder) -> str:
    split = folder.split
    content = hashlib.sha256("\0".join((*split.user_ids, "", *split.item_ids)).encode())
    for rows in (split.train, split.valid, split.test):
        content.update(rows.offsets.tobytes() + rows.values.tobytes())
    return content.hexdigest()


@contextmanager
def _collected(errors: list[RunFolderError]) -> Iterator[None]:
    try:
        yield
    except RunFolderError as error:
        errors.append(error)


def _group(runs: Sequence[Run]) -> Group:
    by_seed: dict[int, list[Run]] = {}
    for run in sorted(runs, key=lambda run: run.seed):
        by_seed.setdefault(run.seed, []).append(run)
    chosen = tuple(same[0] for same in by_seed.values())
    first, result = chosen[0], chosen[0].result
    centralised, legacy = bool(result.get("centralised")), result["protocol"] == "legacy"
    marks = {
        "centralised": centralised,
        "LEGACY protocol": legacy,
        "unfinished": not first.finished,
        "warning": any(run.result.get("warnings") or run.damaged for run in chosen),
    }
    kinds = {"legacy": legacy, **marks, "federated": True}
    ranking = result.get("ranking", "full")
    protocol = (
        str(first.settings.get("data.split.name", "unknown split")).replace("_", " "),
        "LEGACY protocol (leaks)" if legacy else f"{result['protocol']} protocol",
        ranking if " " in ranking else f"{ranking} ranking",
    )
    warm = " of warm items" if first.slices or first.settings.get("data.split.cold_items") else ""
    return Group(
        chosen,
        first,
        label=re.sub(r"\S+:", "", result.get("name") or first.folder.path.resolve().name),
        kind=next(k for k in ("legacy", "unfinished", "centralised", "federated") if kinds[k]),
        centralised=centralised,
        marks=tuple(mark for mark, holds in marks.items() if holds),
        protocol=", ".join(protocol) + warm,
        notes=tuple(_notes(by_seed)),
        users=pd.concat([run.users for run in chosen]).groupby(level=0).mean(numeric_only=True),
        results=pd.json_normalize([dict(run.result) for run in chosen]),
    )


def _notes(by_seed: Mapping[int, Sequence[Run]]) -> Iterator[str]:
    """Yield what a reader must know about the runs of some seeds, with the seeds."""
    seeds_of: dict[str, list[str]] = {}
    for seed, same in by_seed.items():
        if len(same) > 1:
            equal = len({run.result.get("digest") for run in same}) == 1
            how = "equal digests" if equal else "DIFFERENT digests: not reproduced"
            times = f"{len(same)} times"
            again = f"run {times}, {how}" if same[0].finished else f"started {times}"
            yield f"seed {seed} was {again}; counted once"
        for note in same[0].notes():
            seeds_of.setdefault(note, []).append(str(seed))
    for note, seeds in seeds_of.items():
        yield f"seed{'s' * (len(seeds) > 1)} {', '.join(seeds)}: {note}"

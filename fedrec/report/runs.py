"""Runs as a report sees them: read, and grouped by everything but the seed."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from fedrec.errors import RunFolderError
from fedrec.runs.folder import FINISHED
from fedrec.runs.log import RoundRecord
from fedrec.runs.reader import RunFolder, find

__all__ = ["Group", "Run", "load", "pretty_metric"]

NOT_THE_EXPERIMENT = ("seed", "engine")
PRETTY = {"ndcg": "NDCG", "hit_rate": "HR", "recall": "Recall", "mrr": "MRR", "gini": "Gini"}
MAX_KEYS = 3


def pretty_metric(label: str) -> str:
    """``ndcg@10`` as ``NDCG@10``."""
    name, at, cut = label.partition("@")
    return PRETTY.get(name, name.replace("_", " ").capitalize()) + at + cut


@dataclass(frozen=True)
class Run:
    """One run folder, read.

    Args:
        folder: Where it lies.
        config: The resolved experiment.
        result: As in ``result.json``, or so far.
        rounds: The run log.
        torn: Whether the last line of the run log was cut off.
    """

    folder: RunFolder
    config: Mapping[str, Any]
    result: Mapping[str, Any]
    rounds: tuple[RoundRecord, ...]
    torn: bool

    @property
    def seed(self) -> int:
        """The run's seed."""
        return int(self.result.get("seed") or 0)

    @property
    def status(self) -> str:
        """``completed``, ``early_stop``, ``interrupted`` or ``running``."""
        return str(self.result.get("status", "interrupted"))

    @property
    def finished(self) -> bool:
        """Whether it came to its end."""
        return self.status in FINISHED

    def metrics(self, part: str) -> Mapping[str, float]:
        """The values of ``valid`` or ``test`` at the best round."""
        return _known((self.result.get("metrics") or {}).get(part) or {})

    def views(self) -> Mapping[str, Mapping[str, float]]:
        """Per view but the mixed one, the test values at the best round."""
        views = (self.result.get("metrics") or {}).get("views") or {}
        return {name: _known(values) for name, values in views.items()}


def _known(values: Mapping[str, float | None]) -> Mapping[str, float]:
    return {name: float(value) for name, value in values.items() if value is not None}


@dataclass(frozen=True)
class Group:
    """Runs of one experiment that differ only in the seed.

    Args:
        runs: One per seed.
        label: What it is called; distinct within a report.
        notes: What a reader must know about it.
    """

    runs: tuple[Run, ...]
    label: str
    notes: tuple[str, ...] = ()

    @property
    def first(self) -> Run:
        """The run that stands for what all have in common."""
        return self.runs[0]

    @property
    def centralised(self) -> bool:
        """Whether the method saw all users' data in one place."""
        return bool(self.first.result.get("centralised"))

    @property
    def legacy(self) -> bool:
        """Whether the published, leaking protocol was used."""
        return str(self.first.result.get("protocol")) == "legacy"

    @property
    def finished(self) -> bool:
        """Whether its runs came to their end."""
        return self.first.finished

    @property
    def data(self) -> str:
        """Name of the data set."""
        return str(self.first.result.get("data") or "?")

    @property
    def data_key(self) -> str:
        """Equal for groups with the same data, split and protocol."""
        return json.dumps(self.first.config.get("data"), sort_keys=True)

    @property
    def metric_names(self) -> tuple[str, ...]:
        """The metrics, in the order of the experiment; the first chose the round."""
        named = (self.first.config.get("evaluate") or {}).get("metrics") or ()
        return tuple(dict.fromkeys([*named, *self.first.metrics("test")]))

    @property
    def chooser(self) -> str:
        """The metric that chose the round on validation."""
        return self.metric_names[0] if self.metric_names else "ndcg@10"

    def values(self, part: str, metric: str, view: str = "mixed") -> tuple[float, ...]:
        """One value per run that has it."""
        sources = (
            r.metrics(part) if view == "mixed" else r.views().get(view, {}) for r in self.runs
        )
        return tuple(source[metric] for source in sources if metric in source)

    @property
    def view_names(self) -> tuple[str, ...]:
        """The views besides the mixed one."""
        return tuple(self.first.views())

    def clients(self) -> int:
        """Clients of the largest cohort."""
        return max((r.clients for run in self.runs for r in run.rounds), default=0)


def mean_sd(values: Sequence[float]) -> tuple[float, float | None] | None:
    """Mean and sample standard deviation (None for one value), or None for no value."""
    if not values:
        return None
    return fmean(values), stdev(values) if len(values) > 1 else None


def load(paths: Sequence[Path]) -> tuple[Group, ...]:
    """Read and group runs.

    Runs belong together when their experiments differ in nothing but seed and engine (which
    changes no result). Those that did not come to their end form groups of their own, so that no
    mean mixes the two.

    Args:
        paths: Run folders, or folders that hold some.

    Raises:
        RunFolderError: If there is none, or one cannot be read.
    """
    if not paths:
        raise RunFolderError("no run was named; give at least one run folder")
    runs = {folder.path.resolve(): folder for folder in find(list(paths))}
    grouped: dict[tuple[str, bool], list[Run]] = {}
    for folder in runs.values():
        run = _read(folder)
        grouped.setdefault((_key(run.config), run.finished), []).append(run)
    return _labelled([_group(members) for members in grouped.values()])


def _read(folder: RunFolder) -> Run:
    return Run(folder, folder.config(), folder.result(), tuple(folder.rounds()), folder.torn())


def _key(config: Mapping[str, Any]) -> str:
    kept = {name: value for name, value in config.items() if name not in NOT_THE_EXPERIMENT}
    return json.dumps(kept, sort_keys=True)


def _group(runs: Sequence[Run]) -> Group:
    by_seed: dict[int, list[Run]] = {}
    for run in runs:
        by_seed.setdefault(run.seed, []).append(run)
    notes = []
    for seed, same in sorted(by_seed.items()):
        digests = {str(run.result.get("digest")) for run in same}
        if len(same) > 1 and same[0].finished:
            how = "equal digests" if len(digests) == 1 else "DIFFERENT digests: not reproduced"
            notes.append(f"seed {seed} was run {len(same)} times, {how}; counted once")
        elif len(same) > 1:
            notes.append(f"seed {seed} was started {len(same)} times; counted once")
    kept = tuple(same[0] for _, same in sorted(by_seed.items()))
    notes += [note for run in kept for note in _run_notes(run)]
    first = kept[0]
    return Group(kept, str(first.result.get("name") or first.folder.path.name), tuple(notes))


def _run_notes(run: Run) -> list[str]:
    notes = []
    if not run.finished:
        words = "not finished" if run.status == "running" else run.status
        notes.append(f"seed {run.seed}: {words} at round {run.result.get('rounds', 0)}")
    if run.torn:
        notes.append(f"seed {run.seed}: the last line of the run log was cut off and is left out")
    failed = sum(len(record.failures) for record in run.rounds)
    if failed:
        rounds = sum(bool(record.failures) for record in run.rounds)
        notes.append(f"seed {run.seed}: {failed} client failures in {rounds} rounds")
    return notes


def _labelled(groups: Sequence[Group]) -> tuple[Group, ...]:
    labelled = []
    for group in groups:
        same = [g for g in groups if g.label == group.label]
        flats = [_flat(g.first.config) for g in same]
        mine = _flat(group.first.config)
        differing = [
            key
            for key in dict.fromkeys(key for flat in flats for key in flat)
            if key.partition(".")[0] not in NOT_THE_EXPERIMENT
            and key != "data.protocol"
            and len({json.dumps(flat.get(key), sort_keys=True) for flat in flats}) > 1
        ]
        shown = [f"{key}={mine.get(key, 'none')}" for key in differing[:MAX_KEYS]]
        shown += ["…"] if len(differing) > MAX_KEYS else []
        label = f"{group.label} ({', '.join(shown)})" if shown else group.label
        label += " [centralised]" if group.centralised else ""
        label += ", LEGACY protocol" if group.legacy else ""
        label += "" if group.finished else ", unfinished"
        labelled.append(replace(group, label=label))
    return tuple(labelled)


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(value, Mapping):
        return {prefix: value}
    found: dict[str, Any] = {}
    for key, item in value.items():
        found |= _flat(item, f"{prefix}.{key}" if prefix else str(key))
    return found

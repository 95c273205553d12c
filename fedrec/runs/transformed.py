"""The data as the transforms of an experiment change it, before round 1."""

import hashlib
import json
from pathlib import Path

from fedrec.baselines.base import Baseline
from fedrec.compute.context import RoundContext
from fedrec.config.experiment import Experiment
from fedrec.data.prepare import open_split, save_split
from fedrec.errors import ConfigError
from fedrec.storage.files import writing
from fedrec.transforms.data import changed_data
from fedrec.types import IntArray, Split


def with_transforms(experiment: Experiment, prepared: Path, split: Split) -> tuple[Path, Split]:
    """Return the data after `fedrec.transforms.base.Transform.on_data` of all transforms.

    Args:
        experiment: What is to be run.
        prepared: The file of the prepared data.
        split: The prepared data.

    Returns:
        The file, beside that of the prepared data, and the data; as they came where no transform
        changes any.

    Raises:
        ConfigError: If an attack does not fit the data, or a transform returns other data than it
            may.
    """
    _check_attack(experiment, split)
    if not any(transform.overrides("on_data") for transform in experiment.transforms):
        return prepared, split
    seed, targets = experiment.seed, _targets(experiment, split)
    for transform in experiment.transforms:
        n, n_items = split.n_clients, split.n_items
        split = changed_data(transform, split, RoundContext(seed, 0, n, n_items, targets=targets))
    settings = experiment.model_dump(mode="json", include={"transforms", "evaluate", "seed"})
    key = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]
    path = prepared.with_name(f"{prepared.stem}-{key}{prepared.suffix}")
    with writing(path):
        save_split(split, path)
    return path, open_split(path)


def _check_attack(experiment: Experiment, split: Split) -> None:
    attack, n = experiment.attack, split.n_clients
    if attack is None:
        return
    name, count = type(attack).__name__, attack.count(n)
    if isinstance(experiment.model, Baseline):
        raise ConfigError(
            f"transforms: {name} is an attack by clients, and a centralised baseline has none; "
            "leave it out, or take a federated model"
        )
    if not attack.added and count >= n:
        raise ConfigError(
            f"transforms: {name} with share: {attack.share:g} makes {count} of {n} clients "
            "attackers, so nobody is left to rank; lower it, or take more clients"
        )
    if attack.needs_targets and not len(_targets(experiment, split)):
        raise ConfigError(
            f"transforms: {name} promotes items, and there are none in evaluate.targets; name them "
            "there, as item ids or {choose: unpopular}"
        )


def _targets(experiment: Experiment, split: Split) -> IntArray:
    """Return the targets, given the data before an attack: those of honest clients' data."""
    is_added = experiment.attack is None or experiment.attack.added
    honest = split if is_added else experiment.honest_part(split)
    return experiment.evaluate.targets_of(honest, experiment.seed)

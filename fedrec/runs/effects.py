"""Settings of an experiment that change nothing."""

from __future__ import annotations

from fedrec.baselines.base import Baseline
from fedrec.config.experiment import Experiment
from fedrec.plugins import Section
from fedrec.types import Split

__all__ = ["settings_without_effect"]

FEDERATED = ("train", "personalization", "strategy", "rounds", "clients", "engine")


def settings_without_effect(experiment: Experiment, split: Split) -> list[str]:
    """Return one line for each setting without effect: its dotted name, its value and the reason.

    Args:
        experiment: What is run.
        split: Its data.
    """
    fields = type(experiment).model_fields
    if isinstance(experiment.model, Baseline):
        defaults = {n: fields[n].get_default(call_default_factory=True) for n in FEDERATED}
        return [
            f"{name}: has no effect: {type(experiment.model).__name__} is a centralised baseline"
            for name, default in defaults.items()
            if getattr(experiment, name) != default
        ] + [
            line
            for name in ("data", "evaluate")
            for line in _of_section(getattr(experiment, name), name, experiment, split)
        ]
    sections = {name: getattr(experiment, name) for name in fields}
    return [
        line
        for name, section in sections.items()
        if isinstance(section, Section)
        for line in _of_section(section, name, experiment, split)
    ]


def _of_section(section: Section, name: str, experiment: Experiment, split: Split) -> list[str]:
    lines = [f"{name}.{line}" for line in section.without_effect(experiment, split)]
    for field in type(section).model_fields:
        value = getattr(section, field)
        if isinstance(value, Section):
            lines += _of_section(value, f"{name}.{field}", experiment, split)
    return lines

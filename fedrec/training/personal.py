"""What a personalization makes of the parameters of a model: private ones, copies and phases."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import get_args

from fedrec.errors import ConfigError, did_you_mean
from fedrec.models.base import Model
from fedrec.models.check import used_by
from fedrec.models.module import Network
from fedrec.personalization.base import COPY, Personalization, Phase, View
from fedrec.types import Axis, ParamSpec

_AXES: Mapping[Axis | None, Axis] = {
    "item": "positive",
    None: "client",
    "user": "user",
    "client": "client",
}
"""The axis of a copy, for each axis of a parameter that can be copied."""


@dataclass(frozen=True, slots=True)
class PersonalizedSpecs:
    """What is private to clients, and when it is trained.

    Args:
        specs: The model's parameters; those that became private are private.
        copies: The name of each copy, and that of its parameter.
        of_copies: The declarations of copies, by name.
        became_private: What is private and was shared.
        item_vectors: What item vectors depend on, where that may be a client's own.
    """

    specs: Mapping[str, ParamSpec]
    copies: Mapping[str, str]
    of_copies: Mapping[str, ParamSpec]
    became_private: tuple[str, ...]
    item_vectors: frozenset[str]


def personalized_specs(
    source: str,
    model: Model,
    personalization: Personalization,
    specs: Mapping[str, ParamSpec],
    network: Network | None,
) -> PersonalizedSpecs:
    """Return what a personalization keeps of a model's parameters on the client.

    Args:
        source: What messages call it.
        model: The client model.
        personalization: The personalization.
        specs: The model's parameters, by name.
        network: What it built.

    Raises:
        ConfigError: If it names a parameter that there is not, or one of the wrong kind.
    """
    last_layer: list[str] = []
    if personalization.overrides("private") and model.overrides("features"):
        method = "loss" if model.overrides("loss") else "score"
        used = _used_by(source, model, specs, network, method)
        used -= _used_by(source, model, specs, network, "features")
        last_layer = [name for name in specs if name in used and specs[name].axis is None]
    chosen = checked_names(f"{source}: private", personalization.private(specs, last_layer), specs)
    for name in chosen:
        if specs[name].scope != "shared" or specs[name].axis is not None:
            raise ConfigError(
                f"{source}: private: '{name}' is {specs[name].scope} with the axis "
                f"{specs[name].axis}; only dense shared parameters can become private"
            )
    specs = {
        name: replace(spec, scope="private", axis="client") if name in chosen else spec
        for name, spec in specs.items()
    }
    copyable = {
        name: spec
        for name, spec in specs.items()
        if spec.trainable and spec.scope != "frozen" and spec.axis in _AXES
    }
    names = checked_names(f"{source}: copies", personalization.copies(copyable), copyable)
    copies = {COPY + name: name for name in names}
    of_copies = {
        copy: replace(specs[name], scope="private", axis=_AXES[specs[name].axis])
        for copy, name in copies.items()
    }
    encoding = frozenset[str]()
    if model.overrides("item_vectors") and (chosen or copies):
        encoding = _used_by(source, model, specs, network, "item_vectors")
    return PersonalizedSpecs(specs, copies, of_copies, chosen, encoding)


def _used_by(
    source: str,
    model: Model,
    specs: Mapping[str, ParamSpec],
    network: Network | None,
    method: str,
) -> frozenset[str]:
    names = used_by(model, specs, network, method)
    if names is None:
        raise ConfigError(
            f"{source}: must know which parameters {method} of {type(model).__name__} depends on, "
            "but it fails on made-up pairs; let it work on any values of the declared shapes"
        )
    return names


def checked_phases(
    source: str,
    personalization: Personalization,
    specs: Mapping[str, ParamSpec],
    copies: Collection[str],
) -> tuple[Phase, ...]:
    """Return the phases of a personalization, with the names of what each trains.

    Args:
        source: What messages call it.
        personalization: The personalization.
        specs: All parameters, copies among them.
        copies: The names of the copies.

    Raises:
        ConfigError: If a phase makes no sense, or there is none in a round.
    """
    trained = {n: s for n, s in specs.items() if s.trainable and s.scope != "frozen"}
    phases: object = personalization.phases(
        {name: spec for name, spec in trained.items() if name not in copies}, copies
    )
    source = f"{source}: phases"
    if not isinstance(phases, tuple) or not all(isinstance(each, Phase) for each in phases):
        raise ConfigError(f"{source}: expected a tuple of Phase, got {phases!r}")
    checked = []
    for phase in phases:
        private = {name: spec for name, spec in trained.items() if spec.scope == "private"}
        known = trained if phase.when == "round" else private
        names = tuple(known) if phase.parameters is None else phase.parameters
        names = checked_names(source, names, known)
        views = [view for view in phase.views if view not in get_args(View)]
        if views or not phase.views:
            raise ConfigError(
                f"{source}: views {list(phase.views)}: expected some of {list(get_args(View))}"
            )
        if not names or (phase.epochs is not None and phase.epochs < 0):
            raise ConfigError(
                f"{source}: {phase!r}: expected parameters, and epochs from 0; leave a phase out "
                "that trains nothing"
            )
        checked.append(replace(phase, parameters=names))
    if not any(phase.when == "round" and phase.epochs != 0 for phase in checked):
        raise ConfigError(f"{source}: no phase of a round trains anything")
    return tuple(checked)


def checked_names(source: str, names: Iterable[str], known: Collection[str]) -> tuple[str, ...]:
    """Return names, each once.

    Raises:
        ConfigError: If one is not known.
    """
    unique = tuple(dict.fromkeys(names))
    for name in unique:
        if name not in known:
            raise ConfigError(
                f"{source}: '{name}' is no parameter for it{did_you_mean(name, known)}"
            )
    return unique

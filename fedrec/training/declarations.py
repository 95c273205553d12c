"""What the model and the personalization of a task declare, checked where it is collected."""

from collections import OrderedDict
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from math import isfinite
from typing import Any, get_args

import numpy as np
import torch

from fedrec.data.catalogue import Catalogue
from fedrec.errors import ConfigError, did_you_mean
from fedrec.models.base import Model
from fedrec.models.check import check_model
from fedrec.models.module import Network
from fedrec.personalization.base import Personalization, Phase
from fedrec.training.personal import (
    PersonalizedSpecs,
    checked_names,
    checked_phases,
    personalized_specs,
)
from fedrec.types import Axis, FloatArray, ParamSpec

_WORDS: Mapping[str, tuple[str | None, ...]] = {
    "scope": ("shared", "private", "frozen"),
    "axis": (*get_args(Axis), None),
    "dtype": ("float32", "int32"),
}


@dataclass(frozen=True, slots=True)
class Declared:
    """What the model and the personalization of a task declare.

    Args:
        specs: All parameters, by name.
        added: Names of the personalization's own.
        network: The module that the model built.
        width: Length of an item vector.
        sent: Names of what the server would send to all, were nothing made private.
        personal: What the personalization makes of the model's parameters.
        phases: Of local training, with the names of what each trains.
    """

    specs: Mapping[str, ParamSpec]
    added: tuple[str, ...]
    network: Network | None
    width: int
    sent: frozenset[str]
    personal: PersonalizedSpecs
    phases: tuple[Phase, ...]


_DECLARED: OrderedDict[Hashable, Declared] = OrderedDict()
"""The last few declarations: a module is built once in a process, for all of its tasks."""

_REMEMBERED = 2


def declared(
    model: Model,
    personalization: Personalization,
    catalogue: Catalogue,
    seed: int,
    dtype: str,
) -> Declared:
    """Return what the parts of a task declare, checked.

    Args:
        model: The client model.
        personalization: The personalization.
        catalogue: The items.
        seed: Of the run, for the values with which a module begins.
        dtype: ``float32`` or ``float64``.

    Raises:
        ConfigError: If a declaration makes no sense, there are no item vectors, or two parts use
            one name.
    """
    parts = (part for each in (model, personalization) for part in (type(each), repr(each)))
    key = (*parts, catalogue, seed, dtype)
    if key not in _DECLARED:
        _DECLARED[key] = _declare(model, personalization, catalogue, seed, dtype)
        while len(_DECLARED) > _REMEMBERED:
            _DECLARED.popitem(last=False)
    return _DECLARED[key]


def _declare(
    model: Model,
    personalization: Personalization,
    catalogue: Catalogue,
    seed: int,
    dtype: str,
) -> Declared:
    source, personalized = f"model {type(model).__name__}", name_in_messages(personalization)
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        module: Any = model.build(catalogue)
    network = None
    if module is not None:
        if not isinstance(module, torch.nn.Module):
            raise ConfigError(
                f"{source}: build returned {type(module).__name__}, expected a torch.nn.Module"
            )
        network = Network(module, catalogue, source, model.scope)
    of_model = model.params(catalogue)
    check_specs(source, of_model)
    of_module = {} if network is None else network.specs
    check_specs(f"{source}: build", of_module, ("shared", "private"))
    if both := [name for name in of_model if name in of_module]:
        raise ConfigError(f"{source}: params() and the module both have '{both[0]}'; rename one")
    specs = {**of_model, **of_module}
    if "item" in specs:
        item = specs["item"]
        if (item.scope, item.axis) != ("shared", "item"):
            raise ConfigError(f"{source}: 'item' must be shared, with the axis item")
        if len(item.shape) != 1:
            raise ConfigError(f"{source}: 'item': expected a shape of one number, such as (32,)")
    elif not model.overrides("item_vectors") and not model.overrides("rank"):
        raise ConfigError(
            f"{source}: params() must declare 'item', shared with the axis item, or the model "
            "define item_vectors"
        )
    for name, spec in specs.items():
        if spec.scope == "frozen":
            came = frozen_rows(catalogue, name).shape[1:]
            if spec.shape != came:
                raise ConfigError(
                    f"{source}: params() declares '{name}' of the shape {spec.shape}, but the "
                    f"items have {came}"
                )
    width = check_model(model, specs, network)
    if personalization.changes_score and model.overrides("loss"):
        raise ConfigError(
            f"{personalized} changes the score, but {source} has a loss of its own, which does not "
            "use it; with PLGC set mode: decoupled or branch: table"
        )
    mixed = width
    if personalization.mixes == "item":
        if "item" not in specs:
            raise ConfigError(
                f"{personalized} mixes rows of the item table, but {source} has no parameter "
                "'item'; mix the item vectors, with PLGC by on: vectors"
            )
        mixed = specs["item"].shape[0]
    if network is not None and dtype == "float64":
        network.module.double()
    sent = frozenset(name for name, spec in specs.items() if spec.scope == "shared")
    personal = personalized_specs(personalized, model, personalization, specs, network)
    specs = {**personal.specs, **personal.of_copies}
    added = personalization.state(mixed)
    check_specs(personalized, added, ("private",))
    both = [name for name in personal.copies if name in personal.specs]
    if both := both + [name for name in added if name in specs]:
        raise ConfigError(
            f"{personalized} and the model both declare '{both[0]}'; rename one of them"
        )
    specs = {**specs, **added}
    checked_names(f"{personalized}: moves", personalization.moves, added)
    phases = checked_phases(personalized, personalization, specs, tuple(personal.copies))
    return Declared(specs, tuple(added), network, width, sent, personal, phases)


def frozen_rows(catalogue: Catalogue, name: str) -> FloatArray:
    """Return a feature of items, or 1 and 0 for having it, float32 [n_items, ...].

    Args:
        catalogue: The items.
        name: Of the feature, or ``NAME.present``.

    Raises:
        ConfigError: If there is no such feature.
    """
    feature = name.removesuffix(".present")
    values = catalogue.feature(feature)
    if name != feature:
        values = catalogue.present[feature]
    return np.asarray(values, np.float32)


def check_specs(
    source: str,
    specs: Mapping[str, ParamSpec],
    scopes: tuple[str, ...] = ("shared", "private", "frozen"),
) -> None:
    """Check the parameters that one part of a task declares.

    Args:
        source: Who declares them, for the error.
        specs: By name.
        scopes: Which scopes this part may declare.

    Raises:
        ConfigError: Naming the parameter, what came and what to do.
    """
    if not isinstance(specs, Mapping):
        raise ConfigError(
            f"{source}: parameters: expected a mapping of names to ParamSpec, got "
            f"{type(specs).__name__}"
        )
    for name, spec in specs.items():
        problem = _declaration_problem(name, spec)
        if not problem and spec.scope not in scopes:
            problem = f"scope {spec.scope} is not for it; declare {' or '.join(scopes)} parameters"
        if problem:
            raise ConfigError(f"{source}: parameter '{name}': {problem}")


def _declaration_problem(name: object, spec: object) -> str:
    """Return what is wrong with a declaration and the way out; empty for nothing."""
    if not isinstance(spec, ParamSpec):
        return f"expected a ParamSpec, got {type(spec).__name__}"
    if not isinstance(name, str) or not name or any(sign in name for sign in "/@"):
        return "expected a name, text without '/' and '@'"
    for attribute, accepted in _WORDS.items():
        value = getattr(spec, attribute)
        if value not in accepted:
            names = [word for word in accepted if word is not None and word != "seen_item"]
            return f"{attribute} {value!r} is unknown{did_you_mean(str(value), names)}"
    for attribute in ("init_std", "init_value"):
        value = getattr(spec, attribute)
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not isfinite(value):
            return f"{attribute}: expected a finite number, got {value!r}"
    trainable: object = spec.trainable
    if not isinstance(trainable, bool):
        return f"trainable: expected True or False, got {trainable!r}"
    shared, private, axis = spec.scope == "shared", spec.scope == "private", spec.axis
    integer = spec.dtype == "int32"
    sizes = spec.shape if isinstance(spec.shape, tuple) else (0,)
    rules = (
        (
            shared and axis not in ("item", None),
            f"a shared parameter has the axis item or None, got {axis}; or make it private",
        ),
        (
            spec.scope == "frozen" and axis != "item",
            "a frozen parameter is a feature of items, with the axis item; keep other constants "
            "in the model or its module",
        ),
        (
            private and axis is None,
            "a private parameter needs an axis: user, client or positive",
        ),
        (
            private and axis == "item",
            "a private parameter has no row for every item; use the axis positive (the client's "
            "train items), or a shared table",
        ),
        (
            axis == "seen_item",
            "the axis seen_item belongs to client rules; use the axis positive",
        ),
        (
            not all(type(size) is int and size > 0 for size in sizes),
            f"shape: expected a tuple of whole numbers from 1, got {spec.shape!r}",
        ),
        (spec.init_std < 0, f"init_std: expected a number from 0, got {spec.init_std}"),
        (
            shared and not spec.trainable,
            "a shared parameter is always trained; make it private, or a constant of the model",
        ),
        (
            integer and (shared or spec.trainable),
            "whole numbers are not trained; use float32, or a private one with trainable=False",
        ),
        (integer and spec.init_std > 0, "init_std is for float32; give integers an init_value"),
    )
    return next((message for broken, message in rules if broken), "")


def name_in_messages(personalization: Personalization) -> str:
    """Return what messages call a personalization."""
    return f"personalization {type(personalization).__name__}"

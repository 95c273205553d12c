"""Which declarations of parameters make sense, and what is wrong with the others."""

import math
from collections.abc import Mapping
from typing import get_args

from fedrec.errors import ConfigError, did_you_mean
from fedrec.types import Axis, ParamSpec

_WORDS: Mapping[str, tuple[str | None, ...]] = {
    "scope": ("shared", "private"),
    "axis": (*get_args(Axis), None),
    "dtype": ("float32", "int32"),
}


def check_specs(
    source: str, specs: Mapping[str, ParamSpec], scopes: tuple[str, ...] = ("shared", "private")
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
        problem = _problem(name, spec)
        if not problem and spec.scope not in scopes:
            problem = f"scope {spec.scope} is not for it; declare {' or '.join(scopes)} parameters"
        if problem:
            raise ConfigError(f"{source}: parameter '{name}': {problem}")


def _problem(name: object, spec: object) -> str:
    """Return what is wrong with a declaration and the way out; empty for nothing."""
    if not isinstance(spec, ParamSpec):
        return f"expected a ParamSpec, got {type(spec).__name__}"
    if not isinstance(name, str) or not name or any(sign in name for sign in "./@"):
        return "expected a name, text without '.', '/' and '@'"
    if str(spec.scope) == "frozen":
        return (
            "frozen parameters are not supported; use a private one with trainable=False, or "
            "keep constants in the model"
        )
    for field, accepted in _WORDS.items():
        value = getattr(spec, field)
        if value not in accepted:
            names = [word for word in accepted if word is not None and word != "seen_item"]
            return f"{field} {value!r} is unknown{did_you_mean(str(value), names)}"
    for field in ("init_std", "init_value"):
        value = getattr(spec, field)
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not math.isfinite(value):
            return f"{field}: expected a finite number, got {value!r}"
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

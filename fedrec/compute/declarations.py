"""Which declarations of parameters make sense, and what is wrong with the others."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import get_args

from fedrec.errors import ConfigError, did_you_mean
from fedrec.types import Axis, ParamSpec

__all__ = ["check_specs"]

_SCOPES = ("shared", "private")
_AXES: tuple[str, ...] = get_args(Axis)


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
    for name, spec in specs.items():
        problem = _problem(name, spec)
        if not problem and spec.scope not in scopes:
            problem = f"scope {spec.scope} is not for it; declare {' or '.join(scopes)} parameters"
        if problem:
            raise ConfigError(f"{source}: parameter '{name}': {problem}")


def _problem(name: str, spec: object) -> str:
    """Return what is wrong with a declaration and the way out; empty for nothing."""
    if not isinstance(spec, ParamSpec):
        return f"expected a ParamSpec, got {type(spec).__name__}"
    if not name or any(sign in name for sign in "/@"):
        return "a name is not empty and has no '/' and no '@'; choose another"
    return _words(spec) or _axis(spec) or _numbers(spec)


def _words(spec: ParamSpec) -> str:
    if str(spec.scope) == "frozen":
        return (
            "frozen parameters are not supported; use a private one with trainable=False, or "
            "keep constants in the model"
        )
    for field, value, known in (
        ("scope", spec.scope, _SCOPES),
        ("axis", spec.axis, (*_AXES, None)),
        ("dtype", spec.dtype, ("float32", "int32")),
    ):
        if value not in known:
            names = [str(word) for word in known if word is not None]
            hint = did_you_mean(str(value), names)
            return f"{field} {value!r} is unknown; write {', '.join(names)}{hint}"
    return ""


def _axis(spec: ParamSpec) -> str:
    if spec.scope == "shared" and spec.axis not in ("item", None):
        return f"a shared parameter has the axis item or None, got {spec.axis}; or make it private"
    if spec.scope == "private" and spec.axis is None:
        return "a private parameter needs an axis: user, client or positive"
    if spec.scope == "private" and spec.axis == "item":
        return (
            "a private parameter has no row for every item; use the axis positive (the client's "
            "train items), or a shared table"
        )
    if spec.axis == "seen_item" and spec.trainable:
        return "seen_item holds what a client rule remembers, it is not trained; use positive"
    return ""


def _numbers(spec: ParamSpec) -> str:
    if not isinstance(spec.shape, tuple) or any(
        isinstance(size, bool) or not isinstance(size, int) or size < 1 for size in spec.shape
    ):
        return f"shape: expected a tuple of whole numbers from 1, got {spec.shape!r}"
    for field in ("init_std", "init_value"):
        value = getattr(spec, field)
        if (
            isinstance(value, bool)
            or not isinstance(value, int | float)
            or not math.isfinite(value)
        ):
            return f"{field}: expected a finite number, got {value!r}"
    if spec.init_std < 0:
        return f"init_std: expected a number from 0, got {spec.init_std}"
    if spec.scope == "shared" and not spec.trainable:
        return "a shared parameter is always trained; make it private, or a constant of the model"
    if spec.dtype == "int32" and (spec.scope == "shared" or spec.trainable):
        return "whole numbers are not trained; use float32, or a private one with trainable=False"
    if spec.dtype == "int32" and spec.init_std > 0:
        return "init_std is for float32; give whole numbers an init_value"
    return ""

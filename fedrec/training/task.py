"""What is trained: the model, its personalization and the local training, as one value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal
from zlib import crc32

import numpy as np

from fedrec.compute.declarations import check_specs
from fedrec.errors import ConfigError
from fedrec.models.base import Model, check_model
from fedrec.models.mf import MatrixFactorization
from fedrec.models.pfedrec import PFedRec
from fedrec.personalization.base import Personalization
from fedrec.personalization.none import NoPersonalization
from fedrec.personalization.plgc.plgc import PLGC
from fedrec.seeds import Purpose, normal
from fedrec.training.client_rule import ClientRule
from fedrec.types import FloatArray, IntArray, Params, ParamSpec

if TYPE_CHECKING:
    from fedrec.training.settings import Train

__all__ = ["ClientTask", "has_machine_code", "initial_local"]


@dataclass(frozen=True, slots=True)
class ClientTask:
    """Everything a client needs to know of an experiment.

    Args:
        model: The client model.
        personalization: How a client's view of the items is its own.
        train: Local training.
        seed: The run's seed.
        protocol: ``clean`` or ``legacy``.
        dtype: of all arithmetic; float64 is for tests.
        client_rule: What the strategy asks of the client.
    """

    model: Model
    personalization: Personalization
    train: Train
    seed: int
    protocol: Literal["clean", "legacy"] = "clean"
    dtype: str = "float32"
    client_rule: ClientRule = field(default_factory=ClientRule)

    _specs: Mapping[str, ParamSpec] = field(init=False, repr=False, compare=False)
    _private: Mapping[str, ParamSpec] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Collect and check what is declared, once.

        Raises:
            ConfigError: If a declaration makes no sense, the model declares no item table, or two
                parts use one name.
        """
        specs = _declared(self.model, self.personalization)
        object.__setattr__(self, "_specs", specs)
        private = {n: s for n, s in specs.items() if s.scope == "private"}
        if self.train.optimizers.private.name == "adam":
            for name, spec in list(private.items()):
                if spec.trainable:
                    moment = replace(spec, init_std=0.0, init_value=0.0, trainable=False)
                    private[f"{name}/first"] = moment
                    private[f"{name}/second"] = moment
                    private[f"{name}/steps"] = replace(moment, shape=())
        object.__setattr__(self, "_private", {**private, **self.client_rule.state(self.globals())})

    def specs(self) -> Mapping[str, ParamSpec]:
        """Return the parameters of the model and the personalization, by name."""
        return self._specs

    def globals(self) -> Mapping[str, ParamSpec]:
        """Return what is shared: item tables and dense parameters."""
        return {n: s for n, s in self._specs.items() if s.scope == "shared"}

    def travels(self) -> tuple[str, ...]:
        """Return the names of all that may be on the wire."""
        return (*self.globals(), *self.client_rule.travels(self.globals()))

    def rate(self, name: str) -> float:
        """Return the step size of a shared parameter."""
        optimizers = self.train.optimizers
        return (optimizers.item if self._specs[name].axis == "item" else optimizers.shared).lr

    def tables(self) -> tuple[str, ...]:
        """Return the names of the item tables."""
        return tuple(n for n, s in self._specs.items() if s.axis == "item")

    def dense(self) -> tuple[str, ...]:
        """Return the names of the dense shared parameters."""
        return tuple(n for n, s in self._specs.items() if s.axis is None)

    def locals(self) -> Mapping[str, ParamSpec]:
        """Return what stays: private parameters, their optimizer's state, the rule's memory."""
        return self._private

    def initial_globals(self, n_items: int) -> Params:
        """Return the shared parameters before the first round, float32, equal everywhere."""
        values = {}
        for name, spec in self.globals().items():
            owners = np.arange(n_items if spec.axis == "item" else 1, dtype=np.int64)
            drawn = _draw(self.seed, Purpose.INIT_GLOBAL, name, spec, owners)
            values[name] = drawn if spec.axis == "item" else drawn[0]
        return values


def _declared(model: Model, personalization: Personalization) -> Mapping[str, ParamSpec]:
    source = f"model {type(model).__name__}"
    specs = dict(model.params())
    check_specs(source, specs)
    if "item" not in specs or (specs["item"].scope, specs["item"].axis) != ("shared", "item"):
        raise ConfigError(f"{source}: params() must declare 'item', shared with the axis item")
    if len(specs["item"].shape) != 1:
        raise ConfigError(f"{source}: 'item': expected a shape of one number, such as (32,)")
    if unfit := [n for n, s in specs.items() if s.axis == "seen_item"]:
        raise ConfigError(f"{source}: parameter '{unfit[0]}': {_SEEN_ITEM}")
    check_model(model)
    source = f"personalization {type(personalization).__name__}"
    added = personalization.state(specs["item"].shape[0])
    check_specs(source, added, ("private",))
    for name, spec in added.items():
        if name in specs:
            raise ConfigError(f"{source} and the model both declare '{name}'; rename one of them")
        if spec.axis == "seen_item":
            raise ConfigError(f"{source}: parameter '{name}': {_SEEN_ITEM}")
    return {**specs, **added}


_SEEN_ITEM = "the axis seen_item belongs to client rules; use the axis positive"


def has_machine_code(task: ClientTask) -> bool:
    """Whether the numba kernel covers a task.

    It covers matrix factorisation and the linear head, alone and with PLGC, under strategies that
    ask for no more than a proximal term.
    """
    known = type(task.model) in (MatrixFactorization, PFedRec)
    return (
        known
        and task.client_rule.compiled
        and type(task.personalization) in (NoPersonalization, PLGC)
    )


def initial_local(seed: int, name: str, spec: ParamSpec, owners: IntArray) -> FloatArray:
    """Return the first values of a private parameter.

    Args:
        seed: The run's seed.
        name: of the parameter.
        spec: of the parameter.
        owners: int64 [n], the ids of the users or clients.

    Returns:
        float32 [n, *shape].
    """
    return _draw(seed, Purpose.INIT_LOCAL, name, spec, owners)


def _draw(seed: int, purpose: Purpose, name: str, spec: ParamSpec, owners: IntArray) -> FloatArray:
    values: FloatArray = np.full((len(owners), *spec.shape), spec.init_value, spec.dtype)
    if spec.init_std > 0:
        noise = normal(seed, purpose, owners, spec.shape, salt=crc32(name.encode()))
        values = values + np.float32(spec.init_std) * noise
    return values

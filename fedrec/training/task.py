"""What is trained: the model, its personalization and the local training, as one value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal
from zlib import crc32

import numpy as np

from fedrec.errors import ConfigError
from fedrec.models.base import Model
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
        half: What the strategy asks of the client.
    """

    model: Model
    personalization: Personalization
    train: Train
    seed: int
    protocol: Literal["clean", "legacy"] = "clean"
    dtype: str = "float32"
    half: ClientRule = field(default_factory=ClientRule)

    def specs(self) -> Mapping[str, ParamSpec]:
        """All parameters by name: the model's, the personalization's, the optimiser's.

        Raises:
            ConfigError: If the model declares no item table, or two parts use one name.
        """
        specs = dict(self.model.params())
        if "item" not in specs or specs["item"].role != "item_rows":
            raise ConfigError("model: params() must declare 'item' with the role item_rows")
        for name, spec in self.personalization.state(specs["item"].shape[0]).items():
            if name in specs:
                raise ConfigError(f"personalization and model both declare '{name}'")
            specs[name] = spec
        return specs

    def globals(self) -> Mapping[str, ParamSpec]:
        """What is shared: item tables and dense global parameters."""
        return {n: s for n, s in self.specs().items() if s.role in ("item_rows", "global")}

    def travels(self) -> tuple[str, ...]:
        """The names of all that may be on the wire."""
        return (*self.globals(), *self.half.travels(self.globals()))

    def rate(self, name: str) -> float:
        """Return the step size of a shared parameter."""
        optimizers = self.train.optimizers
        return (optimizers.item if name in self.tables() else optimizers.shared).lr

    def tables(self) -> tuple[str, ...]:
        """The names of the item tables."""
        return tuple(n for n, s in self.specs().items() if s.role == "item_rows")

    def dense(self) -> tuple[str, ...]:
        """The names of the dense global parameters."""
        return tuple(n for n, s in self.specs().items() if s.role == "global")

    def locals(self) -> Mapping[str, ParamSpec]:
        """What stays: local parameters, their optimiser's state, what the strategy remembers."""
        local = {n: s for n, s in self.specs().items() if s.role == "local"}
        if self.train.optimizers.private.name == "adam":
            for name, spec in list(local.items()):
                if spec.trainable:
                    moment = replace(spec, init_std=0.0, init_value=0.0, trainable=False)
                    local[f"{name}/first"] = moment
                    local[f"{name}/second"] = moment
                    local[f"{name}/steps"] = replace(moment, shape=())
        return {**local, **self.half.state(self.globals())}

    def initial_globals(self, n_items: int) -> Params:
        """The global parameters before the first round, float32, the same for a seed everywhere."""
        values = {}
        for name, spec in self.globals().items():
            owners = np.arange(n_items if spec.role == "item_rows" else 1, dtype=np.int64)
            drawn = _draw(self.seed, Purpose.INIT_GLOBAL, name, spec, owners)
            values[name] = drawn if spec.role == "item_rows" else drawn[0]
        return values


def has_machine_code(task: ClientTask) -> bool:
    """Whether `fedrec.training.executors.compiled` covers a method.

    It covers matrix factorisation and the linear head, alone and with PLGC, under strategies that
    ask for no more than a proximal term.
    """
    known = type(task.model) in (MatrixFactorization, PFedRec)
    return known and task.half.compiled and type(task.personalization) in (NoPersonalization, PLGC)


def initial_local(seed: int, name: str, spec: ParamSpec, owners: IntArray) -> FloatArray:
    """The first values of a local parameter.

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

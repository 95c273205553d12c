"""What is trained: the model, its personalization and the local training, as one value."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import prod
from typing import Literal, TypeAlias

import numpy as np
import torch

from fedrec.compute.device import Resources
from fedrec.data.catalogue import Catalogue
from fedrec.errors import ConfigError, require
from fedrec.models.base import Model
from fedrec.models.check import untrained
from fedrec.models.module import Network
from fedrec.personalization.base import Personalization, Phase
from fedrec.seeds import Purpose
from fedrec.training.client_rule import ClientRule
from fedrec.training.declarations import (
    Declared,
    declared,
    frozen_rows,
    name_in_messages,
)
from fedrec.training.initial_values import draw, initial_local
from fedrec.training.numba_coverage import not_in_numba
from fedrec.training.optimizers import Optimizers
from fedrec.training.settings import Train
from fedrec.transforms.base import Transform
from fedrec.transforms.pipeline import memory_specs
from fedrec.types import Axis, FloatArray, IntArray, Params, ParamSpec

MEASURES = ("loss_before",)
"""What a strategy may ask clients to measure beside the loss while they train, by the name of the
metric: the mean loss per example at the values that they received, over the draws of the first
local epoch."""

Executor: TypeAlias = Literal["numba", "flat", "vmap", "loop"]
"""``flat``, ``loop`` and ``numba`` give the same bits whichever clients are trained together;
``vmap`` gives them to rounding."""


@dataclass(frozen=True)
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
        payload: Who receives values of its own, see `strategies.base.Strategy`.
        measures: What clients measure for the strategy, see `MEASURES`.
        transforms: What is done to its update.
        several_users: Whether a client may hold more than one user.
        catalogue: The items; without any for a model that does not look at them.
        when: Whether it is trained in a round, or at the end of the run.
        resources: What this process computes with.
    """

    model: Model
    personalization: Personalization
    train: Train
    seed: int
    protocol: Literal["clean", "legacy"] = "clean"
    dtype: str = "float32"
    client_rule: ClientRule = field(default_factory=ClientRule)
    payload: Literal["shared", "group", "client"] = "shared"
    measures: tuple[str, ...] = ()
    transforms: tuple[Transform, ...] = ()
    several_users: bool = False
    catalogue: Catalogue = field(default_factory=Catalogue.empty)
    when: Literal["round", "end"] = "round"
    resources: Resources = field(default_factory=Resources)

    def __post_init__(self) -> None:
        """Check what is declared.

        Raises:
            ConfigError: If a declaration makes no sense, two parts use one name, or an option does
                not fit the model.
        """
        _ = self._declared
        if self.train.micro_batch is not None and not self.model.sums_over_pairs:
            raise ConfigError(
                f"train.micro_batch: the loss of {type(self.model).__name__} compares all pairs of "
                "a step, so it cannot be added up from parts; leave micro_batch out, or lower "
                "train.batch_size"
            )
        if self.client_rule.needs_sgd:
            self._check_sgd()
        if unknown := set(self.measures) - set(MEASURES):
            raise ConfigError(
                f"strategy: asks clients to measure {', '.join(sorted(unknown))}, expected one of "
                f"{', '.join(MEASURES)}"
            )

    def _check_sgd(self) -> None:
        """Check that a client rule that counts on plain SGD gets it."""
        optimizers, unsuitable = self.train.optimizers, ""
        for group in ("item", "shared"):
            optimizer = getattr(optimizers, group)
            if not optimizer.plain:
                options = ("name", "momentum", "weight_decay")
                written = ", ".join(f"{option}: {getattr(optimizer, option)}" for option in options)
                unsuitable = f"train.optimizers.{group} is {written}"
        if self.train.schedule.name == "wsd" and self.train.schedule.floor == 0:
            unsuitable = "train.schedule.floor is 0"
        if unsuitable:
            raise ConfigError(
                f"strategy: its clients need plain SGD with rates above 0 for what is shared, but "
                f"{unsuitable}; change that or take another strategy"
            )

    @cached_property
    def _declared(self) -> Declared:
        return declared(self.model, self.personalization, self.catalogue, self.seed, self.dtype)

    @cached_property
    def _locals(self) -> Mapping[str, ParamSpec]:
        private = {name: self.specs()[name] for name in self.private()}
        for name in self.private():
            if private[name].trainable:
                like = replace(private[name], init_std=0.0, init_value=0.0, trainable=False)
                like = replace(like, values=None)
                for key in self.remembered(name):
                    scalar = key == "steps"
                    private[f"{name}/{key}"] = replace(like, shape=()) if scalar else like
        rule = self.client_rule.private(self.shared_specs())
        return {**private, **rule, **memory_specs(self.transforms, self.shared_specs())}

    @cached_property
    def resources_used(self) -> Resources:
        """Return what it computes with: the CPU, in float32, for what is ``flat`` and for numba."""
        if self.executor() in ("vmap", "loop"):
            return self.resources
        return replace(self.resources, device="cpu", precision="float32")

    @contextmanager
    def computing(self) -> Iterator[None]:
        """Compute on the device: what is created lies there, and so does the module."""
        if self.network is not None:
            self.network.move(self.resources_used.device)
        with self.resources_used.computing():
            yield

    def executor(self) -> Executor:
        """Return who computes it: numba where it may, else what the model declares.

        Raises:
            ConfigError: If numba is asked for what it does not cover, or the model looks at the
                order of items but is ``flat``.
            MissingExtra: If numba is asked for and not installed.
        """
        backend, model = self.train.backend, self.model
        if model.execution == "flat" and model.window is not None:
            raise ConfigError(
                f"model: {type(model).__name__} has a window but is 'flat'; declare "
                "execution = 'vmap' or 'loop'"
            )
        uncovered = not_in_numba(self)
        if backend == "numba" and uncovered:
            raise ConfigError(
                f"train.backend: numba does not cover {uncovered}; write 'auto' or 'torch'"
            )
        if backend == "torch" or uncovered:
            return model.execution
        require("numba", "which train.backend: torch does without")
        return "numba"

    def specs(self) -> Mapping[str, ParamSpec]:
        """Return the parameters of the model and the personalization, by name."""
        return self._specs

    @cached_property
    def _specs(self) -> Mapping[str, ParamSpec]:
        copies = self.copies()
        return {
            name: spec
            for name, spec in self._declared.specs.items()
            if name in copies or name not in self._declared.personal.copies
        }

    def copies(self) -> Mapping[str, str]:
        """Return the name of each copy that clients have of a parameter, and the parameter's.

        Before the end there are those that rounds train.
        """
        return self._copies

    @cached_property
    def _copies(self) -> Mapping[str, str]:
        copies = self._declared.personal.copies
        if self.when == "end":
            return copies
        phases = (phase for phase in self._declared.phases if phase.when == "round")
        trained = {name for phase in phases for name in phase.parameters or ()}
        return {name: original for name, original in copies.items() if name in trained}

    @cached_property
    def phases(self) -> tuple[Phase, ...]:
        """The phases of a round, or of the end, with their parameters and epochs."""
        epochs = self.train.local_epochs
        return tuple(
            replace(phase, epochs=epochs) if phase.epochs is None else phase
            for phase in self._declared.phases
            if phase.when == self.when and phase.epochs != 0
        )

    @cached_property
    def epochs(self) -> Mapping[int, Phase]:
        """The phase of each local epoch, by the number of the epoch; the end counts on."""
        before = 0 if self.when == "round" else len(replace(self, when="round").epochs)
        epochs = [phase for phase in self.phases for _ in range(phase.epochs or 0)]
        return dict(enumerate(epochs, start=before))

    @property
    def shared_epochs(self) -> int:
        """Return how many local epochs of a round train something shared."""
        shared = {name for name, spec in self.specs().items() if spec.scope == "shared"}
        return sum(not shared.isdisjoint(each.parameters or ()) for each in self.epochs.values())

    @property
    def counts_local_epochs(self) -> bool:
        """Whether the setting ``train.local_epochs`` says how long a phase is."""
        return any(phase.epochs is None for phase in self._declared.phases)

    def at_end(self) -> "ClientTask":
        """Return what clients compute at the end of a run: no update leaves them."""
        # That the rounds are to be numba's says nothing of the end, which numba does not cover.
        backend = "auto" if self.train.backend == "numba" else self.train.backend
        train = self.train.model_copy(update={"backend": backend})
        return replace(
            self, when="end", client_rule=ClientRule(), measures=(), transforms=(), train=train
        )

    def phases_of(self, name: str) -> list[Phase]:
        """Return the phases that train a parameter."""
        return [phase for phase in self.phases if name in (phase.parameters or ())]

    def steps_as(self, name: str) -> ParamSpec:
        """Return the declaration that says which optimizer steps a parameter: a copy's original."""
        return self.specs()[self.copies().get(name, name)]

    def remembered(self, name: str) -> tuple[str, ...]:
        """Return what the client's optimizer remembers of a private parameter between rounds."""
        steps_itself = name in self.personalization.moves
        if steps_itself or self.steps_as(name).scope != "private":
            return ()
        return self.train.optimizers.private.state

    def initial_private(self, name: str, owners: IntArray, n_items: int) -> FloatArray:
        """Return the first values of a private parameter, float32 [n, *shape].

        Args:
            name: Of `locals`.
            owners: int64 [n], the ids of its owners, as `fedrec.training.draws.Layout` has them.
            n_items: Size of the catalogue.
        """
        spec, original = self.stored_specs()[name], self.copies().get(name, name)
        if original not in self._declared.sent:
            return initial_local(self.seed, original, spec, owners)
        at = owners % n_items if spec.axis == "positive" else 0 * owners
        drawn, index = np.unique(at, return_inverse=True)
        return draw(self.seed, Purpose.INIT_GLOBAL, original, spec, drawn)[index]

    @property
    def network(self) -> Network | None:
        """Return what the model built; None for a model without a module."""
        return self._declared.network

    @property
    def weights(self) -> str:
        """Return the hash of the weights that stay frozen; "" for a model without any."""
        return "" if self.network is None else self.network.frozen_hash

    @property
    def needs_tables(self) -> bool:
        """Return whether training looks at all rows of what a client received."""
        form = self.personalization
        encodes = self.mixes_vectors and form.needs_frozen_items
        return encodes or form.overrides("unit_item_vectors")

    @property
    def width(self) -> int:
        """Return the length of an item vector."""
        return self._declared.width

    def shared_specs(self) -> Mapping[str, ParamSpec]:
        """Return what is shared: item tables and dense parameters."""
        return {n: s for n, s in self.specs().items() if s.scope == "shared"}

    @property
    def personalized(self) -> str:
        """Return what messages call the personalization."""
        return name_in_messages(self.personalization)

    def untrained(self) -> list[str]:
        """Return a line for each trainable parameter that no score, or loss, depends on."""
        with self.computing():
            return untrained(self.model, self._declared.personal.specs, self.network)

    def travels(self) -> tuple[str, ...]:
        """Return the names of all that may be on the wire."""
        return (*self.shared_specs(), *self.client_rule.travels(self.shared_specs()))

    def optimizers(self, round: int) -> Optimizers:
        """Return the optimizers with the rates of a round."""
        return self.train.optimizers.scaled(self.train.schedule.factor(round))

    def tables(self) -> tuple[str, ...]:
        """Return the names of the item tables."""
        return tuple(n for n, s in self.shared_specs().items() if s.axis == "item")

    def frozen(self) -> tuple[str, ...]:
        """Return the names of the features of items that the model uses."""
        return tuple(n for n, s in self.specs().items() if s.scope == "frozen")

    @cached_property
    def frozen_tables(self) -> Mapping[str, torch.Tensor]:
        """Return those features, float [n_items, *shape]."""
        kind = getattr(torch, self.dtype)
        rows = {name: frozen_rows(self.catalogue, name) for name in self.frozen()}
        return {
            n: torch.tensor(v, dtype=kind, device=self.resources_used.device)
            for n, v in rows.items()
        }

    @property
    def encodes(self) -> bool:
        """Return whether item vectors are more than rows of the item table."""
        return self.model.overrides("item_vectors") or "item" not in self.specs()

    @cached_property
    def own_encoder(self) -> tuple[str, ...]:
        """The dense parameters of item vectors that became private: each client has its own."""
        personal = self._declared.personal
        return tuple(n for n in personal.became_private if n in personal.item_vectors)

    @cached_property
    def copied_encoder(self) -> bool:
        """Whether clients have copies of dense parameters that item vectors depend on."""
        encoding, specs = self._declared.personal.item_vectors, self.specs()
        copied = self.copies().values()
        return any(name in encoding and specs[name].axis != "item" for name in copied)

    def dense(self) -> tuple[str, ...]:
        """Return the names of the dense shared parameters."""
        return tuple(n for n, s in self.specs().items() if s.axis is None)

    @property
    def mixes_vectors(self) -> bool:
        """Return whether the personalization mixes item vectors, not rows of the item table."""
        return self.encodes and self.personalization.mixes == "vectors"

    def size(self, *names: str) -> int:
        """Return how many values some parameters have, of each owner."""
        return sum(prod(self.specs()[name].shape) for name in names)

    def private(self) -> tuple[str, ...]:
        """Return the names of the private parameters that are declared."""
        return tuple(n for n, s in self.specs().items() if s.scope == "private")

    @property
    def trains_private(self) -> bool:
        """Return whether a private parameter is trained."""
        return any(spec.scope == "private" and spec.trainable for spec in self.specs().values())

    def of_model(self, axis: Axis) -> list[str]:
        """Return the names of the model's private parameters of an axis."""
        others = {*self.personalization_params(), *self.copies()}
        private = [name for name in self.private() if name not in others]
        return [name for name in private if self.specs()[name].axis == axis]

    def personalization_params(self) -> tuple[str, ...]:
        """Return the names of the personalization's own, without copies."""
        return self._declared.added

    def stored_specs(self) -> Mapping[str, ParamSpec]:
        """Return what stays: private parameters, their optimizer's state, the rule's memory."""
        return self._locals

    def initial_globals(self, n_items: int) -> Params:
        """Return the shared parameters before the first round, float32, equal everywhere."""
        values = {}
        for name, spec in self.shared_specs().items():
            owners = np.arange(n_items if spec.axis == "item" else 1, dtype=np.int64)
            drawn = draw(self.seed, Purpose.INIT_GLOBAL, name, spec, owners)
            values[name] = drawn if spec.axis == "item" else drawn[0]
        return values

"""The experiment: what is run, as one frozen value, read from YAML or built in Python."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    BeforeValidator,
    Field,
    PlainSerializer,
    ValidationError,
    field_validator,
    model_validator,
)

from fedrec.data.base import DataSet
from fedrec.documents import override, read_document
from fedrec.errors import ConfigError, did_you_mean
from fedrec.faults import SectionFaults, explain, shown
from fedrec.metrics.base import Metric, parse_metric
from fedrec.models.base import Model, Yardstick
from fedrec.personalization.base import Personalization
from fedrec.plugins import Plugin, Section, find_beside, lookup, name_of, table

__all__ = [
    "Clients",
    "Engine",
    "Evaluate",
    "Experiment",
    "LocalOptimizer",
    "Rounds",
    "Train",
    "load_experiment",
]


def _resolver(kind: str, default: str = "", *bases: type[Plugin]) -> BeforeValidator:
    def resolve(value: Any) -> Any:
        if isinstance(value, Plugin):
            return value
        if isinstance(value, str):
            value = {"name": value}
        if not isinstance(value, Mapping):
            raise ValueError(f"expected a mapping with a 'name', got {shown(value)}")
        name = value.get("name", default)
        if not name:
            raise ValueError(f"the key 'name' is missing{did_you_mean('', table(kind))}")
        if not isinstance(name, str):
            raise ValueError(f"name: expected text, got {shown(name)}")
        found = lookup(kind, name)
        if bases and not issubclass(found, bases):
            named = " or ".join(f"{base.__module__}.{base.__name__}" for base in bases)
            raise ValueError(f"{name} is not one of the {kind}; expected a subclass of {named}")
        try:
            return found.model_validate({key: item for key, item in value.items() if key != "name"})
        except ValidationError as error:
            raise SectionFaults(explain(error)) from error

    return BeforeValidator(resolve)


def _dumper(kind: str) -> PlainSerializer:
    def dump(plugin: Plugin) -> dict[str, Any]:
        return {"name": name_of(kind, plugin), **plugin.model_dump(mode="json")}

    return PlainSerializer(dump)


class Clients(Section):
    """Who is a client.

    Args:
        by: ``user`` (one user each), ``random`` (``count`` random groups), ``column`` (users that
            share the value of a user column) or ``taste`` (``count`` groups of similar users,
            computed from the train items alone).
        count: number of clients, for ``random`` and ``taste``.
        column: name of the user column, for ``column``.
        seed: of the grouping; not the run's seed, so that runs share their clients.
    """

    by: Literal["user", "random", "column", "taste"] = "user"
    count: int | None = Field(None, ge=1)
    column: str | None = None
    seed: int = Field(0, ge=0)

    @model_validator(mode="after")
    def _complete(self) -> Clients:
        if self.by in ("random", "taste") and self.count is None:
            raise ValueError(f"by: {self.by} needs 'count', the number of clients")
        if self.by == "column" and self.column is None:
            raise ValueError("by: column needs 'column', the name of a user column")
        return self


class LocalOptimizer(Section):
    """The private optimiser of the local parameters. Its state never leaves the client.

    Args:
        name: ``adam`` or ``sgd``.
        lr: step size.
        beta1: decay of Adam's first moment.
        beta2: decay of Adam's second moment.
        epsilon: floor of Adam's denominator.
    """

    name: Literal["adam", "sgd"] = "adam"
    lr: float = Field(0.02, gt=0)
    beta1: float = Field(0.9, ge=0, lt=1)
    beta2: float = Field(0.999, ge=0, lt=1)
    epsilon: float = Field(1e-8, gt=0)


class Train(Section):
    """Training on the client.

    Args:
        loss: ``bce`` on positives and sampled negatives, or ``bpr`` on pairs of them.
        reduction: ``sum`` or ``mean`` over the rows of a batch.
        negatives: sampled negatives per positive, drawn anew in each local epoch.
        negative_sampling: ``uniform``, or ``popularity`` (in proportion to train count + 1).
        local_epochs: passes over the client's positives in one round.
        batch_size: positives per step (with their negatives), or ``full``.
        item_lr: SGD step size of all global parameters.
        local_optimizer: optimiser of the local parameters.
        kernel: ``compiled``, ``reference`` (torch), or ``auto``: compiled for what it covers. Both
            give the same values to rounding, not to the bit.
        weight_decay: w in w/2 * n * ||p||^2 for each trainable local parameter of a user, n the
            user's positives in the batch.
    """

    loss: Literal["bce", "bpr"] = "bce"
    reduction: Literal["sum", "mean"] = "sum"
    negatives: int = Field(4, ge=1)
    negative_sampling: Literal["uniform", "popularity"] = "uniform"
    local_epochs: int = Field(1, ge=1)
    batch_size: int | Literal["full"] = "full"
    item_lr: float = Field(1.0, gt=0)
    local_optimizer: LocalOptimizer = LocalOptimizer()
    weight_decay: float = Field(0.0, ge=0)
    kernel: Literal["auto", "compiled", "reference"] = "auto"

    @field_validator("batch_size")
    @classmethod
    def _positive(cls, value: int | str) -> int | str:
        if isinstance(value, int) and value < 1:
            raise ValueError("expected a number from 1, or 'full'")
        return value


class Rounds(Section):
    """How long, and with whom.

    Args:
        count: rounds at most.
        cohort_size: clients in a round, or ``all``.
        cohort_fraction: the same as a share of all clients; excludes ``cohort_size``.
        patience: stop after this many evaluations in a row without a better validation metric;
            None: never.
        max_failures: clients that may fail in a round before the run stops.
    """

    count: int = Field(100, ge=1)
    cohort_size: int | Literal["all"] = "all"
    cohort_fraction: float | None = Field(None, gt=0, le=1)
    patience: int | None = Field(None, ge=1)
    max_failures: int = Field(0, ge=0)

    @field_validator("cohort_size")
    @classmethod
    def _positive(cls, value: int | str) -> int | str:
        if isinstance(value, int) and value < 1:
            raise ValueError("expected a number from 1, or 'all'")
        return value

    @model_validator(mode="after")
    def _one_of(self) -> Rounds:
        if self.cohort_fraction is not None and self.cohort_size != "all":
            raise ValueError("cohort_fraction: excludes cohort_size; give one of them")
        return self


class Evaluate(Section):
    """When and how the clients rank the catalogue.

    Args:
        every: rounds between evaluations; the last round is always evaluated.
        metrics: such as ``ndcg@10``, ``hit_rate@10``, ``recall@20``, ``mrr``, ``coverage@10``.
            The first chooses the round, on validation.
        block: users whose scores are computed together, or ``auto``: as many as 16 MiB of scores
            hold, from 64. Changes no bit of the result and bounds the memory of each process:
            block x items x 4 bytes for a model by itself, about four times that for the three
            views of PLGC (its kernel form comes out faster with larger blocks).
    """

    every: int = Field(5, ge=1)
    metrics: tuple[str, ...] = (
        "ndcg@10",
        "hit_rate@10",
        "recall@10",
        "mrr",
        "coverage@10",
        "gini@10",
    )
    block: int | Literal["auto"] = "auto"

    @field_validator("block")
    @classmethod
    def _positive(cls, value: int | str) -> int | str:
        if isinstance(value, int) and value < 1:
            raise ValueError("expected a number from 1, or 'auto'")
        return value

    @field_validator("metrics")
    @classmethod
    def _known(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not value:
            raise ValueError("expected at least one metric; the first chooses the round")
        parsed = [parse_metric(label) for label in value]
        if parsed[0].kind != "per_user":
            raise ValueError(
                f"the first metric chooses the round and must be per user, not {value[0]}"
            )
        return value

    def parsed(self) -> tuple[Metric, ...]:
        """The metrics as values."""
        return tuple(parse_metric(label) for label in self.metrics)


class Engine(Section):
    """What the run is executed on. No choice here changes a bit of the result.

    There is one exception: models that `torch.func.vmap` computes keep it to rounding.

    Args:
        name: ``ray``, ``serial``, ``flower``, or ``auto``: Ray where it is installed.
        workers: processes, or ``auto``: one per core.
        nodes: logical nodes among which the clients are dealt, or ``auto``: one per worker.
        address: of a running Ray cluster (``ray`` only); None starts one on this machine.
        gpus_per_worker: share of a GPU that Ray reserves for each worker.
        chunk: clients trained in one computation.
    """

    name: Literal["auto", "serial", "ray", "flower"] = "auto"
    workers: int | Literal["auto"] = "auto"
    nodes: int | Literal["auto"] = "auto"
    address: str | None = None
    gpus_per_worker: float = Field(0.0, ge=0)
    chunk: int = Field(64, ge=1)

    @field_validator("workers", "nodes")
    @classmethod
    def _positive(cls, value: int | str) -> int | str:
        if isinstance(value, int) and value < 1:
            raise ValueError("expected a number from 1, or 'auto'")
        return value


class Experiment(Section):
    """One experiment, completely.

    Example:
        >>> Experiment.model_validate({"data": {"name": "synthetic", "users": 50}}).seed
        0
    """

    seed: int = Field(0, ge=0, lt=2**63)
    data: Annotated[DataSet, _resolver("data", "", DataSet), _dumper("data")]
    clients: Clients = Clients()
    model: Annotated[
        Model | Yardstick, _resolver("models", "mf", Model, Yardstick), _dumper("models")
    ] = Field(default_factory=lambda: lookup("models", "mf")(), validate_default=True)
    train: Train = Train()
    personalization: Annotated[
        Personalization,
        _resolver("personalization", "none", Personalization),
        _dumper("personalization"),
    ] = Field(default_factory=lambda: lookup("personalization", "none")(), validate_default=True)
    strategy: Annotated[Plugin, _resolver("strategies", "fedavg"), _dumper("strategies")] = Field(
        default_factory=lambda: lookup("strategies", "fedavg")(), validate_default=True
    )
    rounds: Rounds = Rounds()
    evaluate: Evaluate = Evaluate()
    engine: Engine = Engine()

    def to_yaml(self) -> str:
        """The experiment with every default written out; `load_experiment` reads it back."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def load_experiment(source: str | Path | Mapping[str, Any], sets: Sequence[str] = ()) -> Experiment:
    """Read an experiment.

    Args:
        source: Path of a YAML file, or its content as a mapping. Relative paths inside stay
            relative to the working folder. A plug-in ``module:Class`` is found beside the file and
            in the working folder too.
        sets: Overrides as ``dotted.key=value``; the value is YAML.

    Raises:
        ConfigError: One line per fault: the field, what came, what was expected.
    """
    label = "experiment" if isinstance(source, Mapping) else str(source)
    document = dict(source) if isinstance(source, Mapping) else read_document(Path(source))
    for assignment in sets:
        document = override(document, assignment)
    beside = [] if isinstance(source, Mapping) else [Path(source).parent]
    for section in document.values():
        name = section.get("name") if isinstance(section, Mapping) else section
        if isinstance(name, str):
            find_beside(name, [*beside, Path.cwd()])
    try:
        return Experiment.model_validate(document)
    except ValidationError as error:
        raise ConfigError(f"{label}: " + "; ".join(map(str, explain(error)))) from error

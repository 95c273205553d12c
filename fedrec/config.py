"""The experiment: what is run, as one frozen value, read from YAML or built in Python."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

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
from fedrec.errors import ConfigError, did_you_mean
from fedrec.metrics.base import Metric, parse_metric
from fedrec.models.base import Model, Yardstick
from fedrec.personalization.base import Personalization
from fedrec.plugins import Plugin, Section, lookup, name_of

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

T = TypeVar("T", bound=Plugin)


class _Faults(ValueError):
    """The faults of a plug-in's fields; raised as they are, pydantic would lose their section."""

    def __init__(self, lines: Sequence[str]) -> None:
        super().__init__("; ".join(lines))
        self.lines = tuple(lines)


def _resolver(kind: str, default: str = "") -> BeforeValidator:
    def resolve(value: Any) -> Any:
        if isinstance(value, Plugin):
            return value
        if isinstance(value, str):
            value = {"name": value}
        if not isinstance(value, Mapping):
            raise ValueError(f"expected a mapping with a 'name', got {value!r}")
        if not value.get("name", default):
            raise ValueError("the key 'name' is missing")
        found = lookup(kind, str(value.get("name", default)))
        try:
            return found.model_validate({key: item for key, item in value.items() if key != "name"})
        except ValidationError as error:
            raise _Faults(explain(error)) from error

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

    @model_validator(mode="after")
    def _one_of(self) -> Rounds:
        if self.cohort_fraction is not None and self.cohort_size != "all":
            raise ValueError("give cohort_size or cohort_fraction, not both")
        if isinstance(self.cohort_size, int) and self.cohort_size < 1:
            raise ValueError("cohort_size: expected a number from 1, or 'all'")
        return self


class Evaluate(Section):
    """When and how the clients rank the catalogue.

    Args:
        every: rounds between evaluations; the last round is always evaluated.
        metrics: such as ``ndcg@10``, ``hit_rate@10``, ``recall@20``, ``mrr``, ``coverage@10``.
            The first chooses the round, on validation.
        block: users whose scores are computed together; bounds the memory (block x items floats).
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
    block: int = Field(256, ge=1)

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
    data: Annotated[DataSet, _resolver("data"), _dumper("data")]
    clients: Clients = Clients()
    model: Annotated[Model | Yardstick, _resolver("models", "mf"), _dumper("models")] = Field(
        default_factory=lambda: lookup("models", "mf")(), validate_default=True
    )
    train: Train = Train()
    personalization: Annotated[
        Personalization, _resolver("personalization", "none"), _dumper("personalization")
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
            relative to the working folder.
        sets: Overrides as ``dotted.key=value``; the value is YAML.

    Raises:
        ConfigError: One line per fault: the field, what came, what was expected.
    """
    label = "experiment" if isinstance(source, Mapping) else str(source)
    document = dict(source) if isinstance(source, Mapping) else _read_yaml(Path(source))
    for override in sets:
        document = _override(document, override)
    try:
        return Experiment.model_validate(document)
    except ValidationError as error:
        raise ConfigError(f"{label}: " + "; ".join(explain(error))) from error


def explain(error: ValidationError) -> list[str]:
    """One phrase per fault: the dotted field, what came, what was expected."""
    lines = []
    for fault in error.errors():
        inner = fault.get("ctx", {}).get("error")
        where = (
            ".".join(str(part) for part in fault["loc"] if not _is_union_tag(part)) or "experiment"
        )
        if isinstance(inner, _Faults):
            lines += [f"{where}.{line}" for line in inner.lines]
        elif fault["type"] == "extra_forbidden":
            lines.append(f"{where}: unknown key{_nearest(error.title, fault['loc'])}")
        elif fault["type"] == "missing":
            lines.append(f"{where}: is missing")
        else:
            message = fault["msg"].removeprefix("Value error, ")
            came = fault["input"]
            shown = f", got {came!r}" if isinstance(came, str | int | float | bool | None) else ""
            lines.append(f"{where}: {message}{shown}")
    return list(dict.fromkeys(lines))


def _is_union_tag(part: object) -> bool:
    return isinstance(part, str) and (
        part == "int" or part.startswith(("literal[", "function-", "constrained-"))
    )


def _nearest(title: str, where: Sequence[int | str]) -> str:
    named = (known for known in _all_sections(Section) if known.__name__ == title)
    section: Any = next(named, None)
    for part in where[:-1]:
        field = section.model_fields.get(str(part)) if section is not None else None
        section = field.annotation if field is not None else None
        if not (isinstance(section, type) and issubclass(section, Section)):
            return ""
    return did_you_mean(str(where[-1]), section.model_fields) if section is not None else ""


def _all_sections(root: type[Section]) -> list[type[Section]]:
    below = root.__subclasses__()
    return below + [deeper for each in below for deeper in _all_sections(each)]


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise ConfigError(
            f"{path}: no such file; give the path of an experiment in YAML"
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error
    try:
        document = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f"line {mark.line + 1}: " if mark is not None else ""
        problem = getattr(error, "problem", None) or str(error)
        raise ConfigError(f"{path}: {line}not valid YAML: {problem}") from error
    if not isinstance(document, dict):
        raise ConfigError(f"{path}: expected a mapping with sections such as 'data' and 'model'")
    return document


def _override(document: Mapping[str, Any], assignment: str) -> dict[str, Any]:
    key, equals, text = assignment.partition("=")
    if not equals or not key:
        raise ConfigError(f"--set {assignment}: expected dotted.key=value")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"--set {assignment}: the value is not valid YAML") from error
    return _assign(document, key.split("."), value, assignment)


def _assign(
    document: Mapping[str, Any], path: Sequence[str], value: Any, assignment: str
) -> dict[str, Any]:
    head, rest = path[0], path[1:]
    changed = dict(document)
    if not rest:
        changed[head] = value
        return changed
    below = changed.get(head, {})
    if isinstance(below, str):
        below = {"name": below}
    if not isinstance(below, Mapping):
        raise ConfigError(f"--set {assignment}: '{head}' is a value, it has no keys")
    changed[head] = _assign(below, rest, value, assignment)
    return changed

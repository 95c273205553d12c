"""Strategies of Flower, unmodified: they are given what Flower's nodes would send them."""

import inspect
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any, ClassVar, Literal, NamedTuple, Self

import numpy as np
from pydantic import Field, field_validator, model_validator

from fedrec.aggregation.fixed_point import from_fixed
from fedrec.aggregation.reduce import Summing, keep_each, mean_update, metric_sums, reduce_sums
from fedrec.aggregation.update import Aggregate, Aggregates, UpdateBatch
from fedrec.compute.context import RoundContext
from fedrec.errors import ConfigError, FedRecError, did_you_mean
from fedrec.imports import find_reference
from fedrec.types import FloatArray, Params, State
from strategies.attributes import attributes_of, state_of
from strategies.base import Strategy

LOG = logging.getLogger("fedrec")

# Options of Flower's strategies that change nothing here, and why.
_SAMPLING = "rounds.cohort_size and rounds.selection say which clients take part"
_EVALUATION = "every user ranks, see the section evaluate"
_RECORDS = "fedrec makes the records"
_METRICS = "fedrec measures the training loss itself"
_UNUSED = {
    "fraction_train": _SAMPLING,
    "min_train_nodes": _SAMPLING,
    "min_available_nodes": _SAMPLING,
    "fraction_evaluate": _EVALUATION,
    "min_evaluate_nodes": _EVALUATION,
    "evaluate_metrics_aggr_fn": _EVALUATION,
    "train_metrics_aggr_fn": _METRICS,
    "arrayrecord_key": _RECORDS,
    "configrecord_key": _RECORDS,
    "eta_l": "train.optimizers says how clients step",
}
# With these, `configure_train` neither waits for nodes nor draws any.
_NO_SAMPLING = {"fraction_train": 1.0, "min_train_nodes": 0, "min_available_nodes": 0}
# What an object may hold without it being part of its state.
_CODE = (BuiltinFunctionType, FunctionType, MethodType, ModuleType, logging.Logger, type)
_SKIPPED = "fedrec/skipped"


class _Reply(NamedTuple):
    """What a client or a node has trained: its number, arrays, train examples and mean loss."""

    number: int
    arrays: Params
    examples: float
    loss: float

    def message(self, round: int) -> Any:
        """Return it as the message that Flower's server would receive."""
        from flwr.app import DEFAULT_TTL, Message, MessageType, Metadata, MetricRecord, RecordDict

        numbers: Any = {"num-examples": int(self.examples), "train_loss": float(self.loss)}
        content = RecordDict({"arrays": _record(self.arrays), "metrics": MetricRecord(numbers)})
        # Node 0 is the server.
        group, node, kind = str(round), self.number + 1, MessageType.TRAIN
        about = Metadata(1, "", node, 0, "", group, 0.0, DEFAULT_TTL, kind)
        make: Any = Message  # a reply to a message would ask who this process is in Flower
        return make(content=content, metadata=about)


class Flower(Strategy):
    r"""A strategy written for Flower, as it is: ``aggregate_train`` makes the next parameters.

    It is called with one reply per client, ordered by client: all shared parameters as dense
    arrays, the client's change added to what the server sent, with the metrics ``num-examples`` and
    ``train_loss``. Such a strategy cannot tell a row that a client did not touch from one that it
    left as it was. In a mean, a median or a distance between clients all clients that never met an
    item vote for no change of its row; a trimmed mean or a median therefore moves only the items
    that most clients touch. fedrec's own aggregations work on the clients that touched a row. Of m
    clients m copies of all parameters are held at once.

    What the strategy keeps in attributes of ``self`` lasts from round to round and is part of the
    checkpoint: numbers, texts, numpy arrays and array records, in lists or dictionaries. Each round
    calls ``configure_train`` with no nodes, so that a strategy sees the parameters from which the
    clients start; which clients take part is fedrec's to say, and a strategy that has something to
    tell them is refused. Returned arrays are rounded to float32. A strategy that draws random
    numbers must derive them from the number of the round, or a run has no reproducible result.

    Args:
        of: The class, ``package.module:Class``, a subclass of
            ``flwr.serverapp.strategy.Strategy``.
        options: What the class is made with.
        unit: What a reply is of: a ``client``, or a ``node``: the mean of its clients, weighted by
            their train examples. Then the result depends on the number of nodes.

    Reference: beutel2020flower.
    """

    reference: ClassVar[str] = "beutel2020flower"
    needs: ClassVar[Literal["sums", "each"]] = "each"
    measures: ClassVar[tuple[str, ...]] = ("loss_before",)

    of: str = "flwr.serverapp.strategy:FedAvg"
    options: Mapping[str, Any] = Field(default_factory=dict)
    unit: Literal["client", "node"] = "client"

    @field_validator("of")
    @classmethod
    def _is_of_flower(cls, reference: str) -> str:
        from flwr.serverapp.strategy import Strategy as FlwrStrategy

        kind = find_reference(reference)
        if not (isinstance(kind, type) and issubclass(kind, FlwrStrategy)):
            raise ValueError(
                f"expected a subclass of flwr.serverapp.strategy.Strategy, got {reference}"
            )
        if missing := sorted(getattr(kind, "__abstractmethods__", ())):
            raise ValueError(f"{reference} does not define {', '.join(missing)}")
        return reference

    @model_validator(mode="after")
    def _options_fit(self) -> Self:
        accepted = inspect.signature(find_reference(self.of)).parameters
        open_ended = any(each.kind is each.VAR_KEYWORD for each in accepted.values())
        for name in self.options:
            if name in _UNUSED:
                raise ValueError(f"options: {name} has no effect: {_UNUSED[name]}; leave it out")
            if name not in accepted and not open_ended:
                known = did_you_mean(name, accepted.keys() - _UNUSED.keys())
                raise ValueError(f"options: {self.of} has no option '{name}'{known}")
        try:
            self._fresh()
        except Exception as error:  # whatever the class raises
            raise ValueError(f"options: {self.of}: {' '.join(str(error).split())}") from error
        return self

    def modules(self) -> tuple[str, ...]:
        """Return the module of the class; none for Flower's own, whose version a result names."""
        module = self.of.partition(":")[0]
        return () if module.partition(".")[0] == "flwr" else (module,)

    def without_effect(self, run: Any) -> list[str]:
        """Say that results depend on the number of nodes.

        Raises:
            ConfigError: If attackers, which nodes do not average, are to be in a node's mean.
        """
        if self.unit == "client":
            return []
        if run.experiment.attack is not None:
            raise ConfigError(
                "strategy.unit: node does not go with an attack, which rewrites the updates of "
                "single clients; write unit: client"
            )
        nodes = run.experiment.engine.nodes
        return [
            f"unit: node makes the result depend on the number of nodes (engine.nodes: {nodes}): "
            f"{self.of} is given the mean of each node's clients"
        ]

    @property
    def by_node(self) -> bool:
        """Whether the unit is the node."""
        return self.unit == "node"

    @property
    def sees_each(self) -> bool:
        """Whether the unit is the client."""
        return not self.by_node

    @property
    def summing(self) -> Summing | None:
        """How a node averages its clients; None where each is sent."""
        return Summing("examples") if self.by_node else None

    def reduce(self, batch: UpdateBatch) -> Aggregate:
        """Keep each client's update; sum them, weighted by examples, where the unit is a node."""
        return reduce_sums(batch, Summing("examples")) if self.by_node else keep_each(batch)

    def init(self, params: Params, context: RoundContext) -> State:
        """Return the attributes of a new instance.

        Raises:
            ConfigError: If one cannot be kept, or the strategy has something to tell the clients.
        """
        self._configure(self._fresh(), params, 1)
        return self._state(self._fresh(), {}, 0, 0)

    def apply(
        self, state: State, params: Params, aggregates: Aggregates, context: RoundContext
    ) -> tuple[State, Params]:
        """Return what the strategy makes of the replies; the parameters as they are where nothing.

        Raises:
            ConfigError: If the strategy fails, returns no array record, or keeps what a checkpoint
                cannot hold.
        """
        from flwr.app import ArrayRecord

        attributes, number = attributes_of(state), context.round
        skipped = attributes.pop(_SKIPPED)
        strategy = self._fresh()
        vars(strategy).update(attributes)
        code = state_of(vars(strategy))[1]
        self._configure(strategy, params, number)
        replies = [each.message(number) for each in self._replies(params, aggregates)]
        with self._calling("aggregate_train", number):
            arrays, _ = strategy.aggregate_train(number, replies)
        if arrays is None:
            if not skipped:
                LOG.warning(
                    f"round {number}: {self.of} returns nothing for {len(replies)} replies; the "
                    "parameters stay as they are; the result says in how many rounds"
                )
            return self._state(strategy, code, number, skipped + 1), params
        if not isinstance(arrays, ArrayRecord):
            raise ConfigError(
                f"round {number}: strategy.of: {self.of}: aggregate_train returned "
                f"{type(arrays).__name__}, expected an ArrayRecord"
            )
        after = {str(name): array.numpy().astype(np.float32) for name, array in arrays.items()}
        return self._state(strategy, code, number, skipped), after

    def notes(self, state: State) -> list[str]:
        """Say in how many rounds the strategy returned nothing."""
        skipped = attributes_of(state)[_SKIPPED]
        where = "in which the parameters stayed as they were"
        return [f"{self.of} returned nothing in {skipped} rounds, {where}"] if skipped else []

    def _fresh(self) -> Any:
        """Return an instance that asks for no nodes."""
        with _quiet_flower():
            strategy = find_reference(self.of)(**self.options)
        for name, value in _NO_SAMPLING.items():
            if hasattr(strategy, name):
                setattr(strategy, name, value)
        return strategy

    def _configure(self, strategy: Any, params: Params, round: int) -> None:
        """Let a strategy see the parameters from which the clients start.

        Raises:
            ConfigError: If it fails, or tells the clients something.
        """
        from flwr.app import ConfigRecord

        config = ConfigRecord()
        with self._calling("configure_train", round):
            list(strategy.configure_train(round, _record(params), config, _NoNodes()))
        if unread := sorted(set(config) - {"server-round"}):
            raise ConfigError(
                f"strategy.of: {self.of} tells clients '{unread[0]}', which fedrec's do not read; "
                "take one of fedrec's own strategies (fedprox has a proximal term)"
            )

    def _state(self, strategy: Any, code: Mapping[str, Any], round: int, skipped: int) -> State:
        """Return the attributes of an instance.

        Args:
            strategy: The instance.
            code: What it held before the round that a state does not hold.
            round: The round.
            skipped: Rounds in which it returned nothing.

        Raises:
            ConfigError: If an attribute cannot be kept.
        """
        state, others = state_of({**vars(strategy), _SKIPPED: skipped})
        for name, value in others.items():
            if not isinstance(value, _CODE) or code.get(name, value) is not value:
                raise ConfigError(
                    f"round {round}: strategy.of: {self.of} keeps a {type(value).__name__} as "
                    f"'{name}', which a checkpoint cannot hold; expected numbers, texts, numpy "
                    "arrays or array records, or lists or dictionaries of them"
                )
        return state

    def _replies(self, params: Params, aggregates: Mapping[int, Aggregate]) -> Iterator[_Reply]:
        """Yield what each client, or each node, has trained."""
        for node, aggregate in sorted(aggregates.items()):
            batch = aggregate.each
            if batch is None:
                change, sums = mean_update(params, aggregate, "cohort"), metric_sums([aggregate])
                arrays = {n: np.asarray(v + change[n], np.float32) for n, v in params.items()}
                weight = float(from_fixed(np.array(aggregate.weight)))
                yield _Reply(node, arrays, weight, sums["loss_before"] / aggregate.clients)
                continue
            loss = batch.metrics["loss_before"]
            for row, client in enumerate(batch.client_ids.tolist()):
                arrays = {name: np.array(value) for name, value in params.items()}
                for name, block in batch.tables.items():
                    rows = slice(*block.offsets[row : row + 2])
                    arrays[name][block.ids[rows]] += block.values[rows]
                for name, change_of in batch.dense.items():
                    arrays[name] = np.asarray(arrays[name] + change_of[row], np.float32)
                yield _Reply(client, arrays, batch.weight[row], loss[row])

    @contextmanager
    def _calling(self, method: str, round: int) -> Iterator[None]:
        """Name the strategy, the method and the round in an error."""
        try:
            with _quiet_flower():
                yield
        except FedRecError:
            raise
        except Exception as error:  # whatever a strategy raises
            text = " ".join(str(error).split()) or type(error).__name__
            raise ConfigError(f"round {round}: strategy.of: {self.of}: {method}: {text}") from error


class _NoNodes:
    """A grid without nodes. One that is asked again and again is being waited for."""

    def __init__(self) -> None:
        self._asked = 0

    def get_node_ids(self) -> list[int]:
        self._asked += 1
        if self._asked > 3:
            raise RuntimeError("it waits for nodes; fedrec chooses the clients of a round itself")
        return []


@contextmanager
def _quiet_flower() -> Iterator[None]:
    """Hold back what Flower's strategies say in every round."""
    logger = logging.getLogger("flwr")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _record(arrays: Mapping[str, FloatArray]) -> Any:
    from flwr.app import Array, ArrayRecord

    return ArrayRecord({name: Array(np.asarray(v, order="C")) for name, v in arrays.items()})

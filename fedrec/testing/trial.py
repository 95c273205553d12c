"""A small federation in which plug-ins are tried, and what its clients get in two rounds."""

from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import cache
from typing import Any, Self, TypeAlias
from zlib import crc32

import numpy as np
import torch
from numpy.typing import NDArray

from fedrec.aggregation.returned import checked_broadcast, checked_init
from fedrec.aggregation.update import Down, UpdateBatch
from fedrec.compute.context import RoundContext
from fedrec.compute.device import to_array
from fedrec.compute.operations import row_dot
from fedrec.data.catalogue import Catalogue
from fedrec.data.clients import Clients
from fedrec.data.prepare import split_of
from fedrec.data.synthetic import Synthetic
from fedrec.evaluation.scorer import UserScorer
from fedrec.models.base import Batch, Model
from fedrec.models.module import ModelParams
from fedrec.personalization.base import Personalization
from fedrec.seeds import Purpose, normal
from fedrec.training.client_rule import client_rule_of
from fedrec.training.clients import train_clients
from fedrec.training.draws import Layout
from fedrec.training.end import begin_end
from fedrec.training.settings import Train
from fedrec.training.task import ClientTask
from fedrec.types import FloatArray, IntArray, Params, ParamSpec, Shard, Split

# Per client id, every array that two rounds of training and a ranking give it.
Results: TypeAlias = Mapping[int, Mapping[str, FloatArray]]

# Adam's first step is the sign of the gradient, so also that of a rounding error.
OPTIMIZERS = {"item": {"lr": 0.05}, "shared": {"lr": 0.01}, "private": {"name": "sgd", "lr": 0.05}}
TRAIN = Train.model_validate(
    {"backend": "torch", "batch_size": 6, "local_epochs": 2, "optimizers": OPTIMIZERS}
)


def require(holds: object, otherwise: str) -> None:
    """Raise an `AssertionError` with a text where something does not hold."""
    if not holds:
        raise AssertionError(otherwise)


class Probe(Model):
    """A flat model with parameters of several kinds, to try other plug-ins with."""

    def params(self, catalogue: Catalogue) -> Mapping[str, ParamSpec]:
        """Return factors, a bias of the item and of the client, and a dense parameter."""
        return {
            "item": ParamSpec("shared", "item", (8,), init_std=0.5),
            "probe_bias": ParamSpec("shared", "item", ()),
            "probe_scale": ParamSpec("shared", None, (8,), init_value=1.0),
            "user": ParamSpec("private", "user", (8,), init_std=0.5),
            "probe_client": ParamSpec("private", "client", (), init_std=0.1),
        }

    def score(self, params: ModelParams, batch: Batch, vectors: torch.Tensor) -> torch.Tensor:
        """Return the product of the factors and the biases, float [q]."""
        product = row_dot(params["user"] * params["probe_scale"], vectors)
        return product + params["probe_bias"] + params["probe_client"]


@cache
def small_split() -> Split:
    """Return 24 users of unequal activity, dealt to 10 clients of unequal size, and 60 items."""
    data = Synthetic(users=24, items=60, taste_groups=3, rank=2, interactions_per_user=16.0)
    return split_of(data, Clients(by="random", count=10))


class _Features(dict[str, FloatArray]):
    """A feature for each name that a model asks for; some items do not have it.

    Args:
        shapes: Of a row, by name; 8 numbers where it names none.
    """

    def __init__(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        super().__init__()
        self.shapes = shapes

    def __contains__(self, name: object) -> bool:
        return True

    def __missing__(self, name: str) -> FloatArray:
        n_items, shape = small_split().n_items, self.shapes.get(name, (8,))
        salt = crc32(name.encode())
        values = normal(0, Purpose.INIT_GLOBAL, np.arange(n_items), shape, salt)
        values[~_present(n_items)] = 0
        self[name] = values
        return values


class _Present(dict[str, NDArray[np.bool_]]):
    def __missing__(self, name: str) -> NDArray[np.bool_]:
        return _present(small_split().n_items)


def _present(n_items: int) -> NDArray[np.bool_]:
    return np.arange(n_items) % 7 > 0


def small_catalogue(model: Model | None = None) -> Catalogue:
    """Return the items of `small_split`, with titles and a feature for each name asked for.

    Args:
        model: Its features have the shapes that it declares.
    """
    items = _catalogue(())
    specs: Any = {} if model is None else model.params(items)
    if not isinstance(specs, Mapping):
        return items
    shapes = [(n, s.shape) for n, s in specs.items() if getattr(s, "scope", "") == "frozen"]
    return _catalogue(tuple(shapes))


@cache
def _catalogue(shapes: tuple[tuple[str, tuple[int, ...]], ...]) -> Catalogue:
    bare = Catalogue.of(small_split())
    titles = np.array([f"title {number}" for number in range(bare.n_items)], object)
    features, hashed = _Features(dict(shapes)), f"{bare.hash} {shapes}"
    columns = {"title": titles}
    return replace(bare, item_columns=columns, features=features, present=_Present(), hash=hashed)


@dataclass(frozen=True, slots=True)
class Trial:
    """Some clients with a task, what the server sent them, and their private values."""

    task: ClientTask
    shard: Shard
    params: Params
    private: Params
    down: Down

    @classmethod
    def of(cls, plugin: Any, dtype: str = "") -> Self:
        """Return clients that a plug-in takes part in training, before the first round.

        Args:
            plugin: A model, a personalization or a strategy.
            dtype: Of all arithmetic; "": float64 for models without a promise of equal bits.
        """
        model = plugin if isinstance(plugin, Model) else Probe()
        form = plugin if isinstance(plugin, Personalization) else Personalization()
        dtype = dtype or ("float32" if model.execution == "flat" else "float64")
        rule, items = client_rule_of(plugin), small_catalogue(model)
        payload: Any = getattr(plugin, "payload", "shared")
        measures: Any = getattr(plugin, "measures", ())
        task = ClientTask(
            model, form, TRAIN, 0, "clean", dtype, rule, payload, measures, catalogue=items
        )
        split = small_split()
        trial = cls.before(task, split.shard(np.arange(split.n_clients)))
        if not hasattr(plugin, "broadcast"):
            return trial
        context, clients = trial.context(0), trial.shard.client_ids
        state = checked_init(plugin, trial.params, context)
        sent = checked_broadcast(plugin, rule, state, trial.params, clients, context)
        return replace(trial, down=sent)

    @classmethod
    def before(cls, task: ClientTask, shard: Shard) -> Self:
        """Return the clients of a shard with the values before the first round."""
        owners = Layout.of(task, shard).owner_ids()
        private = {
            name: task.initial_private(name, owners[spec.axis or ""], shard.n_items)
            for name, spec in task.stored_specs().items()
        }
        params = task.initial_globals(shard.n_items)
        return cls(task, shard, params, private, Down(params))

    def context(self, round: int) -> RoundContext:
        """Return the context of a round in which all clients take part."""
        shard = self.shard
        n, n_items = small_split().n_clients, shard.n_items
        items = self.task.catalogue
        return RoundContext(0, round, n, n_items, shard.client_ids, catalogue=items)

    def take(self, clients: IntArray) -> Self:
        """Return the trial of some clients: int64 [c], rows of the shard, in that order."""
        at, specs = Layout.of(self.task, self.shard).positions(clients), self.task.stored_specs()
        private = {name: v[at[specs[name].axis or ""]] for name, v in self.private.items()}
        down = self.down.take(clients)
        return replace(self, shard=self.shard.take(clients), private=private, down=down)

    def with_model(self, **attributes: Any) -> Self:
        """Return the trial with a model of a class derived from its own."""
        kind: Any = type(self.task.model)
        derived = type(kind)(kind.__name__, (kind,), {"__module__": __name__, **attributes})
        return replace(self, task=replace(self.task, model=derived(**dict(self.task.model))))

    def train(self, round: int, together: int = 64) -> tuple[UpdateBatch, dict[str, FloatArray]]:
        """Train a round; return the updates and the private values after it."""
        down = self.down
        return train_clients(
            self.task, self.shard, down.shared, self.private, round, together, own=down.own
        )

    def results(self, together: int = 64) -> Results:
        """Train two rounds and rank.

        Args:
            together: Clients that are trained, and users that are ranked, in one computation.
        """
        shard = self.shard
        _, private = self.train(1, together)
        update, private = replace(self, private=private).train(2, together)
        after = replace(self, private=private)
        ended = after._ended(together) if self.task.at_end().epochs else None
        views, at_end = after._views(together), {} if ended is None else ended._views(together)
        results = {}
        for row, client in enumerate(shard.client_ids.tolist()):
            arrays = {f"private {n}": v for n, v in after.take(np.array([row])).private.items()}
            for name, block in update.tables.items():
                rows = slice(*block.offsets[row : row + 2])
                arrays |= {f"rows of {name}": block.ids[rows], name: block.values[rows]}
            for numbers in (update.dense, update.metrics, update.extras):
                arrays |= {name: np.asarray(values[row]) for name, values in numbers.items()}
            users = slice(*shard.client_offsets[row : row + 2])
            arrays |= {f"scores {view}": scores[users] for view, scores in views.items()}
            if ended is not None:
                of_client = ended.take(np.array([row])).private
                arrays |= {f"private {n} at the end": value for n, value in of_client.items()}
                arrays["scores at the end"] = at_end["mixed"][users]
            results[client] = arrays
        return results

    def _ended(self, together: int) -> Self:
        """Return the clients after the phases of the end."""
        task, shard, params = self.task.at_end(), self.shard, self.params
        begun = begin_end(task, shard, params, self.private)
        _, private = train_clients(task, shard, params, begun, 2, together)
        return replace(self, task=task, private=private)

    def _views(self, together: int) -> Mapping[str, FloatArray]:
        """Return the scores of all users, some of them at a time, per view."""
        n_users = self.shard.n_users
        blocks = np.split(np.arange(n_users), range(together, n_users, together))
        with self.task.computing():
            scorer = UserScorer(self.task, self.shard, self.params, self.private)
            views = [{view: to_array(s).copy() for view, s in scorer(b).items()} for b in blocks]
        return {view: np.concatenate([each[view] for each in views]) for view in views[0]}

    def compare(self, expected: Results, results: Results, when: str) -> None:
        """Compare what clients get, to the bit in float32 and to 1e-10 in float64.

        Args:
            expected: The results of some clients.
            results: Those of the same clients among others.
            when: What is different about them, for the error.
        """
        tolerance = 1e-10 if self.task.dtype == "float64" else 0.0
        for client in expected.keys() & results.keys():
            for name, like in expected[client].items():
                limit = tolerance * max(1.0, float(np.abs(like).max(initial=0)))
                difference = float(np.abs(results[client][name] - like).max(initial=0))
                what = f"'{name}' of client {client} differs by {difference:.3g}"
                require(difference <= limit, f"{when}: {what}, expected at most {limit:.3g}")


def as_bytes(value: Any) -> Any:
    """Return a value with its arrays as bytes, to compare or to keep."""
    if isinstance(value, np.ndarray | np.generic):
        return (
            value.dtype.str,
            value.shape,
            value.tolist() if value.dtype == object else value.tobytes(),
        )
    if is_dataclass(value):
        return {each.name: as_bytes(getattr(value, each.name)) for each in fields(value)}
    if isinstance(value, Mapping):
        return {name: as_bytes(item) for name, item in value.items()}
    return [as_bytes(item) for item in value] if isinstance(value, tuple | list) else value

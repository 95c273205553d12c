"""What a client model declares."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, TypeAlias, get_args

import torch
from torch import Tensor

from fedrec.compute.batch import Tensors
from fedrec.errors import ConfigError, did_you_mean
from fedrec.plugins import Defaults, Plugin
from fedrec.types import ParamSpec

Execution: TypeAlias = Literal["flat", "vmap", "loop"]
"""How clients may be computed together, see `Model`."""


@dataclass(frozen=True, slots=True)
class History:
    """What some users took, oldest first: as item vectors, which may be a client's own.

    Args:
        vectors: float [u, h, d], zero from the end of a user's history on.
        lengths: int64 [u].
    """

    vectors: Tensor
    lengths: Tensor


@dataclass(frozen=True, slots=True)
class Pairs:
    """User and item pairs to be scored.

    Args:
        users: int64 [q], the user row of each pair within this computation.
        items: int64 [q], the item of each pair.
        context: int64 [q], for a model with a window: how many items of its user's history stand
            before the pair; from those alone it is to be scored.
        history: of the users of this computation, for a model with a window.
    """

    users: Tensor
    items: Tensor
    context: Tensor | None = None
    history: History | None = None


class Model(Plugin):
    """A client model: scores user and item pairs from parameters that it declares.

    It holds no parameters itself; the framework hands them in, gathered for the pairs at hand.

    ``execution`` says how clients may be computed together:

    - ``flat``: many clients flat in one computation. Every parameter arrives gathered per pair,
      ``[q, *shape]``, also dense global ones, and the score of a pair may use only that pair's
      row, with operations that give the same bits wherever the row stands (see
      `fedrec.compute.operations`): no ``mm``, no ``linear``.
    - ``loop``: one client at a time. Dense parameters arrive as they are, ``[*shape]``; item rows
      and user parameters are gathered per pair. Any operation is fine.
    - ``vmap``: written as for ``loop``, for one client, and computed by `torch.func.vmap` for many
      of about the same size. A client's pairs are filled up by repeating one of them, so the
      score of a pair may not depend on the other pairs, and Python may not look at values. The
      result is the loop's to rounding, not to the bit.
    """

    execution: ClassVar[Execution] = "flat"
    # What trains matrix factorisation well: one step per client and round, Adam over their sum.
    defaults: ClassVar[Defaults] = {
        "strategy": {"name": "fedadam", "average": "sum", "server_lr": 0.005},
        "rounds": {"count": 500},
    }

    @property
    def window(self) -> int | None:
        """Return how much of a user's ordered history the model looks at; None: not at the order.

        A model with a window w is trained on the latest w train items of each user, each scored
        from those before it, so from at most w - 1, and ranks from the latest w - 1 of all. It
        finds them in `Pairs`; it cannot be ``flat``.
        """
        return None

    def without_effect(self, experiment: Any, split: Any) -> list[str]:
        """Name the trainable parameters that no score depends on."""
        leaves, score = _trained_score(self, _Given(self, 2))
        if score is None or not score.requires_grad:
            return []
        gradients = torch.autograd.grad(score.sum(), [*leaves.values()], allow_unused=True)
        return [
            f"params: '{name}' has no effect: no score depends on it, so it is never trained"
            for name, gradient in zip(leaves, gradients, strict=True)
            if gradient is None
        ]

    @abstractmethod
    def params(self) -> Mapping[str, ParamSpec]:
        """Return the parameters by name, with scope and axis.

        One is shared, has the axis ``item`` and is named ``item``: the item table.
        """

    @abstractmethod
    def score(self, params: Tensors, pairs: Pairs) -> Tensor:
        """Return the score of each pair, a logit.

        Args:
            params: per name, gathered for the pairs as the class says.
            pairs: whom and what the rows stand for.

        Returns:
            float [q].
        """

    def features(self, params: Tensors, pairs: Pairs) -> Tensor:
        """Return the input of the model's last linear layer, float [q, h].

        PLGC's tangent-kernel weight is computed from it. The default is the item's row, which is
        exact for matrix factorisation.
        """
        return params["item"]

    def score_catalogue(
        self, users: Tensors, table: Tensors, history: History | None = None
    ) -> Tensor:
        """Return the scores of some users for the whole catalogue; default: all pairs by `score`.

        Args:
            users: per parameter without a row per item, float [b, *shape], one row per user;
                in the ``loop`` and ``vmap`` forms only those of users, the others as they are.
            table: per item table, float [n_items, *shape].
            history: of the b users, for a model with a window; left out for others.

        Returns:
            float [b, n_items].
        """
        n_items, specs = len(table["item"]), self.params()
        per_user = [
            n for n in users if self.execution == "flat" or specs[n].axis in ("user", "positive")
        ]
        n_users = len(users[per_user[0]]) if per_user else 1
        n_users = n_users if history is None else len(history.lengths)
        user = torch.arange(n_users).repeat_interleave(n_items)
        item = torch.arange(n_items).repeat(n_users)
        gathered = {name: values[item] for name, values in table.items()}
        gathered |= {name: v[user] if name in per_user else v for name, v in users.items()}
        context = None if history is None else history.lengths[user]
        return self.score(gathered, Pairs(user, item, context, history)).reshape(n_users, n_items)


class _Declared(dict[str, Tensor]):
    """Parameters by name; asking for another name is an error that says which there are."""

    def __missing__(self, name: str) -> Tensor:
        raise ConfigError(
            f"asks for the parameter '{name}', which params() does not declare"
            f"{did_you_mean(str(name), self)}"
        )


class _Given:
    """What a model is given for one or two pairs, and for as many users with 3 items."""

    def __init__(self, model: Model, n: int) -> None:
        specs, place = model.params(), torch.zeros(n, dtype=torch.int64)
        self.params, self.users, self.tables = _Declared(), _Declared(), _Declared()
        for name, spec in specs.items():
            value = torch.full(spec.shape, 0.5, dtype=getattr(torch, spec.dtype))
            is_row = model.execution == "flat" or spec.axis not in (None, "client")
            # Of either sign, for a model that takes its ways by the values.
            self.params[name] = torch.stack([value, -value][:n]) if is_row else value
            if spec.axis == "item":
                self.tables[name] = torch.stack([value] * 3)
            else:
                self.users[name] = self.params[name].clone()
        self.history, context = None, None
        if model.window is not None:
            vectors = torch.full((n, 1, *specs["item"].shape), 0.5)
            self.history, context = History(vectors, place + 1), place
        self.pairs = Pairs(place, torch.arange(n), context, self.history)


UNTRAINED = (
    "depends on no parameter by operations of torch, so nothing can be trained; leave out "
    "detach(), item(), numpy() and tensors that are made of values"
)


def _trained_score(model: Model, given: _Given) -> tuple[Tensors, Tensor | None]:
    """Return parameters that are trained, and the scores made of them.

    None if that fails: the client that trains meets the error, and names it.
    """
    specs = model.params()
    leaves = {n: v.requires_grad_() for n, v in given.params.items() if specs[n].trainable}
    try:
        return leaves, model.score(given.params, given.pairs)
    except Exception:
        return leaves, None


def check_model(model: Model) -> None:
    """Check on a few pairs that a model uses what it declares and returns what it is to.

    Raises:
        ConfigError: If not. What else the model raises is left to the client that meets it.
    """
    source = f"model {type(model).__name__}"
    if model.execution not in get_args(Execution):
        hint = did_you_mean(str(model.execution), get_args(Execution))
        raise ConfigError(f"{source}: execution {model.execution!r} is unknown{hint}")
    for n in (2, 1):
        given = _Given(model, n)
        calls: Mapping[str, tuple[tuple[int | str, ...], Sequence[Any]]] = {
            "score": ((n,), (given.params, given.pairs)),
            "features": ((n, "width"), (given.params, given.pairs)),
            "score_catalogue": (("users", 3), (given.users, given.tables, given.history)),
        }
        for method, (shape, arguments) in calls.items():
            problem = _problem(model, method, arguments, shape)
            if method == "score" and problem == "":
                _, score = _trained_score(model, _Given(model, n))
                if score is None or not score.requires_grad:
                    problem = UNTRAINED
            if problem:
                raise ConfigError(f"{source}: {method} {problem}")


def _problem(
    model: Model, method: str, arguments: Sequence[Any], shape: tuple[int | str, ...]
) -> str | None:
    """Return what is wrong with what a method does; "" for nothing, None if it cannot be called."""
    values = [v for given in arguments if isinstance(given, dict) for v in given.values()]
    versions, random = [value._version for value in values], torch.get_rng_state()
    try:
        with torch.no_grad():
            result = getattr(model, method)(*arguments)
    except ConfigError as error:
        return str(error)
    except Exception:  # these values may not suit it; the client that meets the error reports it
        return None
    if versions != [value._version for value in values]:
        return "changes the parameters that it is given; work on a copy"
    if not torch.equal(random, torch.get_rng_state()):
        return "uses torch's random numbers, which no seed of a run sets; leave them out"
    came = type(result).__name__
    if isinstance(result, Tensor):
        came = f"{str(result.dtype).removeprefix('torch.')} of the shape {tuple(result.shape)}"
        sizes = zip(shape, result.shape, strict=False)
        fits = all(isinstance(wanted, str) or wanted == size for wanted, size in sizes)
        if fits and result.dim() == len(shape) and result.dtype == torch.float32:
            return ""
    wanted = str(shape).replace("'", "")
    return f"returns {came}; expected float32 of the shape {wanted}"

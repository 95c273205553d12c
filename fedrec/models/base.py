"""What a client model declares."""

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from fedrec.compute.batch import Tensors
from fedrec.errors import ConfigError, did_you_mean
from fedrec.plugins import Defaults, Plugin
from fedrec.types import ParamSpec

__all__ = ["History", "Model", "Pairs", "check_model"]


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

    execution: ClassVar[Literal["flat", "vmap", "loop"]] = "flat"
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


def check_model(model: Model) -> None:
    """Check on two pairs that a model uses declared parameters and returns the right shapes.

    Raises:
        ConfigError: If not. What else the model raises is left to the client that meets it.
    """
    q, specs, is_flat = 2, model.params(), model.execution == "flat"
    params = _Declared()
    for name, spec in specs.items():
        is_gathered = is_flat or spec.axis not in (None, "client")
        params[name] = torch.zeros(q, *spec.shape) if is_gathered else torch.zeros(spec.shape)
    pairs = Pairs(torch.zeros(q, dtype=torch.int64), torch.zeros(q, dtype=torch.int64))
    if model.window is not None:
        history = History(torch.zeros(1, 1, *specs["item"].shape), torch.ones(1, dtype=torch.int64))
        pairs = Pairs(pairs.users, pairs.items, pairs.users, history)
    for method, n_axes in ((model.score, 1), (model.features, 2)):
        source = f"model {type(model).__name__}: {method.__name__}"
        try:
            with torch.no_grad():
                shape = tuple(method(params, pairs).shape)
        except ConfigError as error:
            raise ConfigError(f"{source} {error}") from None
        except Exception:  # zeros may not suit it; the client that meets the error reports it
            continue
        if len(shape) != n_axes or shape[0] != q:
            expected = (f"({q},), one number for each", f"({q}, width)")[n_axes - 1]
            raise ConfigError(
                f"{source} returns the shape {shape} for {q} pairs; expected {expected}"
            )

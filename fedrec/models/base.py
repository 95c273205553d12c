"""What a client model declares."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fedrec.data.catalogue import Catalogue
from fedrec.models.module import ModelParams
from fedrec.plugins import Defaults, Plugin
from fedrec.ragged import Ragged
from fedrec.types import IntArray, ParamSpec

Execution: TypeAlias = Literal["flat", "vmap", "loop"]
"""How clients may be computed together, see `Model`."""


@dataclass(frozen=True, slots=True)
class History:
    """What some users took, oldest first.

    Args:
        vectors: float [u, h, d], the item vectors, which may be a client's own; zero from the end
            of a user's history on.
        lengths: int64 [u].
        items: int64 [u, h]; 0 from the end of a history on.
        times: float64 [u, h], in the data's unit; None where the data has none.
        ratings: float64 [u, h], likewise.
    """

    vectors: Tensor
    lengths: Tensor
    items: Tensor
    times: Tensor | None = None
    ratings: Tensor | None = None

    def of(self, users: Tensor) -> "History":
        """Return the histories of some users, int64 [b]."""
        columns = (self.vectors, self.lengths, self.items, self.times, self.ratings)
        return History(*(None if each is None else each[users] for each in columns))  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True)
class Batch:
    """User and item pairs to be scored, or users that rank the catalogue.

    Args:
        users: int64 [q], the user row of each pair within this computation.
        items: int64 [q], the item of each pair.
        labels: float [q], 1 for a positive, 0 for any other pair; None when ranking.
        counts: float [q], how often the pair was drawn as a negative; None when ranking.
        real: bool [q], False for a pair that only fills up a client of ``vmap``; None: all are.
        context: int64 [q], for a model with a window: how many items of its user's history stand
            before the pair; from those alone it is to be scored.
        history: of the users of this computation, for a model with a window.
    """

    users: Tensor
    items: Tensor
    labels: Tensor | None = None
    counts: Tensor | None = None
    real: Tensor | None = None
    context: Tensor | None = None
    history: History | None = None


class Model(Plugin):
    """A client model: scores user and item pairs from parameters that it declares.

    It holds no parameters itself; the framework hands them in. Rows of item tables, of features
    of the catalogue (scope ``frozen``) and of users arrive gathered, once per pair.

    A model may build a `torch.nn.Module` (see `build`). The module's parameters are dense, and
    ``params.module`` is the module with the values of the client at hand.

    ``execution`` says how clients may be computed together:

    - ``flat``: many clients flat in one computation. Every parameter arrives gathered per pair,
      ``[q, *shape]``, also dense shared ones, and the score of a pair may use only that pair's
      row, with operations that give the same bits wherever the row stands (see
      `fedrec.compute.operations`): no ``mm``, no ``linear``, no module.
    - ``loop``: one client at a time. Dense parameters arrive as they are, ``[*shape]``. Any
      operation is fine.
    - ``vmap``: written as for ``loop``, for one client, and computed by `torch.func.vmap` for many
      of about the same size. A client's pairs are filled up by repeating one of them, so the
      score of a pair may not depend on the other pairs, and Python may not look at values. The
      result is the loop's to rounding, not to the bit.
    """

    execution: ClassVar[Execution] = "flat"
    # Whether a history, see `window`, must be in time; if not, it is in a fixed random order where
    # the data has no times.
    needs_times: ClassVar[bool] = True
    # Whether `loss` is a sum over pairs, so that a step may be cut into `train.micro_batch` pairs.
    sums_over_pairs: ClassVar[bool] = True
    # What trains matrix factorisation well: one step per client and round, Adam over their sum.
    defaults: ClassVar[Defaults] = {
        "strategy": {"name": "fedadam", "server_optimizer": {"name": "adam", "lr": 0.005}},
        "rounds": {"count": 500},
    }

    @classmethod
    def overrides(cls, method: str) -> bool:
        """Return whether it has a method of its own."""
        return getattr(cls, method) is not getattr(Model, method)

    @property
    def needs_features(self) -> Sequence[str]:
        """Return the features of the items without which it cannot work, by name."""
        return ()

    @property
    def window(self) -> int | None:
        """Return how much of a user's ordered history the model looks at; None: not at the order.

        A model with a window w is trained on the latest w train items of each user, each scored
        from those before it, so from at most w - 1, and ranks from the latest w - 1 of all. It
        finds them in `Batch`; it cannot be ``flat``.
        """
        return None

    def without_effect(self, run: Any) -> list[str]:
        """Name the trainable parameters that no score depends on."""
        lines: list[str] = run.task.untrained()
        return lines

    def build(self, catalogue: Catalogue) -> nn.Module | None:
        """Return the module that `score` and `item_vectors` call; None, the default, for none.

        It is called once per process, with torch's random numbers set by the run's seed. Its
        trainable parameters become shared and dense, and start from the values it has here. Those
        that need no gradient stay in it. A parameter with a row for each item is refused: declare
        it in `params` and give the module the item vectors.

        Args:
            catalogue: The items.
        """
        return None

    def scope(self, name: str) -> Literal["shared", "private"]:
        """Return whether a trainable parameter of the module is shared, the default, or private.

        A private one is the client's own: it starts from the value that `build` gave it, and
        never leaves the client.

        Args:
            name: Of the parameter in the module, such as ``0.weight``.
        """
        return "shared"

    @abstractmethod
    def params(self, catalogue: Catalogue) -> Mapping[str, ParamSpec]:
        """Return the parameters by name, with scope and axis, beside those of the module.

        Args:
            catalogue: The items and their features.
        """

    def item_vectors(self, params: ModelParams, items: Tensor) -> Tensor:
        """Return the vectors of items, which a personalization mixes and `score` uses.

        By default that is the row of the item table ``item``, without numbers if there is no such
        table. It may use rows of item tables and features, and shared parameters; no user's.

        Args:
            params: per name; rows once per item, float [q, *shape].
            items: int64 [q].

        Returns:
            float [q, d].
        """
        return params["item"] if "item" in params else torch.zeros(len(items), 0)

    @abstractmethod
    def score(self, params: ModelParams, batch: Batch, vectors: Tensor) -> Tensor:
        """Return the score of each pair, a logit.

        Args:
            params: per name, gathered for the pairs as the class says.
            batch: whom and what the rows stand for.
            vectors: float [q, d], the item vectors of the pairs.

        Returns:
            float [q].
        """

    def features(self, params: ModelParams, batch: Batch, vectors: Tensor) -> Tensor:
        """Return the input of the model's last linear layer, float [q, h]; arguments as `score`.

        PLGC's tangent-kernel weight is computed from it. The default is the item vectors, which is
        exact for matrix factorisation.
        """
        return vectors

    def loss(self, params: ModelParams, batch: Batch, vectors: Tensor) -> Tensor:
        """Return what each pair adds to the client's loss, float [q]; arguments as `score`.

        By default that is ``train.loss`` of the scores. A model that defines it sees the pairs of
        one client, but for ``flat``, and what it returns for filling (``batch.real``) is dropped.
        """
        raise NotImplementedError

    def negatives(
        self,
        hashed: NDArray[np.uint64],
        users: IntArray,
        positives: IntArray,
        excluded: Ragged,
        n_items: int,
        catalogue: Catalogue,
    ) -> IntArray:
        """Return negatives, int64 [n]; by default they are drawn as ``train.negative_sampling``.

        Each may depend on what stands in its own place alone: which users are drawn for together
        changes from run to run.

        Args:
            hashed: uint64 [n], random bits.
            users: int64 [n], rows of ``excluded``.
            positives: int64 [n], the positive that each is drawn for.
            excluded: One row per user, sorted: items that are not to be drawn; its train items.
            n_items: Items from 0 up to this may be drawn; those behind it are cold.
            catalogue: The items and their features.
        """
        raise NotImplementedError

    def rank(self, params: ModelParams, batch: Batch, encoded: Tensor) -> Tensor:
        """Return the scores of some users for all items; default: of all pairs by `score`.

        Args:
            params: per name: of item tables and features all rows, float [n_items, *shape]; of
                users one row each, float [b, *shape]; others as for `score`, in the ``flat`` form
                one row per user.
            batch: the users, numbered from 0, int64 [b]; the items, int64 [n_items]; for a model
                with a window a history of each user.
            encoded: float [n_items, d], the item vectors.

        Returns:
            float [b, n_items].
        """
        return rank_by_pairs(self, params, batch, encoded)


def rank_by_pairs(model: Model, params: ModelParams, batch: Batch, encoded: Tensor) -> Tensor:
    """Return the scores of all pairs of users and items; arguments as `Model.rank`."""
    n_users, n_items = len(batch.users), len(encoded)
    user = torch.arange(n_users).repeat_interleave(n_items)
    item = torch.arange(n_items).repeat(n_users)

    def of_pairs(name: str, value: Tensor) -> Tensor:
        if name in params.item_rows:
            return value[item]
        return value[user] if name in params.user_rows else value

    gathered = {name: of_pairs(name, value) for name, value in params.items()}
    history = batch.history
    pairs = Batch(
        user,
        batch.items[item],
        context=None if history is None else history.lengths[user],
        history=history,
    )
    scores = model.score(params.replaced(gathered), pairs, encoded[item])
    return scores.reshape(n_users, n_items)

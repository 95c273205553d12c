"""What an attack is: some clients send what serves them, not what they were asked for."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar, final

import numpy as np
from pydantic import Field

from fedrec.aggregation.returned import checked_pair, checked_update
from fedrec.aggregation.update import UpdateBatch
from fedrec.compute.context import RoundContext
from fedrec.errors import ConfigError
from fedrec.models.mf import MatrixFactorization
from fedrec.plugins import name_of, shown
from fedrec.transforms.base import Transform
from fedrec.transforms.pool import bounded, row_norms
from fedrec.types import IntArray, Params, ParamSpec, Split, State


class Attack(Transform):
    """Base of all attacks.

    An attack changes what attackers train on (`on_data`), or what they send (`rewrite`), or both.
    What they send is rewritten on the server of the simulation, where the updates of all attackers
    of the round are together: colluding attackers know each other's. Only then it is summed with
    the others'. Attackers do not rank, so no metric counts them, nor does the training loss.

    Args:
        share: Of the honest clients, how many attackers there are: with ``added`` so many more
            clients, else so many of them are converted, drawn with the seed of the run.
        row_limit: The norm that a row of an attacker's update has at most, as a multiple of the
            mean norm of the rows that the attackers of the round would have sent without it. None:
            any.

    Attributes:
        added: Whether attackers are additional clients, with data of their own, or honest clients
            that were converted.
        needs_targets: Whether it promotes the items of ``evaluate.targets``.
        needs_factors: Whether it reads the item table ``item`` as the factors of items, whose
            product with a user's vector is the score.
    """

    added: ClassVar[bool] = False
    needs_targets: ClassVar[bool] = False
    needs_factors: ClassVar[bool] = False

    share: float = Field(0.1, gt=0, lt=1)
    row_limit: float | None = Field(None, gt=0)

    @classmethod
    def overrides(cls, *methods: str) -> bool:
        """Return whether it has a method of its own among some."""
        rewrites = "rewrite" in methods and cls.rewrite is not Attack.rewrite
        return rewrites or super().overrides(*(name for name in methods if name != "rewrite"))

    @property
    def acting(self) -> tuple[str, ...]:
        """The methods of which one must be its own; `on_data` adds the attackers if it does."""
        return ("on_data",) if self.added else ("on_data", "rewrite")

    def attackers(self, context: RoundContext) -> IntArray:
        """Return the ids of the attackers, int64, sorted; the same in every round.

        Args:
            context: Of any round; its clients are all, with those that were added.
        """
        everybody, n = np.arange(context.n_clients, dtype=np.int64), context.n_clients
        if self.added:
            honest = next(h for h in range(n, -1, -1) if h + self.count(h) <= n)
            return everybody[honest:]
        once = RoundContext(context.seed, 0, n, context.n_items)
        keys = once.bits("attackers", everybody, np.zeros(1, np.int64))
        return np.sort(np.argsort(keys, kind="stable")[: self.count(n)])

    @final
    def attackers_in(self, split: Split, seed: int) -> IntArray:
        """Return the attackers among the clients of a split, as transforms left it.

        Raises:
            ConfigError: If they are not some of its clients.
        """
        n = split.n_clients
        named: Any = self.attackers(RoundContext(seed, 0, n, split.n_items))
        is_array = isinstance(named, np.ndarray) and named.dtype.kind in "iu" and named.ndim == 1
        distinct = is_array and len(named) and np.array_equal(np.unique(named), named)
        if not distinct or named[0] < 0 or named[-1] >= n or len(named) == n:
            raise ConfigError(
                f"attack {type(self).__name__}: attackers returned {shown(named)}, expected some "
                f"of the clients from 0 to {n - 1}, not all, sorted, each once"
            )
        return np.asarray(named, np.int64)

    def count(self, honest: int) -> int:
        """Return how many attackers there are among, or beside, a number of honest clients."""
        return max(1, round(self.share * honest))

    @classmethod
    def __pydantic_init_subclass__(cls, **options: Any) -> None:
        """Check what the class declares."""
        super().__pydantic_init_subclass__(**options)
        if cls.overrides("on_update", "remembering", "memory"):
            raise ConfigError(
                f"attack {cls.__qualname__}: defines on_update, remembering or memory, which are "
                "not called for attacks; define rewrite or on_data"
            )

    def without_effect(self, run: Any) -> list[str]:
        """Say that most rounds have no attacker, or that the model is not as the attack assumes."""
        n, attackers = run.split.n_clients, len(run.attackers)
        cohort = run.experiment.rounds.clients_of(n)
        each, lines = cohort * attackers / n, []
        if self.share * n < 0.5:
            lines.append(
                f"share: {self.share:g} of the clients is less than one attacker; there is one"
            )
        if each < 1:
            lines.append(
                f"share: {self.share:g} makes about {each:.1f} attackers in a round of {cohort} "
                "clients; raise it, or rounds.cohort_size"
            )
        if self.needs_factors and not isinstance(run.task.model, MatrixFactorization):
            lines.append(
                f"name: {name_of('transforms', self)} takes scores for products of a user's vector "
                f"and a row of 'item', which those of {type(run.task.model).__name__} may not be: "
                "the attack may be weaker than it could be"
            )
        return lines

    def check(self, specs: Mapping[str, ParamSpec]) -> None:
        """Check that the model has what the attack reads.

        Args:
            specs: Of the shared parameters.

        Raises:
            ConfigError: If it has not.
        """
        item = specs.get("item")
        if self.needs_factors and (item is None or item.axis != "item" or len(item.shape) != 1):
            raise ConfigError(
                f"transforms: {type(self).__name__} reads the item table 'item', a vector for each "
                "item, and the model has no such shared parameter; take another model, such as mf, "
                "or another attack"
            )

    def init(self, split: Split, context: RoundContext) -> State:
        """Return what attackers know before the first round; nothing by default.

        Args:
            split: The data of honest clients, of which an attack takes what it is said to know,
                such as popularity.
            context: The run, before its first round.
        """
        return State()

    def rewrite(
        self, state: State, pool: UpdateBatch, params: Params, context: RoundContext
    ) -> tuple[State, UpdateBatch]:
        """Return what attackers know next, and what they send; nothing is rewritten by default.

        Args:
            state: From `init` or the last round with attackers.
            pool: What the attackers of the round would have sent, honestly trained on their data,
                sorted by client.
            params: The shared parameters of the server.
            context: The round.

        Returns:
            The state, and updates of the same clients.
        """
        return state, pool

    @final
    def sent(
        self, state: State, pool: UpdateBatch, params: Params, context: RoundContext
    ) -> tuple[State, UpdateBatch]:
        """Return what `rewrite` does, within ``row_limit``.

        Raises:
            ConfigError: If the updates are not of the same clients.
        """
        where = f"round {context.round}, attack {type(self).__name__}: rewrite"
        returned = self.rewrite(state, pool, params, context)
        state, sent = checked_pair(where, returned, "updates")
        update = checked_update(where, sent, pool, context)
        if self.row_limit is not None:
            tables = {
                name: replace(block, values=bounded(block.values, self.longest(pool, name)))
                for name, block in update.tables.items()
            }
            update = replace(update, tables=tables)
        return state, update

    def longest(self, pool: UpdateBatch, name: str) -> float:
        """Return the norm that ``row_limit`` allows a row of a table."""
        norms = row_norms(pool.tables[name])
        mean = float(norms.mean()) if len(norms) else 0.0
        return float("inf") if self.row_limit is None else self.row_limit * mean

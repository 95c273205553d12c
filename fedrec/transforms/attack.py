"""What an attack is: some clients send what serves them, not what they were asked for."""

from typing import ClassVar

import numpy as np
from pydantic import Field

from fedrec.compute.context import RoundContext
from fedrec.transforms.base import Transform
from fedrec.types import IntArray, Params, Split, State, UpdateBatch


class Attack(Transform):
    """Base of all attacks.

    An attack changes what attackers train on (`on_data`), or what they send (`rewrite`), or both.
    What they send is rewritten on the server of the simulation, where the updates of all attackers
    of the round are together: colluding attackers know each other's. Only then it is summed with
    the others'. Attackers do not rank, so no metric counts them.

    Args:
        share: Of the honest clients, how many attackers there are: with ``added`` so many more
            clients, else so many of them are converted.

    Attributes:
        added: Whether attackers are clients more, with data of their own, or honest clients that
            were converted.
        needs_targets: Whether it promotes the items of ``evaluate.targets``.
    """

    added: ClassVar[bool] = False
    needs_targets: ClassVar[bool] = False

    share: float = Field(0.1, gt=0, lt=1)

    @property
    def rewrites(self) -> bool:
        """Whether it changes what attackers send."""
        return type(self).rewrite is not Attack.rewrite

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

    def count(self, honest: int) -> int:
        """Return how many attackers there are among, or beside, a number of honest clients."""
        return max(1, round(self.share * honest))

    def init(self, split: Split, context: RoundContext) -> State:
        """Return what attackers know before the first round; nothing by default.

        Args:
            split: The data, of which an attack takes what it is said to know, such as popularity.
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
            params: The shared parameters that they received.
            context: The round.

        Returns:
            The state, and updates of the same clients.
        """
        return state, pool

"""Clients train on the parameters of when they were asked; a full buffer of updates is a round."""

from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from fedrec.aggregation.reduce import download_bytes
from fedrec.aggregation.staleness import downweighted
from fedrec.aggregation.update import Aggregates, Down
from fedrec.compute.context import RoundContext
from fedrec.devices.clock import Buffering, Clock, Filled, fill_buffer
from fedrec.devices.staleness import Staleness
from fedrec.errors import ConfigError
from fedrec.plugins import name_of
from fedrec.runs.log import Virtual
from fedrec.types import Params, State
from server.plans.base import Exchange, PlanServer, Replies, RoundPlan, RoundResult, Steps
from strategies.base import strategy_of
from strategies.selections.base import selection_of
from strategies.selections.uniform import Uniform, order

_CLOCK, _DOWN = "clock", "down"
"""Parts of the state; below ``down`` is what clients with a job received, by version."""


class Asynchronous(RoundPlan):
    r"""Aggregates as soon as a buffer of updates is full; the slow are waited for by nobody.

    A round is one aggregation, and ``rounds.count`` counts them. Some clients are at work at any
    time, on the virtual clock of ``rounds.devices``. Each trains from the parameters of when it
    was asked; meanwhile s versions may be made of them, and its update is multiplied by a factor
    of s. With the mean over the cohort (``aggregation: {average: cohort}``) a round is

    .. math:: x \leftarrow x + \tfrac{\eta}{K} \sum_u \lambda(s_u) \, \Delta_u

    A client gets its next job once the round with its update is over, chosen uniformly among those
    that are online. Its random draws, and the rates of its optimizers, are those of the round in
    which its update is used. A ``size`` of 1 is FedAsync.

    Args:
        concurrency: clients that are at work at a time.
        size: updates of a round, K.
        max_staleness: versions that may be made while an update is under way; updates that come
            later are discarded. None: none are.
        staleness: how much an update counts, :math:`\lambda`.

    Reference: nguyen2022federated; xie2020asynchronous.
    """

    reference: ClassVar[str] = "nguyen2022federated"

    concurrency: int = Field(100, ge=1)
    size: int = Field(10, ge=1)
    max_staleness: int | None = Field(None, ge=0)
    staleness: Staleness = Staleness()

    @property
    def clients_of_round(self) -> int:
        """The size of the buffer."""
        return self.size

    @property
    def buffering(self) -> Buffering:
        """When the server aggregates."""
        return Buffering(self.concurrency, self.size, self.max_staleness)

    def check(self, run: Any) -> None:
        """Check that there are devices, and that updates from several versions can be added up."""
        experiment, n = run.experiment, run.split.n_clients
        strategy, rule = strategy_of(experiment), run.task.client_rule
        another = f"the strategy {name_of('strategies', strategy)} does not; take another"
        rule_named = f"the client rule {name_of('client_rules', rule)}"
        faults = (
            (
                experiment.rounds.devices is None,
                "needs rounds.devices, which say when replies come",
            ),
            (self.concurrency > n, f"concurrency: {self.concurrency}, but there are {n} clients"),
            (self.size > n, f"size: {self.size}, but each of {n} clients is in a round once"),
            (
                type(selection_of(experiment)) is not Uniform,
                "asks clients as they come online; leave rounds.selection out",
            ),
            (
                strategy.sees_each or strategy.by_node,
                f"uses sums of updates, and {another}",
            ),
            (strategy.payload != "shared", f"sends all clients the same, and {another}"),
            (
                rule.needs_one_version,
                f"adds up updates of different versions, and {rule_named} needs one; take another",
            ),
            (experiment.attack is not None, "has no rounds in which attackers act together"),
        )
        for is_fault, text in faults:
            if is_fault:
                raise ConfigError(
                    f"rounds.plan: asynchronous {text}, or take rounds.plan: synchronous"
                )
        self._check_size(run)

    def _check_size(self, run: Any) -> None:
        """Check that what the server remembers is within ``engine.state_limit``."""
        of_version = int(run.timing.work.down.max(initial=0))
        limit = self.concurrency if self.max_staleness is None else self.max_staleness
        versions = 1 + min(self.concurrency, limit)
        allowed = run.experiment.engine.state_limit
        if versions * of_version > allowed:
            raise ConfigError(
                f"engine.state_limit: the server would remember {versions} versions of the shared "
                f"parameters for rounds.plan asynchronous, {versions * of_version:,} bytes, more "
                f"than {allowed:,}; lower its concurrency or max_staleness, or raise the limit"
            )

    def init(self, context: RoundContext) -> State:
        """Return a clock at 0, and no jobs."""
        return _joined(Clock(), {})

    def run(self, state: State, server: PlanServer, context: RoundContext) -> Steps:
        """Let the clock run until the buffer is full; let the clients of the buffer train."""
        assert server.timing is not None
        clock, sent = _parted(state)
        in_order = order(context.seed, context.round, context.n_clients)
        filled = fill_buffer(clock, self.buffering, in_order, server.timing)
        if len(filled.asked):
            sent[clock.version] = server.down(np.sort(filled.asked)).shared
        replies, parts = Replies(), list[Aggregates]()
        for version, clients in filled.arrived.by_version():
            came: Replies = yield Exchange(clients, Down(sent[version]))
            if came.lost:
                raise came.lost[-1].error
            factor = float(self.staleness.factors(np.array([clock.version - version]))[0])
            sums = server.sums(came)
            parts.append({group: downweighted(each, factor) for group, each in sums.items()})
            replies = replies.joined(came)
        after = filled.clock
        versions = after.versions_in_use(self.buffering).tolist()
        return RoundResult(
            _joined(after, {v: sent[v] for v in versions if v in sent}),
            replies,
            server.merged(parts),
            virtual=_virtual(filled),
            bytes={"down": len(filled.discarded) * download_bytes(Down(next(iter(sent.values()))))},
        )


def _virtual(filled: Filled) -> Virtual:
    """Return what the run log says of a full buffer."""
    return Virtual(
        seconds=filled.clock.time,
        discarded=len(filled.discarded),
        under_way=len(filled.clock.jobs),
        staleness=float(filled.staleness.mean()),
        most_stale=int(filled.staleness.max()),
    )


def _joined(clock: Clock, sent: dict[int, Params]) -> State:
    """Return the clock, and what clients received by version, as a checkpoint keeps them."""
    arrays = {f"{v}/{name}": value for v, of in sent.items() for name, value in of.items()}
    return State.joined({_CLOCK: clock.to_state(), _DOWN: State(arrays)})


def _parted(state: State) -> tuple[Clock, dict[int, Params]]:
    """Invert `_joined`."""
    sent = dict[int, dict[str, Any]]()
    for key, value in state.part(_DOWN).arrays.items():
        version, _, name = key.partition("/")
        sent.setdefault(int(version), {})[name] = value
    return Clock.from_state(state.part(_CLOCK)), dict(sent)

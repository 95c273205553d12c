"""What the asynchronous plan remembers, asks for and says, whatever the devices are."""

from collections.abc import Iterable

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from fedrec.aggregation.fixed_point import times
from fedrec.aggregation.reduce import download_bytes
from fedrec.aggregation.update import Aggregate, Aggregates, Down
from fedrec.compute.context import RoundContext
from fedrec.devices.clock import Clock
from fedrec.devices.fleet import Fleet
from fedrec.devices.timing import Timing
from fedrec.flower.records import RoundRequest, Trained
from fedrec.types import IntArray, State
from server.plans.asynchronous import Asynchronous
from server.plans.base import Exchange, Replies, Reply, RoundResult
from server.replies import Expected
from tests.fleets import fleets, works

SCALE = 1000


class Numbers:
    """A server whose parameters are the number of the version; a client's change is its id.

    Args:
        timing: When replies arrive.
    """

    in_real_time = False

    def __init__(self, timing: Timing) -> None:
        self.timing, self.version = timing, 0

    def size(self) -> int:
        raise AssertionError

    def choose(self, size: int) -> IntArray:
        raise AssertionError

    def down(self, clients: IntArray) -> Down:
        value = np.array([float(self.version)], np.float32)
        return Down({"item": value, "item/control": 10 * value})

    def groups(self, clients: IntArray) -> IntArray:
        return np.zeros_like(clients)

    def expected(self) -> Expected:
        raise AssertionError

    def sums(self, replies: Replies) -> Aggregates:
        change = np.array([SCALE * int(replies.clients.sum())])
        return {0: Aggregate(len(replies.clients), 1, {}, {"item": change}, {}, {"item": 0})}

    def merged(self, parts: Iterable[Aggregates]) -> Aggregates:
        every = [part[0] for part in parts]
        total = np.sum([each.sums["item"] for each in every], axis=0)
        clients = sum(each.clients for each in every)
        return {0: Aggregate(clients, 1, {}, {"item": total}, {}, {"item": 0})}


def go(
    plan: Asynchronous, server: Numbers, state: State, round: int
) -> tuple[list[Exchange], RoundResult]:
    steps, asked = plan.run(state, server, context(server, round)), list[Exchange]()
    try:
        exchange = next(steps)
        while True:
            assert isinstance(exchange, Exchange)
            asked.append(exchange)
            request = RoundRequest("", "", round, len(asked), clients=exchange.clients)
            exchange = steps.send(Replies((Reply(0, request, Trained({})),)))
    except StopIteration as end:
        result: RoundResult = end.value
        return asked, result


def context(server: Numbers, round: int) -> RoundContext:
    return RoundContext(0, round, len(server.timing.fleet), 1)


@settings(deadline=None)
@given(data=st.data(), fleet=fleets(2, 8))
def test_each_version_goes_to_those_who_were_asked_then(data: st.DataObject, fleet: Fleet) -> None:
    n = len(fleet)
    server = Numbers(Timing(fleet, data.draw(works(n))))
    limit = data.draw(st.none() | st.integers(0, 3))
    plan = Asynchronous(
        concurrency=data.draw(st.integers(1, n)),
        size=data.draw(st.integers(1, n)),
        max_staleness=limit,
    )
    state, seconds = plan.init(context(server, 0)), 0.0
    for round in range(1, 8):
        server.version = round - 1
        before = Clock.from_state(state.part("clock"))
        asked, result = go(plan, server, state, round)
        versions = [int(each.down.shared["item"][0]) for each in asked]
        assert versions == sorted({*versions})
        clients = np.concatenate([each.clients for each in asked])
        assert len({*clients.tolist()}) == len(clients) == plan.size
        # Who had a job trains from its version, the others from today's.
        versions_before = dict(
            zip(before.jobs.clients.tolist(), before.jobs.versions.tolist(), strict=True)
        )
        for version, each in zip(versions, asked, strict=True):
            assert each.down.shared["item/control"][0] == 10 * version
            for client in each.clients.tolist():
                given = versions_before.get(client, round - 1)
                is_too_old = limit is not None and round - 1 - given > limit
                assert version == (round - 1 if is_too_old else given)
        # Sums count less by the age of their version.
        assert result.aggregates is not None
        (total,) = result.aggregates.values()
        ages = np.array([round - 1 - version for version in versions])
        factors = plan.staleness.factors(ages).tolist()
        assert total.sums["item"].tolist() == [
            sum(
                int(times(np.array([SCALE * int(each.clients.sum())]), factor)[0])
                for each, factor in zip(asked, factors, strict=True)
            )
        ]
        assert total.clients == plan.size
        # The log says what happened.
        virtual = result.virtual
        assert virtual is not None
        assert virtual.seconds >= seconds
        assert virtual.most_stale == max(ages)
        assert limit is None or virtual.most_stale <= limit
        assert result.bytes["down"] == virtual.discarded * download_bytes(asked[0].down)
        # A version is stored as long as a job may be trained from it, and no longer.
        state, seconds = result.state, virtual.seconds
        clock = Clock.from_state(state.part("clock"))
        assert (clock.version, clock.time, len(clock.jobs)) == (
            round,
            seconds,
            virtual.under_way,
        )
        stored = {int(name.split("/")[0]) for name in state.part("down").arrays}
        current = clock.jobs.versions
        usable = current if limit is None else current[round - current <= limit]
        assert stored == {*usable.tolist()}

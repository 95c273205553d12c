"""Asynchronous aggregations on a virtual clock: who has a job, and whose replies come next.

A client that has a job trains from the version of the shared parameters that it was given. The
server gathers replies until its buffer is full, makes the next version of them, and goes on. A
client is in a buffer once at most: it gets its next job when the buffer with its reply is applied.
All is a pure function of a frozen value, which a checkpoint keeps as a `fedrec.types.State`.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from fedrec.devices.fleet import Fleet
from fedrec.devices.timing import Timing
from fedrec.errors import ConfigError
from fedrec.types import FloatArray, IntArray, State

_Job: TypeAlias = tuple[float, int, int]
_HEAP_ORDER = ("arrivals", "clients", "versions")
"""In which replies arrive: no client has two jobs, so versions are never compared."""

_MORE = 4
"""Clients that are looked at together for each that is to get a job: some are offline."""


@dataclass(frozen=True, slots=True)
class Jobs:
    """Jobs of clients.

    Args:
        clients: int64 [j].
        versions: int64 [j], the version of the shared parameters that each was given.
        arrivals: float64 [j], the virtual second at which each reply arrives.
    """

    clients: IntArray
    versions: IntArray
    arrivals: FloatArray

    @classmethod
    def none(cls) -> Jobs:
        """Return no jobs."""
        return cls(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0))

    def __len__(self) -> int:
        return len(self.clients)

    def by_version(self) -> Iterator[tuple[int, IntArray]]:
        """Yield each version, the oldest first, with its clients, int64, sorted."""
        for version in np.unique(self.versions).tolist():
            yield version, np.sort(self.clients[self.versions == version])


@dataclass(frozen=True, slots=True)
class Clock:
    """Where an asynchronous run stands.

    Args:
        time: Virtual seconds.
        version: Of the shared parameters: how often the server has aggregated.
        jobs: Those under way, no client has two.
    """

    time: float = 0.0
    version: int = 0
    jobs: Jobs = field(default_factory=Jobs.none)

    def to_state(self) -> State:
        """Return it as a checkpoint keeps it."""
        arrays = {name: getattr(self.jobs, name) for name in Jobs.__slots__}
        return State(arrays, {"time": self.time, "version": self.version})

    def versions_in_use(self, buffering: Buffering) -> IntArray:
        """Return the versions that clients still train from, int64, sorted; the last is current.

        Of others the server may forget the parameters. Without a limit of the staleness there are
        as many as jobs under way, and one, at most.
        """
        versions, limit = self.jobs.versions, buffering.max_staleness
        if limit is not None:
            versions = versions[self.version - versions <= limit]
        return np.unique(np.append(versions, self.version))

    @classmethod
    def from_state(cls, state: State) -> Clock:
        """Return what `to_state` made a state of."""
        jobs = Jobs(**{name: state.arrays[name] for name in Jobs.__slots__})
        return cls(state.values["time"], state.values["version"], jobs)


@dataclass(frozen=True, slots=True)
class Buffering:
    """When the server aggregates.

    Args:
        concurrency: Jobs under way at a time; fewer only where no other client may have one.
        size: Updates of an aggregation; 1 is FedAsync.
        max_staleness: Updates older than so many versions are discarded; None: none are.

    Raises:
        ConfigError: If a value is out of range.

    Reference: nguyen2022federated; xie2020asynchronous.
    """

    concurrency: int
    size: int
    max_staleness: int | None = None

    def __post_init__(self) -> None:
        """Check all values."""
        least = {"concurrency": 1, "size": 1, "max_staleness": 0}
        for name, low in least.items():
            if (value := getattr(self, name)) is not None and value < low:
                raise ConfigError(f"buffering.{name}: expected {low} or more, got {value}")


@dataclass(frozen=True, slots=True)
class Filled:
    """A full buffer.

    Args:
        clock: Where the run stands once the server has aggregated the buffer.
        arrived: The jobs in the buffer, in the order of their arrival.
        discarded: Those that were too old.
        asked: int64, the clients that got a job meanwhile, in that order.
    """

    clock: Clock
    arrived: Jobs
    discarded: Jobs
    asked: IntArray

    @property
    def staleness(self) -> IntArray:
        """How many versions were made while each job of the buffer was under way, int64."""
        return self.clock.version - 1 - self.arrived.versions


def fill_buffer(clock: Clock, buffering: Buffering, order: IntArray, timing: Timing) -> Filled:
    """Let the clock run until the buffer is full.

    As long as fewer jobs are under way than may be, the first clients of an order get one that are
    online, have none, and are not in the buffer: what a client has learnt counts once it is
    applied, so it waits for that. A client whose reply was discarded may be asked at once. Replies
    that arrive at the same time are taken in the order of the client ids, and before others are
    asked: where all devices are equally fast and the buffer holds all jobs, this is a synchronous
    round.

    Args:
        clock: Where the run stands.
        buffering: When the server aggregates.
        order: int64, clients, each once; those that are left out get no job.
        timing: When the replies of all clients arrive.

    Raises:
        ConfigError: If the order has fewer clients than the buffer.
        NumericError: If a reply arrives later than the clock can tell.
    """
    if len(order) < buffering.size:
        raise ConfigError(
            f"the buffer holds {buffering.size} updates, but there are {len(order)} clients, each "
            "of which sends one between two aggregations; lower its size"
        )
    time, version, under_way = clock.time, clock.version, clock.jobs
    waiting = [*zip(*(getattr(under_way, name).tolist() for name in _HEAP_ORDER), strict=True)]
    heapq.heapify(waiting)
    fleet = timing.fleet
    listed = np.zeros(len(fleet), np.bool_)
    listed[order] = True
    excluded = ~listed
    excluded[under_way.clients] = True
    arrived, discarded = list[_Job](), list[_Job]()
    asked: list[IntArray] = []
    while True:
        free = buffering.concurrency - len(waiting)
        chosen = _first_online(order, excluded, fleet, time, free)
        excluded[chosen] = True
        asked.append(chosen)
        replies = timing.arrivals(chosen, time).tolist()
        for arrival, client in zip(replies, chosen.tolist(), strict=True):
            heapq.heappush(waiting, (arrival, client, version))
        nexts = [waiting[0][0]] if waiting else []
        if len(chosen) < free and len(others := order[~excluded[order]]):
            nexts.append(float(fleet.next_online(others, time).min()))
        time = min(nexts)
        while waiting and waiting[0][0] == time and len(arrived) < buffering.size:
            job = heapq.heappop(waiting)
            staleness, limit = version - job[2], buffering.max_staleness
            is_too_old = limit is not None and staleness > limit
            (discarded if is_too_old else arrived).append(job)
            excluded[job[1]] = not (is_too_old and listed[job[1]])
        if len(arrived) == buffering.size:
            after = Clock(time, version + 1, _jobs_of(waiting, by_client=True))
            return Filled(after, _jobs_of(arrived), _jobs_of(discarded), np.concatenate(asked))


def _first_online(
    order: IntArray, excluded: NDArray[np.bool_], fleet: Fleet, time: float, count: int
) -> IntArray:
    """Return the first clients of an order, int64, that are online and not excluded.

    Args:
        order: int64, clients.
        excluded: bool [n_clients].
        fleet: The devices of all clients.
        time: Virtual seconds.
        count: Of clients, at most.
    """
    chosen, others = np.zeros(0, np.int64), order[~excluded[order]]
    while len(others) and len(chosen) < count:
        some, others = np.split(others, [_MORE * (count - len(chosen))])
        chosen = np.concatenate([chosen, some[fleet.online(some, time)]])
    return chosen[:count]


def _jobs_of(jobs: list[_Job], by_client: bool = False) -> Jobs:
    """Return jobs given as their arrivals, clients and versions, in their order or by client."""
    if by_client:
        jobs = sorted(jobs, key=lambda job: job[1])
    arrivals, clients, versions = zip(*jobs, strict=True) if jobs else ((), (), ())
    whole = np.array(clients, np.int64), np.array(versions, np.int64)
    return Jobs(*whole, np.array(arrivals, np.float64))

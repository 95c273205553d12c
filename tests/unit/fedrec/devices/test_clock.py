"""Asynchronous aggregations: what holds whatever the devices, the order and the buffer are."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedrec.devices.availability import Availability
from fedrec.devices.clock import Buffering, Clock, Filled, Jobs, fill_buffer
from fedrec.devices.deadlines import end_of_round
from fedrec.devices.fleet import Fleet
from fedrec.devices.timing import Timing
from fedrec.devices.work import Work
from fedrec.errors import ConfigError
from fedrec.storage.files import checksum_of
from fedrec.types import IntArray
from tests.fleets import equal_fleet, fleets, works


def order_of(seed: int, version: int, n: int) -> IntArray:
    return np.random.default_rng([seed, version]).permutation(n)


def steps(
    fleet: Fleet,
    work: Work,
    buffering: Buffering,
    seed: int,
    count: int,
    clock: Clock | None = None,
) -> list[Filled]:
    clock, every = clock or Clock(), list[Filled]()
    for _ in range(count):
        order = order_of(seed, clock.version, len(fleet))
        every.append(fill_buffer(clock, buffering, order, Timing(fleet, work)))
        clock = every[-1].clock
    return every


def identity(filled: Filled) -> str:
    """A text that two steps share only if they are equal to the bit."""
    parts = {"arrived": filled.arrived, "discarded": filled.discarded}
    arrays = {f"{p}/{n}": getattr(jobs, n) for p, jobs in parts.items() for n in Jobs.__slots__}
    state = filled.clock.to_state()
    arrays |= {"asked": filled.asked, **state.arrays}
    return checksum_of(arrays, {name: repr(value) for name, value in state.values.items()})


@st.composite
def runs(draw: st.DrawFn) -> tuple[Fleet, Work, Buffering, int]:
    fleet = draw(fleets())
    n = len(fleet)
    buffering = Buffering(
        draw(st.integers(1, n + 2)),
        draw(st.integers(1, n)),
        draw(st.none() | st.integers(0, 3)),
    )
    return fleet, draw(works(n)), buffering, draw(st.integers(0, 99))


Run = tuple[Fleet, Work, Buffering, int]


@given(runs())
def test_a_clock_goes_forward_and_nobody_has_two_jobs(run: Run) -> None:
    fleet, work, buffering, seed = run
    before, under_way, seen = Clock(), set[tuple[int, int]](), set[tuple[int, int]]()
    for filled in steps(fleet, work, buffering, seed, 6):
        after, arrived, discarded = filled.clock, filled.arrived, filled.discarded
        assert after.time >= before.time
        assert after.version == before.version + 1
        assert len(arrived) == buffering.size
        ended = [*zip(arrived.clients, arrived.versions, strict=True)]
        dropped = [*zip(discarded.clients, discarded.versions, strict=True)]
        asked = [(client, before.version) for client in filled.asked.tolist()]
        # A version and a client name a job, and every job is asked for, and ends, once.
        assert len({*asked}) == len(asked)
        assert seen.isdisjoint(asked)
        seen |= {*asked}
        assert len({*ended, *dropped}) == len(ended) + len(dropped)
        assert {*ended, *dropped} <= under_way | {*asked}
        under_way = (under_way | {*asked}) - {*ended, *dropped}
        jobs = after.jobs
        assert {*zip(jobs.clients, jobs.versions, strict=True)} == under_way
        # Nobody is in the buffer twice, or works on before it is applied.
        assert len({*arrived.clients.tolist()}) == len(arrived)
        assert not {*arrived.clients.tolist()} & {*jobs.clients.tolist()}
        assert (np.diff(jobs.clients) > 0).all()
        assert len(jobs) <= buffering.concurrency
        assert (jobs.arrivals >= after.time).all()
        # Replies come in the order of their arrival, and of the client ids.
        times, clients = arrived.arrivals, arrived.clients
        assert np.array_equal(np.lexsort((clients, times)), np.arange(len(times)))
        assert times[0] >= before.time
        assert times[-1] == after.time
        assert (filled.staleness >= 0).all()
        if buffering.max_staleness is not None:
            assert (filled.staleness <= buffering.max_staleness).all()
            assert (before.version - discarded.versions > buffering.max_staleness).all()
        else:
            assert not len(discarded)
        # What a buffer is trained from was kept.
        in_use = before.versions_in_use(buffering)
        assert {*arrived.versions.tolist()} <= {*in_use.tolist()}
        assert len(in_use) <= len(before.jobs) + 1
        before = after


@given(run=runs(), stop=st.integers(0, 4), shuffle=st.randoms(use_true_random=False))
def test_a_run_goes_on_as_if_it_had_not_stopped(run: Run, stop: int, shuffle: st.DrawFn) -> None:
    """Whatever the order in which a checkpoint holds the jobs."""
    fleet, work, buffering, seed = run
    every = steps(fleet, work, buffering, seed, 5)
    clock = every[stop].clock
    state = clock.to_state()
    again = Clock.from_state(state)
    assert identity(replace(every[stop], clock=again)) == identity(every[stop])
    places = [*range(len(clock.jobs))]
    shuffle.shuffle(places)  # type: ignore[attr-defined]
    arrays = {name: values[places] for name, values in state.arrays.items()}
    shuffled = Clock.from_state(replace(state, arrays=arrays))
    continued = steps(fleet, work, buffering, seed, 4 - stop, shuffled)
    assert [*map(identity, continued)] == [*map(identity, every[stop + 1 :])]


@given(data=st.data(), fleet=fleets(), seed=st.integers(0, 99))
def test_one_job_under_way_is_one_client_after_the_other(
    data: st.DataObject, fleet: Fleet, seed: int
) -> None:
    work = data.draw(works(len(fleet)))
    time = 0.0
    for filled in steps(fleet, work, Buffering(1, 1), seed, 6):
        order = order_of(seed, filled.clock.version - 1, len(fleet))
        online = order[fleet.online(order, time)]
        if not len(online):
            time = float(fleet.next_online(order, time).min())
            online = order[fleet.online(order, time)]
        client = online[:1]
        time = float(fleet.arrivals(client, time, *work.of(client))[0])
        assert filled.arrived.clients.tolist() == client.tolist()
        assert filled.staleness.tolist() == [0]
        assert filled.clock.time == time
        assert not len(filled.clock.jobs)


@given(n=st.integers(1, 12), data=st.data(), seed=st.integers(0, 99))
def test_equal_devices_and_a_buffer_of_all_jobs_are_synchronous(
    n: int, data: st.DataObject, seed: int
) -> None:
    size = data.draw(st.integers(1, n))
    fleet, work = equal_fleet(n), Work(*(np.full(n, 3, np.int64) for _ in range(3)))
    time = 0.0
    for version, filled in enumerate(steps(fleet, work, Buffering(size, size), seed, 5)):
        cohort = np.sort(order_of(seed, version, n)[:size])
        ended = end_of_round(cohort, fleet.arrivals(cohort, time, *work.of(cohort)), time)
        assert filled.arrived.clients.tolist() == cohort.tolist() == ended.replied.tolist()
        assert not filled.staleness.any()
        assert next(filled.arrived.by_version())[0] == version
        time = ended.time
        assert filled.clock.time == time


@given(data=st.data(), n=st.integers(2, 12), seed=st.integers(0, 99))
def test_as_many_jobs_are_under_way_as_may_be(data: st.DataObject, n: int, seed: int) -> None:
    """As long as a client is idle that has not had the version, and all are online."""
    concurrency = data.draw(st.integers(1, n - 1))
    size = data.draw(st.integers(1, n - concurrency))
    fleet = replace(data.draw(fleets(n, n)), availability=Availability.always(n))
    work = data.draw(works(n))
    for filled in steps(fleet, work, Buffering(concurrency, size), seed, 6):
        at_end = filled.arrived.arrivals == filled.clock.time
        assert len(filled.clock.jobs) + at_end.sum() >= concurrency


def test_the_fast_reply_while_the_slow_is_under_way() -> None:
    """FedBuff with two jobs and a buffer of two; client 0 takes 10 s, the others 1 s."""
    ones, nothing = np.ones(4), np.zeros(4, np.int64)
    seconds = np.array([10.0, 1.0, 1.0, 1.0])
    fleet = Fleet(seconds, ones, ones, Availability.always(4))
    work = Work(nothing + 1, nothing, nothing)
    clock, every = Clock(), list[Filled]()
    for _ in range(6):
        every.append(fill_buffer(clock, Buffering(2, 2), np.arange(4), Timing(fleet, work)))
        clock = every[-1].clock
    assert [filled.clock.time for filled in every] == [2, 4, 6, 8, 10, 11]
    assert [filled.arrived.clients.tolist() for filled in every[:2]] == [[1, 2], [1, 2]]
    assert [[*map(int, filled.staleness)] for filled in every] == [[0, 0]] * 4 + [[0, 4], [1, 0]]
    (late, current) = every[4].arrived.by_version()
    assert late[0] == 0
    assert late[1].tolist() == [0]
    assert current[0] == 4
    fast = fill_buffer(
        every[3].clock, Buffering(2, 2, max_staleness=3), np.arange(4), Timing(fleet, work)
    )
    assert fast.discarded.clients.tolist() == [0]
    assert not fast.staleness.any()
    assert fast.clock.time == 10


def test_a_buffer_that_never_fills_is_refused() -> None:
    fleet, work = equal_fleet(3), Work(*[np.ones(3, np.int64)] * 3)
    with pytest.raises(ConfigError, match="holds 4 updates, but there are 3 clients"):
        fill_buffer(Clock(), Buffering(2, 4), np.arange(3), Timing(fleet, work))
    for wrong in ({"concurrency": 0}, {"size": 0}, {"max_staleness": -1}):
        with pytest.raises(ConfigError, match=f"buffering.{next(iter(wrong))}: expected"):
            Buffering(**{"concurrency": 1, "size": 1} | wrong)


def test_only_clients_of_the_order_are_asked() -> None:
    fleet, work = equal_fleet(5), Work(*[np.ones(5, np.int64)] * 3)
    clock = Clock()
    for _ in range(4):
        filled = fill_buffer(clock, Buffering(3, 2), np.array([4, 1]), Timing(fleet, work))
        clock = filled.clock
        assert {*filled.asked.tolist()} <= {1, 4}

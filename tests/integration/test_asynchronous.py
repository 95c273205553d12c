"""Rounds on the virtual clock: the same on any engine and after a stop; what does not fit."""

from pathlib import Path
from typing import Any

import pytest

from fedrec.config.experiment import load_experiment
from fedrec.errors import ConfigError, FedRecError, RunFolderError
from fedrec.runs.log import RoundRecord, read_log
from fedrec.runs.prepare import prepare_run
from tests.integration.stopped_runs import SMALL, go, go_on, outcome, stopped
from tests.integration.test_run_serial import merged

COUNT, SIZE, CONCURRENCY, CLIENTS = 8, 4, 7, 24
EQUAL = {
    "name": "synthetic",
    "spread": 0,
    "network_spread": 0,
    "online_hours": 24,
    "online_spread": 0,
}
BUFFER = {"name": "asynchronous", "size": SIZE, "concurrency": CONCURRENCY}


def rounds(plan: Any = BUFFER, devices: Any = "synthetic", **more: Any) -> dict[str, Any]:
    return {
        "count": COUNT,
        "cohort_fraction": None,
        "patience": None,
        "plan": plan,
        "devices": devices,
        **more,
    }


def log_of(folder: Path) -> list[RoundRecord]:
    return read_log(folder / "rounds.jsonl")


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An asynchronous run, on one node."""
    folder = tmp_path_factory.mktemp("uninterrupted") / "run"
    return go(folder, rounds=rounds(), engine={"name": "serial", "nodes": 1}).folder


def test_a_buffer_is_a_round_and_the_clock_goes_on(uninterrupted: Path) -> None:
    log = log_of(uninterrupted)
    assert [record.round for record in log] == [*range(1, COUNT + 1)]
    times = [record.virtual.seconds for record in log if record.virtual]
    assert len(times) == COUNT and times == sorted(times) and times[0] > 0
    for record in log:
        assert record.clients == SIZE
        assert record.virtual is not None and record.virtual.under_way <= CONCURRENCY
        assert record.virtual.staleness <= record.virtual.most_stale < record.round
    assert any(record.virtual and record.virtual.staleness for record in log)
    result = outcome(uninterrupted)
    assert len(result["log"]) == COUNT


@pytest.mark.parametrize("nodes", [2, 5])
def test_the_nodes_do_not_matter(nodes: int, uninterrupted: Path, tmp_path: Path) -> None:
    engine = {"name": "serial", "nodes": nodes}
    run = go(tmp_path / "run", rounds=rounds(), engine=engine).folder
    assert outcome(run) == outcome(uninterrupted)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_ray_does_not_matter(
    workers: int, uninterrupted: Path, shared_ray: Any, tmp_path: Path
) -> None:
    engine = {"name": "ray", "nodes": 2, "workers": workers}
    run = go(tmp_path / "run", rounds=rounds(), engine=engine).folder
    assert outcome(run) == outcome(uninterrupted)


@pytest.mark.parametrize("after", [1, 4, COUNT])
def test_an_interrupted_run_goes_on_exactly(
    after: int, uninterrupted: Path, tmp_path: Path
) -> None:
    folder = stopped(tmp_path / "run", after, rounds=rounds())
    assert outcome(go_on(folder).folder) == outcome(uninterrupted)


def test_a_run_killed_between_two_requests_of_a_round_goes_on_exactly(
    uninterrupted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nodes have staged what several requests change, of which none is applied."""
    from server.exchanges import Exchanges

    train, left = Exchanges.train, [15]

    def killed(self: Any, *arguments: Any) -> Any:
        left[0] -= 1
        if not left[0]:
            raise MemoryError  # passes by what an interrupt would still write
        return train(self, *arguments)

    monkeypatch.setattr(Exchanges, "train", killed)
    folder = tmp_path / "run"
    with pytest.raises(MemoryError):
        go(folder, rounds=rounds(), engine={"name": "serial", "nodes": 1})
    monkeypatch.undo()
    staged = {path.name.split("@")[2] for path in folder.glob("state/*/staged@*")}
    assert len(staged) > 1
    assert outcome(go_on(folder).folder) == outcome(uninterrupted)


@pytest.mark.parametrize(
    "changes",
    [
        {"personalization": {"name": "none"}},
        {"personalization": {"name": "none"}, "strategy": {"name": "feddyn"}},
        {"transforms": [{"name": "top_k", "share": 0.3}, "int8"]},
        {"model": "neumf", "strategy": {"name": "fedavg"}},
    ],
    ids=["mf", "feddyn", "top_k", "neumf"],
)
def test_whatever_clients_remember_goes_on_exactly(changes: Any, tmp_path: Path) -> None:
    changes = {**changes, "rounds": rounds()}
    expected = outcome(go(tmp_path / "whole", **changes).folder)
    folder = stopped(tmp_path / "run", 5, **changes)
    assert outcome(go_on(folder).folder) == expected


def test_equal_devices_and_a_buffer_of_all_jobs_are_the_synchronous_plan(tmp_path: Path) -> None:
    plan = {"name": "asynchronous", "size": 6, "concurrency": 6}
    instant = {**EQUAL, "seconds_per_example": 1e-6, "download": 1e12, "upload": 1e12}
    both = [
        go(tmp_path / "asynchronous", rounds=rounds(plan, instant)),
        go(tmp_path / "synchronous", rounds=rounds("synchronous", None, cohort_size=6)),
    ]
    parts = [outcome(run.folder) for run in both]
    for part in parts:
        for record in part["log"]:
            record["virtual"] = None
    times = [record.virtual for record in log_of(both[0].folder)]
    assert not any(each.most_stale for each in times if each)
    assert parts[0] == parts[1]


def test_a_buffer_of_one_is_sequential_where_one_is_at_work(tmp_path: Path) -> None:
    """FedAsync with one job is a round of one client after the other."""
    plan = {"name": "asynchronous", "size": 1, "concurrency": 1}
    always = {**EQUAL, "network_spread": 1.0}
    one = outcome(go(tmp_path / "one", rounds=rounds(plan, always)).folder)
    other = outcome(go(tmp_path / "other", rounds=rounds("synchronous", cohort_size=1)).folder)
    assert one["digest"] == other["digest"]


def test_updates_count_less_the_older_they_are(uninterrupted: Path, tmp_path: Path) -> None:
    constant = {**BUFFER, "staleness": "constant"}
    other = go(tmp_path / "run", rounds=rounds(constant)).folder
    assert outcome(other)["digest"] != outcome(uninterrupted)["digest"]
    times = [[record.virtual for record in log_of(folder)] for folder in (other, uninterrupted)]
    assert times[0] == times[1]


def test_what_is_too_old_is_discarded(tmp_path: Path) -> None:
    plan = {**BUFFER, "size": 2, "max_staleness": 1}
    chosen = rounds(plan, {"name": "synthetic", "network_spread": 3}, count=12)
    run = go(tmp_path / "run", rounds=chosen)
    log = log_of(run.folder)
    times = [record.virtual for record in log if record.virtual]
    assert all(each.most_stale <= 1 for each in times)
    assert sum(each.discarded for each in times) == run.result["virtual"]["discarded"] > 0
    assert all(record.clients == 2 for record in log)
    of_client = log[0].bytes.down / 2
    for record, each in zip(log, times, strict=True):
        assert record.bytes.down == of_client * (2 + each.discarded)
    folder = stopped(tmp_path / "stopped", 6, rounds=chosen)
    assert outcome(go_on(folder).folder) == outcome(run.folder)


# Synchronous rounds ---------------------------------------------------------------------------


PATIENT = {"name": "synchronous", "quorum": 0.2, "deadline": 1 / 64}
FAST_FIRST = {"name": "synchronous", "over_selection": 0.5}
SKEWED = {**EQUAL, "seconds_per_example": 0.001, "network_spread": 2.0}


@pytest.mark.parametrize("plan", [PATIENT, FAST_FIRST, {**PATIENT, "over_selection": 1.0}])
def test_stragglers_are_left_out_and_counted(plan: dict[str, Any], tmp_path: Path) -> None:
    chosen = rounds(plan, SKEWED, cohort_size=8)
    run = go(tmp_path / "run", rounds=chosen)
    log, before, took = log_of(run.folder), 0.0, list[float]()
    asked = min(round(8 * (1 + plan.get("over_selection", 0))), CLIENTS)
    for record in log:
        assert record.virtual is not None
        assert record.clients + record.virtual.stragglers == asked
        assert record.clients <= 8
        assert record.virtual.seconds > before
        took.append(record.virtual.seconds - before)
        before = record.virtual.seconds
    assert "deadline" not in plan or plan["deadline"] in took
    assert run.result["virtual"]["stragglers"] > 0
    assert run.result["virtual"]["seconds"] == before
    engine = {"name": "serial", "nodes": 3}
    folder = stopped(tmp_path / "stopped", 3, rounds=chosen, engine=engine)
    assert outcome(go_on(folder).folder) == outcome(run.folder)


def test_devices_change_no_bit_where_all_are_waited_for(tmp_path: Path) -> None:
    devices = go(tmp_path / "devices", rounds=rounds("synchronous", cohort_fraction=0.5))
    none = go(tmp_path / "none", rounds=rounds("synchronous", None, cohort_fraction=0.5))
    assert devices.result["digest"] == none.result["digest"]
    assert "virtual" not in none.result
    curve = devices.curve()
    assert curve["virtual.seconds"].is_monotonic_increasing


def test_a_round_without_clients_takes_no_time(tmp_path: Path) -> None:
    chosen = rounds("synchronous", EQUAL, selection="poisson", cohort_size=1, count=10)
    log = log_of(go(tmp_path / "run", rounds=chosen).folder)
    times = [0.0, *(record.virtual.seconds for record in log if record.virtual)]
    took: dict[bool, set[bool]] = {record.clients > 0: set() for record in log}
    for record, before, after in zip(log, times[:-1], times[1:], strict=True):
        took[record.clients > 0].add(after > before)
    assert took == {True: {True}, False: {False}}


def test_what_simulated_clients_do_not_wait_for_is_said(tmp_path: Path) -> None:
    plan = {"name": "synchronous", "over_selection": 0.5, "deadline": 1.0}
    without = go(tmp_path / "without", rounds=rounds(plan, None, cohort_size=8, count=2))
    said = [line for line in without.result["warnings"] if line.startswith("rounds.plan")]
    assert [line.split(":")[0] for line in said] == [
        "rounds.plan.over_selection",
        "rounds.plan.deadline",
    ]
    assert all("give them rounds.devices" in line for line in said)
    plain = rounds("synchronous", None, cohort_size=8, count=2)
    assert go(tmp_path / "plain", rounds=plain).result["digest"] == without.result["digest"]
    strict = rounds({**plan, "retries": 1}, EQUAL, cohort_size=8, count=2)
    said = go(tmp_path / "strict", rounds=strict).result["warnings"]
    assert [line.split(":")[0] for line in said if line.startswith("rounds.plan")] == [
        "rounds.plan.retries",
        "rounds.plan.deadline",
    ]
    buffered = go(tmp_path / "buffer", rounds=rounds(cohort_size=5, count=1)).result["warnings"]
    assert any(line.startswith("rounds.cohort_size: 5 has no effect") for line in buffered)


# Refused --------------------------------------------------------------------------------------


ATTACK = [{"name": "sign_flip", "share": 0.2}]
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "no devices": ({"rounds": rounds(devices=None)}, "needs rounds.devices"),
    "concurrency": ({"rounds": rounds({**BUFFER, "concurrency": 25})}, "concurrency: 25, but"),
    "size": ({"rounds": rounds({**BUFFER, "size": 25})}, "size: 25, but each of 24 clients"),
    "selection": ({"rounds": rounds(selection="loss")}, "leave rounds.selection out"),
    "each": ({"strategy": "median"}, "uses sums of updates, and the strategy median"),
    "groups": ({"strategy": "gpfedrec"}, "uses sums of updates, and the strategy gpfedrec"),
    "scaffold": ({"strategy": "scaffold"}, "the client rule scaffold needs one"),
    "attack": ({"transforms": ATTACK}, "has no rounds in which attackers act together"),
    "memory": ({"engine": {"state_limit": 5000}}, "engine.state_limit"),
    "flower": ({"engine": {"name": "flower"}}, "take engine: serial or ray"),
    "no plan": ({"rounds": rounds("strategies.selections:Uniform")}, "is not a round plan"),
    "zero": ({"rounds": rounds({**BUFFER, "size": 0})}, "size: expected 1 or more"),
    "no devices there": ({"rounds": rounds(devices={"name": "file", "path": "no.csv"})}, "no.csv"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_fit_is_refused_before_the_run(name: str, tmp_path: Path) -> None:
    changes, said = REFUSED[name]
    base = {"rounds": rounds(), "personalization": {"name": "none"}, "train": {}}
    with pytest.raises(FedRecError) as error:
        experiment = load_experiment(merged(SMALL, merged(base, changes)))
        prepare_run(experiment, tmp_path / "run")
    assert said in str(error.value)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


def test_a_run_does_not_go_on_with_other_devices(tmp_path: Path) -> None:
    table = tmp_path / "devices.csv"
    table.write_text("seconds_per_example,download,upload\n0.01,1000,1000\n0.02,500,100\n")
    chosen = rounds(devices={"name": "file", "path": str(table)})
    folder = stopped(tmp_path / "run", 2, rounds=chosen)
    table.write_text("seconds_per_example,download,upload\n0.01,1000,1000\n0.02,500,200\n")
    with pytest.raises(RunFolderError, match="the devices are not what they were"):
        go_on(folder)
    with pytest.raises(ConfigError, match=r"rounds\.plan\.size"):
        go_on(folder, "rounds.plan.size=5")
    moved = table.rename(tmp_path / "moved.csv")
    moved.write_text("seconds_per_example,download,upload\n0.01,1000,1000\n0.02,500,100\n")
    go_on(folder, f"rounds.devices.path={moved}")
    assert outcome(folder) == outcome(
        go(
            tmp_path / "whole", rounds=chosen | {"devices": {"name": "file", "path": str(moved)}}
        ).folder
    )

"""What ``auto`` means."""

import importlib.util
import os
from typing import Any

import pytest

from fedrec.compute.device import sees_gpu
from fedrec.config.engine import Engine
from fedrec.errors import ConfigError, MissingExtra
from fedrec.flower import launch
from fedrec.flower.launch import own_device, resolve_engine

CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def without_ray(name: str, package: str | None = None) -> object:
    return None if name == "ray" else importlib.util.find_spec(name, package)


def resolved(engine: Engine) -> tuple[str, int, int]:
    there = resolve_engine(engine)
    return there.name, there.workers, there.nodes


def test_serial_is_one_worker_whatever_is_asked_for() -> None:
    assert resolved(Engine(name="serial")) == ("serial", 1, 1)
    assert resolved(Engine(name="serial", workers=4)) == ("serial", 1, 1)
    assert resolved(Engine(name="serial", nodes=5)) == ("serial", 1, 5)


def test_numbers_given_are_kept_and_nodes_follow_workers() -> None:
    pytest.importorskip("ray", reason="needs the extra 'sim'")
    assert resolved(Engine(name="ray")) == ("ray", CORES, CORES)
    assert resolved(Engine(name="ray", workers=3)) == ("ray", 3, 3)
    assert resolved(Engine(name="flower", nodes=7)) == ("flower", CORES, 7)
    assert resolve_engine(Engine()).name == "ray"


def test_without_ray_auto_is_serial_and_ray_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(launch, "find_spec", without_ray)
    assert resolved(Engine()) == ("serial", 1, 1)
    with pytest.raises(MissingExtra, match=r"the Ray engine .*run: pip install "):
        resolve_engine(Engine(name="ray"))
    with pytest.raises(MissingExtra, match=r"Flower's simulation"):
        resolve_engine(Engine(name="flower"))


def test_a_worker_has_a_gpu_where_one_is_reserved_for_it() -> None:
    pytest.importorskip("ray", reason="needs the extra 'sim'")
    shared = Engine(name="ray", gpus_per_worker=0.5)
    assert resolve_engine(shared).device == "cuda"
    assert resolve_engine(Engine(name="ray")).device == "cpu"
    assert own_device(Engine(name="flower")) == "cpu"
    # Nothing is reserved for what computes on the CPU.
    for engine, moves in ((shared.model_copy(update={"device": "cpu"}), True), (shared, False)):
        chosen = resolve_engine(engine, moves)
        assert (chosen.device, chosen.gpus_per_worker) == ("cpu", 0.0)


def test_a_gpu_that_no_worker_would_have_is_refused() -> None:
    pytest.importorskip("ray", reason="needs the extra 'sim'")
    with pytest.raises(ConfigError, match=r"gpus_per_worker: 0, but engine.device is cuda"):
        resolve_engine(Engine(name="ray", device="cuda"))
    with pytest.raises(ConfigError, match=r"device: cuda:1, but Ray chooses the GPU .*write cuda"):
        resolve_engine(Engine(name="ray", device="cuda:1", gpus_per_worker=1.0))


@pytest.mark.parametrize("name", ["auto", "serial"])
def test_a_gpu_that_is_not_there_is_refused(name: Any) -> None:
    with pytest.raises(ConfigError, match=r"device: cuda:99, but torch .* sees .*; write auto"):
        resolve_engine(Engine(name=name, device="cuda:99"))


def test_one_process_takes_the_gpu_that_is_there() -> None:
    there = "cuda" if sees_gpu() else "cpu"
    assert resolve_engine(Engine(name="serial")).device == there
    assert own_device(Engine()) == there

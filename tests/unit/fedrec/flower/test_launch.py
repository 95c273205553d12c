"""What ``auto`` means."""

import importlib.util
import os

import pytest

from fedrec.config.experiment import Engine
from fedrec.errors import MissingExtra
from fedrec.flower import launch
from fedrec.flower.launch import resolve_engine

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

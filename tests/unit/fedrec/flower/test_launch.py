"""What ``auto`` means."""

import importlib.util
import os

import pytest

from fedrec.config.experiment import Engine
from fedrec.errors import MissingExtra
from fedrec.flower import launch
from fedrec.flower.launch import ResolvedEngine, resolve_engine

CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def without_ray(name: str, package: str | None = None) -> object:
    return None if name == "ray" else importlib.util.find_spec(name, package)


def test_serial_is_one_worker_whatever_is_asked_for() -> None:
    assert resolve_engine(Engine(name="serial")) == ResolvedEngine("serial", 1, 1)
    assert resolve_engine(Engine(name="serial", workers=4)) == ResolvedEngine("serial", 1, 1)
    assert resolve_engine(Engine(name="serial", nodes=5)) == ResolvedEngine("serial", 1, 5)


def test_numbers_given_are_kept_and_nodes_follow_workers() -> None:
    pytest.importorskip("ray", reason="needs the extra 'sim'")
    assert resolve_engine(Engine(name="ray")) == ResolvedEngine("ray", CORES, CORES)
    assert resolve_engine(Engine(name="ray", workers=3)) == ResolvedEngine("ray", 3, 3)
    assert resolve_engine(Engine(name="flower", nodes=7)) == ResolvedEngine("flower", CORES, 7)
    assert resolve_engine(Engine()).name == "ray"


def test_without_ray_auto_is_serial_and_ray_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(launch, "find_spec", without_ray)
    assert resolve_engine(Engine()) == ResolvedEngine("serial", 1, 1)
    with pytest.raises(MissingExtra, match=r"the Ray engine .*run: pip install "):
        resolve_engine(Engine(name="ray"))
    with pytest.raises(MissingExtra, match=r"Flower's simulation"):
        resolve_engine(Engine(name="flower"))

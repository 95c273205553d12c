"""What ``auto`` means."""

from __future__ import annotations

import importlib.util
import os

import pytest

from fedrec.config.engine import Engine
from fedrec.errors import EngineError, MissingExtra
from fedrec.flower import apps, launch
from fedrec.flower.apps import app_reference, load_app
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


def test_an_app_that_is_not_registered_says_how_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(apps, "GROUP", "fedrec.nothing")
    with pytest.raises(EngineError, match=r"pip install -e \."):
        app_reference("server")


def test_a_reference_to_something_else_is_refused() -> None:
    with pytest.raises(
        EngineError, match=r"fedrec.config.experiment:Engine is .*, expected a ClientApp"
    ):
        load_app("fedrec.config.experiment:Engine", "ClientApp")
    with pytest.raises(EngineError, match=r"has no 'Engin' \(did you mean 'Engine'\?\)"):
        load_app("fedrec.config.experiment:Engin", "ClientApp")

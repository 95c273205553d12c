"""Each bench once, as small as it goes: the figures are there; how large they are is no test."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.integration.refusal import Fedrec

pytest.importorskip("numba", reason="needs the extra 'sim'")

STANDARD = ("loop", "loop_loader", "kernel", "alone")
PHASES = {"sample", "gather", "train", "reduce", "wire", "apply", "state", "other"}


def read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    assert {"hardware", "versions", "commit", "date"} <= set(found)
    return found


def small(command: Fedrec, here: Path, *arguments: str) -> dict[str, Any]:
    done = command("bench", *arguments, "--repeats", "1", "--json", "found.json")
    assert done.code == 0, done.err
    assert done.out
    return read(here / "found.json")


def check(found: dict[str, Any], *others: str) -> None:
    assert set(found["ratios"]) == {f"batched/{name}" for name in (*STANDARD, *others)}
    assert all(ratio > 0 for ratio in found["ratios"].values())
    for row in found["rows"].values():
        assert len(row["raw_seconds"]) == 1
        assert row["clients_per_second"] > 0
    assert set(found["phases"]["seconds"]) == PHASES
    assert found["phases"]["seconds"]["train"] > 0
    assert found["phases"]["seconds"]["apply"] > 0


@pytest.mark.slow
def test_engine(command: Fedrec, here: Path) -> None:
    wanted = ("--data", "tiny", "--clients", "12", "--workers", "1", "--flower-clients", "0")
    check(small(command, here, "engine", *wanted, "--personalization", "plgc"))


@pytest.mark.slow
def test_engine_beside_flower_on_two_workers(command: Fedrec, here: Path) -> None:
    pytest.importorskip("ray", reason="needs the extra 'sim'")
    wanted = ("--data", "tiny", "--clients", "12", "--flower-clients", "4")
    found = small(command, here, "engine", *wanted)
    check(found, "flower_ray")
    assert found["rows"]["flower_ray"]["clients"] == 4
    assert set(found["rows"]["flower_ray"]["tried"]) == {"1", "0.5"}
    # Work this small may take the workers less than a tick of the clock.
    assert found["driver_share"] is None or 0 < found["driver_share"] < 1


@pytest.mark.slow
def test_evaluate(command: Fedrec, here: Path) -> None:
    found = small(command, here, "evaluate", "--data", "tiny")
    assert set(found["ratios"]) == {"evaluate/mm", "evaluate/train"}
    assert all(ratio > 0 for ratio in found["ratios"].values())


@pytest.mark.slow
def test_scale(command: Fedrec, here: Path) -> None:
    sizes = ("--clients", "20", "--clients", "40", "--items", "120")
    found = small(command, here, "scale", *sizes, "--workers", "1")
    assert found["exponent"] == max(found["exponents"].values())
    assert found["speedup_2_workers"] is None
    assert found["pss_gib"] >= 0
    assert [case["clients"] for case in found["cases"]] == [20, 40, 20, 40]


def test_a_wrong_name_is_one_line(command: Fedrec, here: Path) -> None:
    done = command("bench", "scale", "--personalization", "plg")
    assert done.code == 2
    assert done.err.startswith("error: ") or "error: --personalization" in done.err

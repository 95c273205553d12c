"""Each bench once, as small as it goes: the figures are there; how large they are is no test."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from experiments.benchmarks import engine
from experiments.benchmarks.__main__ import app
from fedrec.errors import ConfigError

pytest.importorskip("numba", reason="needs the extra 'sim'")

CANDIDATES = ("loop", "loop_loader", "alone", "flower_ray")


def read(path: Path) -> dict[str, Any]:
    figures: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    assert {"hardware", "versions", "commit", "date"} <= set(figures)
    return figures


def small(folder: Path, *arguments: str) -> dict[str, Any]:
    done = CliRunner().invoke(
        app, [*arguments, "--repeats", "1", "--json", f"{folder}/result.json"]
    )
    assert done.exit_code == 0, done.output
    return read(folder / "result.json")


@pytest.mark.slow
def test_engine_beside_flower_on_two_workers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ray", reason="needs the extra 'sim'")
    monkeypatch.setattr(engine, "FLOWER_ACTORS_PER_CORE", (1,))
    wanted = ("--data", "tiny", "--clients", "12", "--flower-clients", "4")
    figures = small(tmp_path, "engine", *wanted, "--personalization", "plgc")
    assert set(figures["ratios"]) == {f"batched/{name}" for name in CANDIDATES}
    assert all(ratio > 0 for ratio in figures["ratios"].values())
    for row in figures["rows"].values():
        assert len(row["raw_seconds"]) == 1
        assert row["clients_per_second"] > 0
    assert figures["rows"]["flower_ray"]["clients"] == 4
    assert set(figures["rows"]["flower_ray"]["tried"]) == {"1"}
    # Work this small may take the workers less than a tick of the clock.
    assert figures["driver_share"] is None or 0 < figures["driver_share"] < 1


@pytest.mark.slow
def test_evaluate(tmp_path: Path) -> None:
    figures = small(tmp_path, "evaluate", "--data", "tiny")
    assert set(figures["ratios"]) == {"evaluate/mm", "evaluate/model", "evaluate/train"}
    assert all(ratio > 0 for ratio in figures["ratios"].values())


@pytest.mark.slow
def test_scale(tmp_path: Path) -> None:
    sizes = ("--clients", "20", "--clients", "40", "--items", "120")
    figures = small(tmp_path, "scale", *sizes, "--workers", "1")
    assert figures["exponent"] == max(figures["exponents"].values())
    assert figures["speedup_2_workers"] is None
    assert figures["pss_gib"] >= 0
    assert [case["clients"] for case in figures["cases"]] == [20, 40, 20, 40]


def test_a_wrong_name_is_one_line() -> None:
    done = CliRunner().invoke(app, ["scale", "--personalization", "plg"])
    assert isinstance(done.exception, ConfigError)
    assert str(done.exception).startswith("--personalization")

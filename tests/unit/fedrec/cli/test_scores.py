import io
import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from fedrec.cli.scores import result_table, spread, summarize, summary_table

VALUES = st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=9)


def result(seed: int, ndcg: float, view: float | None = None) -> dict[str, Any]:
    scores: dict[str, Any] = {"valid": {"ndcg@10": ndcg + 1}, "test": {"ndcg@10": ndcg}}
    scores["views"] = {} if view is None else {"global": {"ndcg@10": view}}
    return {
        "name": "plgc + mf + fedadam",
        "seed": seed,
        "digest": f"digest of {seed}",
        "protocol": "clean",
        "best_round": 10 * seed,
        "metrics": scores,
        "seconds": {"total": 2.0},
        "clients_per_second": 1234.5,
    }


def shown(table: object) -> str:
    console = Console(file=io.StringIO(), width=120)
    console.print(table)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@given(VALUES, st.floats(-10, 10), st.floats(-100, 100))
def test_spread_follows_scale_and_shift(values: list[float], scale: float, shift: float) -> None:
    plain, mapped = spread(values), spread([scale * value + shift for value in values])
    assert math.isclose(mapped["mean"], scale * plain["mean"] + shift, abs_tol=1e-6)
    assert math.isclose(mapped["sd"], abs(scale) * plain["sd"], rel_tol=1e-6, abs_tol=1e-6)


@given(VALUES, st.randoms())
def test_spread_does_not_depend_on_the_order(values: list[float], random: Any) -> None:
    shuffled = random.sample(values, len(values))
    assert spread(shuffled)["mean"] == spread(values)["mean"]
    assert spread(shuffled)["sd"] == spread(values)["sd"]


def test_spread_of_few() -> None:
    assert spread([2.0]) == {"mean": 2.0, "sd": None, "values": [2.0]}
    assert spread([None]) == {"mean": None, "sd": None, "values": [None]}
    assert spread([1.0, None, 3.0])["mean"] == 2.0


def test_summary_holds_every_part_and_can_be_read_back(tmp_path: Path) -> None:
    runs = [result(1, 0.25, view=0.5), result(2, 0.75, view=1.0)]
    summary = summarize(runs, [tmp_path / "seed1", tmp_path / "seed2"])
    assert summary == json.loads(json.dumps(summary))
    assert summary["seeds"] == [1, 2]
    assert summary["metrics"]["test"]["ndcg@10"]["mean"] == 0.5
    assert summary["metrics"]["valid"]["ndcg@10"]["mean"] == 1.5
    assert summary["metrics"]["test.global"]["ndcg@10"]["values"] == [0.5, 1.0]
    assert summary["seconds"]["total"]["sd"] == 0.0
    assert summary["best_round"]["mean"] == 15
    text = shown(summary_table(summary, tmp_path))
    assert "0.5000 ± 0.3536" in text
    assert "0.7500 ± 0.3536" in text


@pytest.mark.parametrize("view", [None, 0.125])
def test_result_table_shows_each_score(view: float | None) -> None:
    text = shown(result_table(result(3, 0.25, view), Path("runs/[odd] name")))
    assert "1.2500" in text and "0.2500" in text
    assert ("0.1250" in text) == (view is not None)
    assert "runs/[odd] name" in text, "a path is not markup"
    assert "seed 3, round 30" in text


def test_a_protocol_that_leaks_is_named() -> None:
    leaking = {**result(1, 0.5), "protocol": "legacy"}
    assert "protocol legacy" in shown(result_table(leaking, Path("run")))
    assert "protocol" not in shown(result_table(result(1, 0.5), Path("run")))

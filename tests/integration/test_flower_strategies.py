"""Flower's own strategies from YAML: a run that goes on has the bits of one that ran on.

Their arithmetic: tests/unit/strategies/test_flower.py.
"""

from pathlib import Path
from typing import Any

import pytest

import fedrec
from tests.integration.refusal import Fedrec
from tests.integration.stopped_runs import go, go_on, outcome, stopped

STRATEGIES: dict[str, dict[str, Any]] = {
    "FedTrimmedAvg": {"beta": 0.1},
    "FedAdam": {"eta": 0.01},
    "Krum": {"num_malicious_nodes": 2},
}
YAML = """\
data: {name: synthetic, users: 40, items: 60, taste_groups: 2, interactions_per_user: 12}
model: {name: mf, embedding_dim: 4}
train: {backend: torch}
strategy: {name: flower, of: "%s", options: %s}
rounds: {count: 2}
engine: {name: serial}
evaluate: {metrics: [ndcg@5]}
"""
OWN = """\
from flwr.serverapp.strategy import FedAvg

class Half(FedAvg):
    def __init__(self, share):
        super().__init__()
        self.share = share

    def aggregate_train(self, server_round, replies):
        replies = list(replies)
        return super().aggregate_train(server_round, replies[: int(len(replies) * self.share)])
"""


def flower(name: str, unit: str = "client") -> dict[str, Any]:
    of = f"flwr.serverapp.strategy:{name}"
    return {"name": "flower", "of": of, "options": STRATEGIES[name], "unit": unit}


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_run_that_goes_on_is_one_that_was_not_stopped(name: str, tmp_path: Path) -> None:
    strategy = flower(name)
    expected = outcome(go(tmp_path / "run", strategy=strategy).folder)
    folder = stopped(tmp_path / "stopped", 2, strategy=strategy)
    assert outcome(go_on(folder).folder) == expected


def test_the_number_of_nodes_changes_results_of_nodes_alone(tmp_path: Path) -> None:
    for unit, alike in (("client", True), ("node", False)):
        digests = []
        for nodes in (1, 3):
            out, engine = tmp_path / f"{unit}{nodes}", {"name": "serial", "nodes": nodes}
            result = go(out, strategy=flower("FedTrimmedAvg", unit), engine=engine).result
            digests.append(result["digest"])
            assert any("number of nodes" in line for line in result["warnings"]) == (not alike)
        assert (digests[0] == digests[1]) == alike


def test_a_strategy_of_the_users_is_part_of_the_run(command: Fedrec, here: Path) -> None:
    (here / "half.py").write_text(OWN, encoding="utf-8")
    (here / "own.yaml").write_text(YAML % ("half:Half", "{share: 0.5}"), encoding="utf-8")
    assert command("run", "own.yaml", "--out", "R", "--quiet").code == 0
    assert (here / "R" / "source" / "half.py").read_text(encoding="utf-8") == OWN
    result = fedrec.load(here / "R").result
    assert (result["status"], result["strategy"]) == ("completed", "flower")


def test_faults_are_one_line(command: Fedrec, here: Path) -> None:
    faults = {
        ("flwr.serverapp.strategy:FedAvgg", "{}"): "strategy.of: ",
        ("flwr.serverapp.strategy:FedAvg", "{fraction_train: 0.1}"): "strategy.options: fraction_",
        ("flwr.serverapp.strategy:FedProx", "{proximal_mu: 0.1}"): "strategy.of: ",
    }
    for (of, options), said in faults.items():
        (here / "own.yaml").write_text(YAML % (of, options), encoding="utf-8")
        done = command("run", "own.yaml", "--out", "R", "--quiet")
        assert (done.code, "Traceback" in done.err) == (2, False)
        (line,) = (each for each in done.err.splitlines() if each.startswith("error: "))
        assert said in line

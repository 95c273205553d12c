"""What the tests of resuming share: a small run, ways to stop it, and all that it leaves behind."""

from pathlib import Path
from typing import Any

import pytest

import fedrec
from fedrec.config.experiment import load_experiment
from fedrec.runs.log import RoundRecord, read_log
from fedrec.runs.reader import RunFolder
from tests.integration.test_run_serial import BASE, PLGC, merged

__all__ = ["ROUNDS", "SMALL", "go", "go_on", "outcome", "rounds_of", "stopped"]

ROUNDS = 4
SMALL: dict[str, Any] = merged(
    BASE,
    {
        "data": {**BASE["data"], "users": 24, "items": 30},
        "personalization": PLGC,
        "strategy": {"name": "fedadam", "server_optimizer": {"lr": 0.05}},
        "rounds": {"count": ROUNDS, "cohort_fraction": 0.5},
        "evaluate": {"every": 2, "metrics": ["ndcg@5", "hit_rate@5", "coverage@5"]},
        "engine": {"name": "serial", "nodes": 2},
    },
)


def go(out: Path, **changes: Any) -> fedrec.RunResult:
    return fedrec.run(load_experiment(merged(SMALL, changes)), out=out)


def go_on(folder: Path, *sets: str, **options: Any) -> fedrec.RunResult:
    return fedrec.resume(folder, sets=sets, accept_other_code=True, **options)


def rounds_of(folder: Path) -> list[dict[str, Any]]:
    """The run log without times and without the simulation's messages, which hold paths."""
    rounds = read_log(folder / "rounds.jsonl")
    return [each.model_dump(mode="json", exclude={"seconds", "simulation"}) for each in rounds]


def outcome(folder: Path) -> dict[str, Any]:
    """All that a run leaves behind but times, as values that compare."""
    run = RunFolder(folder)
    result = run.result
    keys = ("digest", "status", "best_round", "rounds", "metrics")
    return {
        **{key: result.get(key) for key in keys},
        "log": rounds_of(folder),
        "rounds of the log": len(run.rounds()),
        "model": {name: value.tobytes() for name, value in run.model().items()},
        "users": run.per_user().to_dict(),
        "local": {
            per: {name: value.tobytes() for name, value in run.local(per).items()}
            for per in ("user", "client", "positive")
        },
    }


def stopped(out: Path, after: int, **changes: Any) -> Path:
    """A run that its user stops when it has seen a round."""

    def watch(record: RoundRecord) -> None:
        if record.round == after:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fedrec.run(load_experiment(merged(SMALL, changes)), out=out, on_round=watch)
    return out

"""A setting that changes nothing is named, with the reason; one that acts is not."""

from functools import cache
from pathlib import Path
from typing import Any

import pytest

from fedrec.config.experiment import Experiment
from fedrec.data.prepare import split_of
from fedrec.errors import ConfigError
from fedrec.runs.open_run import OpenRun
from fedrec.runs.prepare import settings_without_effect
from tests.integration.test_run_serial import merged

BASE = {
    "data": {"name": "synthetic", "users": 12, "items": 20, "taste_groups": 2},
    "engine": {"name": "serial"},
}


@cache
def _split() -> Any:
    experiment = Experiment.model_validate(BASE)
    return split_of(experiment.data, experiment.clients)


def warned(**changes: Any) -> list[str]:
    experiment = Experiment.model_validate(merged(BASE, changes))
    return settings_without_effect(OpenRun(Path(), experiment, Path(), _split()))


SAID: dict[str, dict[str, Any]] = {
    "strategy.client_rule.name: fednova has no effect: all clients make the same number": {
        "strategy": "fednova"
    },
    "strategy.aggregation.q: 0 has no effect: it is the aggregation mean": {
        "strategy": {"name": "qfedavg", "aggregation": {"q": 0}}
    },
    "strategy.aggregation.floor: 13 clients are more than the 12 of a round": {
        "strategy": {"name": "fedavg", "aggregation": {"floor": 13}}
    },
    "strategy.aggregation.byzantine: 0 leaves no client out": {
        "strategy": {"name": "bulyan", "aggregation": {"byzantine": 0, "min_clients": 4}}
    },
    "strategy.aggregation.select: 10 has no effect: at most 9 clients": {
        "strategy": {"name": "multi_krum", "aggregation": {"select": 10}}
    },
    "strategy.aggregation.trim: 0.05 of the 12 clients of a round is less than one": {
        "strategy": {"name": "trimmed_mean", "aggregation": {"trim": 0.05}}
    },
    "strategy.share: 1 has no effect: every group takes the mean of all": {
        "strategy": {"name": "clustered", "share": 1}
    },
    "strategy.neighbours: 1 makes no graph: each receives its own table": {
        "strategy": {"name": "gpfedrec", "neighbours": 1}
    },
    "transforms.0.share: 0.01 of the clients is less than one attacker; there is one": {
        "transforms": [{"name": "sign_flip", "share": 0.01}]
    },
    "transforms.0.name: alie has no effect in most rounds": {
        "transforms": [{"name": "alie", "share": 0.1}]
    },
    "evaluate.metrics: er@19: 8 of 8 users have at most 19 items left to rank": {
        "evaluate": {"metrics": ["ndcg@5", "er@19"], "targets": ["3"]}
    },
    "strategy.client_rule.mu: 0.01 has no effect: clients make one step": {"strategy": "fedprox"},
    "strategy.client_rule.mu: 0 has no effect: clients train plainly": {
        "strategy": {"name": "fedprox", "client_rule": {"mu": 0}}
    },
    "strategy.server_optimizer.moments: lazy has no effect: nothing is remembered of a row": {
        "strategy": {"name": "fedavg", "server_optimizer": {"moments": "lazy"}}
    },
    "strategy.clusters: 1 has no effect: this is fedavg": {
        "strategy": {"name": "clustered", "clusters": 1}
    },
    "strategy.clusters: 4 has no effect: groups are made in round 20": {
        "strategy": "clustered",
        "rounds": {"count": 20},
    },
    "strategy.aggregation.min_clients: 9 has no effect: items that few clients touched take": {
        "strategy": {"name": "median", "aggregation": {"min_clients": 9}},
    },
    "strategy.aggregation.floor: 3 has no effect: it belongs to average: per_row": {
        "strategy": {"name": "fedavg", "aggregation": {"average": "cohort", "floor": 3}}
    },
    "strategy.aggregation.name: krum has no effect on most items: it takes 9 clients": {
        "strategy": {"name": "krum", "aggregation": {"byzantine": 3}},
        "rounds": {"cohort_size": 11},
        "train": {"negatives": 1},
    },
    "strategy.aggregation.weighting: examples has no effect": {
        "strategy": {"name": "fedavg", "aggregation": {"average": "sum", "weighting": "examples"}}
    },
    "train.weight_decay: 0.1 has no effect: the model has no private": {
        "model": "sasrec",
        "train": {"weight_decay": 0.1},
    },
    "train.optimizers.shared.lr: 0.5 has no effect": {
        "model": "mf",
        "train": {"optimizers": {"shared": {"lr": 0.5}}},
    },
    "train.optimizers.private.lr: 0.5 has no effect": {
        "model": "sasrec",
        "train": {"optimizers": {"private": {"lr": 0.5}}},
    },
    "train.optimizers.private.beta1: 0.5 has no effect: it belongs to adam and adamw": {
        "train": {"optimizers": {"private": {"name": "sgd", "beta1": 0.5}}},
    },
    "train.optimizers.private.momentum: 0.9 has no effect: it belongs to sgd": {
        "train": {"optimizers": {"private": {"momentum": 0.9}}},
    },
    "train.optimizers.shared.name: adamw has no effect: the model shares nothing but": {
        "train": {"optimizers": {"shared": "adamw"}},
    },
    "evaluate.targets: has no effect: no metric measures them; add er@10": {
        "evaluate": {"targets": {"choose": "random"}},
    },
    "train.schedule.warmup: 9 has no effect: it belongs to wsd": {
        "train": {"schedule": {"warmup": 9}},
    },
    "train.schedule.name: wsd has no effect: every round": {
        "train": {"schedule": {"name": "wsd", "warmup": 1, "stable": 2}},
    },
    "train.schedule.warmup: 1 has no effect: the first round": {
        "train": {"schedule": {"name": "wsd", "warmup": 1, "anneal": 2}},
    },
    "train.schedule.floor: 0.5 has no effect: nothing is annealed": {
        "train": {"schedule": {"name": "wsd", "warmup": 5, "floor": 0.5}},
    },
    "train.micro_batch: 99 has no effect: no client has more pairs in a step": {
        "train": {"micro_batch": 99, "negatives": 1},
    },
    "train.negative_sampling: popularity has no effect: the model draws": {
        "model": "tests.unit.fedrec.training.test_own_negatives:Uniform",
        "train": {"negative_sampling": "popularity"},
    },
    "train.batch_size: 99 has no effect": {"train": {"batch_size": 99}},
    "model.params: 'lost' has no effect": {"model": "tests.contracts.broken_plugins:Unused"},
    "rounds.patience: 9 has no effect: rounds.count 6 leads to only 3 evaluations": {
        "rounds": {"count": 6, "patience": 9},
        "evaluate": {"every": 2},
    },
    "rounds.plan.retries: 2 has no effect: on the virtual clock of rounds.devices": {
        "rounds": {"devices": "synthetic", "plan": {"name": "synchronous", "retries": 2}}
    },
    "rounds.plan.deadline: 9.0 has no effect: on the virtual clock of rounds.devices": {
        "rounds": {"devices": "synthetic", "plan": {"name": "synchronous", "deadline": 9}}
    },
    "rounds.cohort_size: 5 has no effect: rounds.plan asynchronous says how many": {
        "rounds": {"devices": "synthetic", "plan": "asynchronous", "cohort_size": 5}
    },
    "rounds.plan.staleness.slope: 2.0 has no effect: it belongs to hinge": {
        "rounds": {
            "devices": "synthetic",
            "plan": {"name": "asynchronous", "staleness": {"slope": 2}},
        }
    },
    "rounds.cohort_fraction: 1 has no effect": {"rounds": {"cohort_fraction": 1.0}},
    "personalization.value: 0.3 has no effect: balance: alignment": {
        "personalization": {"name": "plgc", "value": 0.3}
    },
    "personalization.ema: 0.5 has no effect: balance: fixed": {
        "personalization": {"name": "plgc", "balance": "fixed", "ema": 0.5}
    },
    "personalization.pull: 0.5 has no effect: epochs is 0": {
        "personalization": {"name": "finetune", "epochs": 0, "pull": 0.5}
    },
    "personalization.heads: auto has no effect: no parameter is private or": {
        "model": "tests.contracts.own_models:ItemsAlone",
        "personalization": "fedrep",
    },
    "train.local_epochs: 3 has no effect: the personalization has epochs of its own": {
        "train": {"local_epochs": 3},
        "personalization": {"name": "fedrep", "head_epochs": 2},
    },
    "personalization.extra_rows: 5 has no effect: decorrelation is 0, balance: fixed": {
        "personalization": {"name": "plgc", "extra_rows": 5, "balance": "fixed"}
    },
    "personalization.gamma: 0.1 has no effect: it belongs to view: cross": {
        "personalization": {"name": "plgc", "gamma": 0.1, "decorrelation": 0.1}
    },
    "personalization.per: row has no effect: it belongs to branch: similarity": {
        "personalization": {"name": "plgc", "branch": "table", "per": "row"}
    },
    "strategy.client_rule.mu: 0.01 has no effect: clients make one step per round": {
        "train": {"local_epochs": 3},
        "model": "neumf",
        "personalization": "fedrep",
        "strategy": "fedprox",
    },
    "train.batch_size: 9 has no effect": {
        "model": {"name": "sasrec", "max_len": 3},
        "train": {"batch_size": 9},
    },
    "train.loss: bpr has no effect: the model has a loss of its own": {
        "model": "tests.contracts.own_models:SquaredErrors",
        "train": {"loss": "bpr"},
    },
    "personalization.tau: 2.0 has no effect: it belongs to branch: similarity": {
        "personalization": {"name": "plgc", "branch": "table", "tau": 2.0}
    },
    "evaluate.metrics: ndcg@19: 12 of 12 users have at most 19 items left": {
        "evaluate": {"metrics": ["ndcg@19"]}
    },
    "engine.workers: 2 has no effect: the serial engine": {"engine": {"workers": 2}},
    "engine.chunk: 9 has no effect: numba": {"engine": {"chunk": 9}},
    "engine.precision: bf16 has no effect: numba computes on the CPU": {
        "engine": {"precision": "bf16"}
    },
    "engine.gpus_per_worker: 0.5 has no effect: engine.device is cpu": {
        "engine": {"name": "ray", "device": "cpu", "gpus_per_worker": 0.5}
    },
    "engine.gpus_per_worker: 1.0 has no effect: numba uses the CPU": {
        "engine": {"name": "ray", "gpus_per_worker": 1}
    },
    "data.split.test: 0.2 has no effect: leave_one_out": {"data": {"split": {"test": 0.2}}},
    "clients.seed: 3 has no effect: by: user": {"clients": {"seed": 3}},
    "strategy: has no effect: ItemKNN is a centralised baseline": {
        "model": "itemknn",
        "strategy": "fedadam",
    },
}


@pytest.mark.parametrize("said", SAID)
def test_a_setting_without_effect_is_named(said: str) -> None:
    lines = warned(**SAID[said])
    assert any(line.startswith(said) for line in lines), lines


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"strategy": "median"},
        {"strategy": "krum"},
        {"strategy": "clustered", "rounds": {"count": 21}},
        {"strategy": "fedprox", "train": {"local_epochs": 2}},
        {"strategy": "fedprox", "train": {"batch_size": 2}},
        {"strategy": {"name": "fedavg", "aggregation": {"weighting": "examples"}}},
        {"strategy": {"server_optimizer": {"name": "adam", "moments": "lazy"}}},
        {"train": {"weight_decay": 0.1}},
        {"train": {"batch_size": 2}},
        {"train": {"micro_batch": 2}},
        {"train": {"backend": "torch"}, "engine": {"chunk": 9}},
        {"train": {"optimizers": {"private": {"beta1": 0.5}}}},
        {"model": "neumf", "train": {"optimizers": {"shared": {"lr": 0.5}}}},
        {"model": "neumf", "train": {"optimizers": {"shared": "adamw"}, "clip_norm": 3.0}},
        {"train": {"schedule": {"name": "wsd", "warmup": 2, "anneal": 9, "floor": 0}}},
        {"train": {"optimizers": {"item": {"momentum": 0.9, "nesterov": True}}}},
        {"rounds": {"count": 6, "patience": 2}, "evaluate": {"every": 2}},
        {"personalization": {"name": "plgc", "balance": "fixed", "value": 0.3}},
        {"personalization": {"name": "plgc", "extra_rows": 5, "decorrelation": 0.1}},
        {"personalization": {"name": "plgc", "extra_rows": 5}},
        {"train": {"local_epochs": 3}, "personalization": "fedrep"},
        {"personalization": {"name": "finetune", "pull": 0.5}},
        {"data": {"split": {"name": "ratio", "test": 0.2}}},
        {"clients": {"by": "random", "count": 4, "seed": 3}},
        {"model": "popularity", "engine": {"name": "auto"}},
    ],
    ids=str,
)
def test_a_setting_that_acts_is_not(changes: dict[str, Any]) -> None:
    assert warned(**changes) == []


TOO_FEW: dict[str, dict[str, Any]] = {
    "bulyan takes 7 clients, and a round has 6; raise rounds.cohort_size": {
        "strategy": "bulyan",
        "rounds": {"cohort_size": 6},
    },
    "bulyan takes 15 clients, and a round has 12; lower its options": {
        "strategy": {"name": "bulyan", "aggregation": {"byzantine": 3}},
    },
    "krum takes 5 clients, and a round has 4; raise rounds.cohort_size": {
        "strategy": "krum",
        "rounds": {"cohort_size": 4},
    },
    "median takes 3 clients, and a round has 2; raise rounds.cohort_size": {
        "strategy": "median",
        "rounds": {"cohort_size": 2},
    },
}


@pytest.mark.parametrize("line", TOO_FEW)
def test_a_rule_that_no_round_has_clients_for_is_refused(line: str) -> None:
    """In one line, before the first round."""
    with pytest.raises(ConfigError) as error:
        warned(**TOO_FEW[line])
    assert str(error.value).startswith(f"strategy.aggregation: {line}")

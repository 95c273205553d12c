"""What the rounds of a run add up to, which of them validation chose, and whether it diverges."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from fedrec.config.experiment import Experiment
from fedrec.config.yaml import flatten
from fedrec.data.textfile import unpacked_name
from fedrec.errors import ConfigError
from fedrec.plugins import name_of
from fedrec.runs.log import RoundRecord
from fedrec.training.task import ClientTask

# A training loss below this many times the lowest so far has fallen.
FALLEN = 0.99
# A loss this many times that of the first round stops the run.
GROWTH = 1000.0
# So does one this many times as high in `LASTING` rounds in a row.
LASTING_GROWTH = 10.0
LASTING = 3
# Endings of the settings that can make training diverge.
RATES = (".lr", ".server_lr")
SUSPECTS = (
    *RATES,
    "_std",
    ".mu",
    "client_rule.alpha",
    ".weight_decay",
    ".decorrelation",
    "personalization.tau",
)
# Clients of `fedrec.runs.log.Virtual` that received parameters in vain.
_LEFT_OUT = ("stragglers", "discarded")
# A validation score below this many times popularity's is near it.
NEAR = 1.05


class Tally:
    """Adds up rounds as they come, so that of evaluations none is kept but the best.

    The best round has the highest value of the first metric on validation, the earliest of
    equals; where nobody has validation items, it is the latest that was evaluated.

    Args:
        metric: The metric that chooses, such as ``ndcg@10``.
        popularity: Returns popularity's score on validation, or None where it is not known.
        rounds: The rounds so far.

    Attributes:
        best: The best round so far.
        stale: Evaluations since the last progress: a better score or, while the best score is
            near popularity, a training loss that has fallen by 1 %.
        losses: The training loss of each round that has one.
        clients: How many took part, each round's counted.
    """

    def __init__(
        self,
        metric: str,
        popularity: Callable[[], float | None] = lambda: None,
        rounds: Iterable[RoundRecord] = (),
    ) -> None:
        self._metric = metric
        self._popularity = popularity
        self._lowest_loss = math.inf
        self.clients = self._failures = 0
        self.best: RoundRecord | None = None
        self.stale = 0
        self.losses: list[float] = []
        self.rounds = 0
        self._virtual: dict[str, float] = {}
        self._sums: dict[str, dict[str, float]] = {
            "seconds": {"train": 0.0, "evaluate": 0.0},
            "bytes": {"up": 0, "down": 0},
            "simulation": {"up": 0, "down": 0},
        }
        for record in rounds:
            self.add(record)

    def add(self, record: RoundRecord) -> bool:
        """Add a round; return whether it is the best so far."""
        self.rounds = record.round
        self.clients += record.clients
        self._failures += len(record.failures)
        if (virtual := record.virtual) is not None:
            self._virtual["seconds"] = virtual.seconds
            for name in _LEFT_OUT:
                self._virtual[name] = self._virtual.get(name, 0) + getattr(virtual, name)
        for name, sums in self._sums.items():
            for key in sums:
                sums[key] += getattr(getattr(record, name), key)
        if record.loss is not None:
            self.losses.append(record.loss)
        if record.evaluation is None:
            return False
        score = record.score("valid", self._metric)
        best = None if self.best is None else self.best.score("valid", self._metric)
        better = score is None or best is None or score > best
        if better:
            self.best = record
        loss = math.inf if record.loss is None else record.loss
        fallen = loss < FALLEN * self._lowest_loss
        if fallen:
            self._lowest_loss = loss
        progress = better or (fallen and self.scores_near_popularity() is not None)
        self.stale = 0 if progress else self.stale + 1
        return better

    def scores_near_popularity(self) -> tuple[float, float] | None:
        """Return the best score and popularity's if they are near; None otherwise."""
        score = None if self.best is None else self.best.score("valid", self._metric)
        popularity = None if score is None else self._popularity()
        if score is None or popularity is None or score >= NEAR * popularity:
            return None
        return score, popularity

    def result(self) -> dict[str, Any]:
        """Return what ``result.json`` says of the rounds."""
        seconds, sent = self._sums["seconds"], self._sums["bytes"]
        # A client that fails has received and sends nothing; nor is used what is left out.
        left_out = sum(int(self._virtual.get(name, 0)) for name in _LEFT_OUT)
        times = {"up": self.clients, "down": self.clients + self._failures + left_out}
        best = self.best.virtual if self.best else None
        of_best = {"to_best_round": best.seconds} if best else {}
        return {
            "best_round": self.best.round if self.best else None,
            "rounds": self.rounds,
            "metrics": metrics_of((self.best.evaluation if self.best else None) or {}),
            "seconds": {**seconds, "total": sum(seconds.values())},
            "bytes": dict(sent),
            "bytes_per_client": {way: sent[way] / n if n else None for way, n in times.items()},
            "simulation": dict(self._sums["simulation"]),
            **({"virtual": {**self._virtual, **of_best}} if self._virtual else {}),
            "clients_per_second": self.clients / seconds["train"] if seconds["train"] else None,
        }


def metrics_of(
    evaluation: Mapping[str, Mapping[str, Mapping[str, float | None]]],
) -> dict[str, Any]:
    """Return what ``result.json`` says of an evaluation: per view, per part, values by metric."""
    views = dict(evaluation)
    mixed = views.pop("mixed", {})
    return {
        "valid": dict(mixed.get("valid", {})),
        "test": dict(mixed.get("test", {})),
        "views": {view: dict(parts.get("test", {})) for view, parts in views.items()},
    }


def described(config: Mapping[str, Any], centralised: bool = False) -> dict[str, Any]:
    """Return what ``result.json`` says of an experiment.

    Args:
        config: The experiment, as values of JSON.
        centralised: Whether it is a baseline.
    """
    data = config.get("data") or {}
    names = {
        name: str((config.get(name) or {}).get("name", "?"))
        for name in ("data", "model", "personalization", "strategy")
    }
    if data.get("path"):
        names["data"] = unpacked_name(data["path"]).stem
    method = ("model",) if centralised else ("personalization", "model", "strategy")
    return {
        "name": " + ".join(names[section] for section in method),
        **names,
        "seed": config.get("seed"),
        "protocol": data.get("protocol", "unknown"),
    }


def loss_fault(losses: Sequence[float], negatives: int) -> str | None:
    """Return what is wrong with the loss of the latest round; None if it is within bounds.

    A first loss below that of a model that tells no items apart, ln 2 per pair under BCE and BPR,
    counts as the latter, so that a run that begins near 0 may rise to what is normal.

    Args:
        losses: Mean training loss of each round so far, per positive with its negatives.
        negatives: Sampled negatives per positive.
    """
    latest = losses[-1]
    if not math.isfinite(latest):
        return "the training loss is not finite"
    start = max(losses[0], math.log(2.0) * (1 + negatives))
    times = f"the training loss is {latest:.3g}, {latest / start:,.0f} times that at the start"
    if latest > GROWTH * start:
        return times
    if len(losses) >= LASTING and min(losses[-LASTING:]) > LASTING_GROWTH * start:
        return f"{times}, and has been more than {LASTING_GROWTH:g} times for {LASTING} rounds"
    return None


def likely_causes(experiment: Experiment, task: ClientTask) -> str:
    """Return the settings that can make training diverge, with the way out.

    Those above their defaults for this model and strategy come first.

    Args:
        experiment: What diverges.
        task: What its clients compute.
    """
    values = _suspects(experiment, task)
    plugins: dict[str, Any] = {"data": experiment.data}
    for name in ("model", "personalization", "strategy"):
        plugins[name] = type(getattr(experiment, name))
    try:
        usual = _suspects(Experiment(**plugins), task)
    except ConfigError:  # a plug-in without defaults
        usual = values
    raised = [key for key, value in values.items() if value > usual.get(key, math.inf)]
    others = [key for key in values if key not in raised and key.endswith(RATES)]
    rates = ", ".join(f"{key} {values[key]:g}" for key in others)
    names = ", ".join(name_of("transforms", each) for each in experiment.transforms)
    also = f"; or change the transforms: {names}" if names else ""
    if not raised:
        return f"lower the rates: {rates}{also}"
    too_high = ", ".join(f"{key} {values[key]:g} (default {usual[key]:g})" for key in raised)
    return f"lower {too_high}" + (f"; the other rates are {rates}" if rates else "") + also


def _suspects(experiment: Experiment, task: ClientTask) -> dict[str, float]:
    unused = {
        "train.optimizers.shared.lr": set(task.shared_specs()) <= set(task.tables()),
        "train.optimizers.private.lr": not task.stored_specs(),
    }
    settings = flatten(experiment.model_dump(mode="json"))
    return {
        key: value
        for key, value in settings.items()
        if key.endswith(SUSPECTS) and isinstance(value, float) and not unused.get(key)
    }

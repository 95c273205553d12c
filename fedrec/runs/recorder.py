"""What a run leaves behind: the run log, the best round's model and values, the result."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from fedrec.config.experiment import Experiment
from fedrec.evaluation.evaluate import Evaluation
from fedrec.evaluation.metrics.base import PerUserMetric
from fedrec.plugins import Plugin, name_of
from fedrec.runs.checkpoint import Checkpoint, Origin, write_checkpoint
from fedrec.runs.folder import write_per_user
from fedrec.runs.interrupts import held_back
from fedrec.runs.log import RoundRecord, RunLog
from fedrec.runs.provenance import commit, hardware, versions
from fedrec.storage.files import write_arrays, write_json
from fedrec.training.clients import resolve_executor
from fedrec.types import Params, Split

__all__ = ["Recorder", "digest"]

Observer = Callable[[Mapping[str, Any]], None]


def digest(params: Params) -> str:
    """SHA-256 over names, shapes, types and bytes of the global parameters."""
    state = hashlib.sha256()
    for name in sorted(params):
        value = np.asarray(params[name], order="C")
        state.update(f"{name}|{value.dtype.str}|{value.shape}|".encode())
        state.update(value.tobytes())
    return state.hexdigest()


@dataclass(slots=True)
class _Total:
    """What a result says of all rounds: added up as they come, so that none is kept."""

    rounds: int = 0
    clients: int = 0
    train: float = 0.0
    evaluate: float = 0.0
    up: int = 0
    down: int = 0

    def add(self, record: RoundRecord) -> None:
        self.rounds = record.round
        self.clients += record.clients
        self.train += record.seconds.train
        self.evaluate += record.seconds.evaluate
        self.up += record.bytes.up
        self.down += record.bytes.down

    @property
    def speed(self) -> float | None:
        """Clients trained per second of training."""
        return self.clients / self.train if self.train else None


class Recorder:
    """Writes a run folder round by round; knows which round validation chose.

    Args:
        out: The run folder, made already.
        experiment: What is run.
        split: The data.
        engine: What it runs on: name, workers, nodes.
        observer: Is called with the record of each round.
        centralised: Whether one place sees all the data, as for a baseline.
        origin: What the run is made from; None: it keeps no checkpoints.
        taken: Where the run goes on, as `fedrec.runs.checkpoint` has it; None: at its beginning.
        rounds: The rounds before the one that was taken last.
    """

    def __init__(
        self,
        out: Path,
        experiment: Experiment,
        split: Split,
        engine: Mapping[str, Any],
        observer: Observer | None = None,
        centralised: bool = False,
        origin: Origin | None = None,
        taken: Checkpoint | None = None,
        rounds: Sequence[RoundRecord] = (),
    ) -> None:
        self._out = out
        self._experiment = experiment
        self._split = split
        self._engine = dict(engine)
        self._observer = observer
        self._centralised = centralised
        self._metrics = experiment.evaluate.parsed()
        self._log = RunLog(out / "rounds.jsonl")
        self._origin = origin
        self._began = time.perf_counter()
        self._before = 0.0
        self._started = datetime.now(UTC).isoformat(timespec="seconds")
        self._resumed: tuple[int, ...] = ()
        self._total = _Total()
        self._best: RoundRecord | None = None
        self._stale = 0
        for record in rounds:
            self._note(record)
        if taken is not None:
            self._started = taken.started
            self._resumed = (*taken.resumed, taken.record.round)
            last = taken.record.seconds
            self._before = self._total.train + self._total.evaluate + last.train + last.evaluate

    @property
    def best_round(self) -> int | None:
        """The round that validation chose so far; None before the first evaluation."""
        return None if self._best is None else self._best.round

    @property
    def stale(self) -> int:
        """Evaluations since the best."""
        return self._stale

    def take(self, record: RoundRecord, params: Params, state: Any, evaluates: bool) -> None:
        """Commit a round: from here on, a run that is killed goes on after it.

        Args:
            record: What is known of the round, without its evaluation.
            params: The global parameters after the round.
            state: The strategy's state after the round.
            evaluates: Whether the round is evaluated.

        Raises:
            ConfigError: If a checkpoint cannot keep the state.
        """
        if self._origin is not None:
            taken = Checkpoint(
                record, params, state, evaluates, self._origin, self._started, self._resumed
            )
            write_checkpoint(self._out, taken, self._experiment.strategy)

    def record(self, record: RoundRecord, evaluation: Evaluation | None, params: Params) -> bool:
        """Write one round.

        Args:
            record: What is known of the round, without its evaluation.
            evaluation: Of all users, or None.
            params: The global parameters after the round.

        Returns:
            Whether it is the best round so far, by the first metric on validation. The earliest
            of equals counts; where nobody has validation items, the latest.
        """
        if evaluation is not None:
            record = record.model_copy(update={"evaluation": self._summary(evaluation)})
        with held_back():  # the log never names a best round whose model is not there
            self._log.append(record)
            better = self._note(record)
            if better and evaluation is not None:
                if params:
                    about = {"round": str(record.round)}
                    write_arrays(self._out / "model.safetensors", params, about)
                write_per_user(self._out, self._per_user(evaluation))
        if self._observer is not None:
            self._observer(record.model_dump(mode="json"))
        return better

    def finish(self, status: str, params: Params) -> dict[str, Any]:
        """Write the result.

        Args:
            status: ``completed``, ``early_stop`` or ``interrupted``.
            params: The global parameters after the last round.
        """
        e, total = self._experiment, self._total
        names = {
            "data": name_of("data", e.data),
            "model": name_of("models", e.model),
            "personalization": name_of("personalization", e.personalization),
            "strategy": name_of("strategies", e.strategy),
        }
        parts = ("model",) if self._centralised else ("personalization", "model", "strategy")
        result = {
            "digest": digest(params) if params else None,
            "name": " + ".join(names[part] for part in parts),
            **names,
            "seed": e.seed,
            "clients": self._split.n_clients,
            "users": self._split.n_users,
            "items": self._split.n_items,
            "protocol": e.data.protocol,
            "ranking": "full" if e.data.protocol == "clean" else "99 sampled candidates",
            "centralised": self._centralised,
            "kernel": None if self._centralised else resolve_executor(e.client_task()),
            "status": status,
            "best_round": self.best_round,
            "rounds": total.rounds,
            "metrics": self._chosen(),
            "seconds": {
                "train": total.train,
                "evaluate": total.evaluate,
                "total": self._before + time.perf_counter() - self._began,
            },
            "clients_per_second": None if self._centralised else total.speed,
            "bytes": {"up": total.up, "down": total.down},
            "engine": self._engine,
            "versions": versions(),
            "commit": commit(),
            "hardware": hardware(),
            "started": self._started,
            "finished": datetime.now(UTC).isoformat(timespec="seconds"),
            "resumed": list(self._resumed),
            "citations": self._citations(),
        }
        write_json(self._out / "result.json", result)
        self.close()
        return result

    def close(self) -> None:
        """Close the run log, also of a run that failed. A second call does nothing."""
        self._log.close()

    def _summary(self, evaluation: Evaluation) -> dict[str, dict[str, dict[str, float | None]]]:
        return {
            view: {
                part: {
                    label: None if np.isnan(value) else float(value)
                    for label, value in evaluation.summarise(self._metrics, view, part).items()
                }
                for part in parts
            }
            for view, parts in evaluation.values.items()
        }

    def _note(self, record: RoundRecord) -> bool:
        """Remember a round; whether it is the best so far."""
        self._total.add(record)
        if record.evaluation is None:
            return False
        better = self._is_better(record)
        self._stale = 0 if better else self._stale + 1
        if better:
            self._best = record
        return better

    def _is_better(self, record: RoundRecord) -> bool:
        score = record.score("valid", self._metrics[0].label)
        if self._best is None or score is None:
            return True
        best = self._best.score("valid", self._metrics[0].label)
        return best is None or score > best

    def _chosen(self) -> dict[str, Any]:
        found = self._best.evaluation if self._best is not None else None
        if found is None:
            return {"valid": {}, "test": {}, "views": {}}
        return {
            "valid": dict(found["mixed"]["valid"]),
            "test": dict(found["mixed"]["test"]),
            "views": {v: dict(parts["test"]) for v, parts in found.items() if v != "mixed"},
        }

    def _per_user(self, evaluation: Evaluation) -> dict[str, Any]:
        split = self._split
        labels = [m.label for m in self._metrics if isinstance(m, PerUserMetric)]
        client = np.empty(split.n_users, np.int64)
        client[split.clients.values] = split.clients.owners()
        columns: dict[str, Any] = {
            "user": split.user_ids[evaluation.users],
            "client": client[evaluation.users],
            "n_train": split.train.lengths[evaluation.users],
        }
        for view, parts in evaluation.values.items():
            for part, values in parts.items():
                for at, label in enumerate(labels):
                    middle = "" if view == "mixed" else f"{view}."
                    columns[f"{part}.{middle}{label}"] = values[:, at]
        return columns

    def _citations(self) -> list[str]:
        e = self._experiment
        plugins: list[Plugin] = [e.data, e.model]
        if not self._centralised:
            plugins += [e.personalization, e.strategy]
        keys = [plugin.reference for plugin in plugins if plugin.reference]
        return sorted(
            {*keys, "krichene2020sampled", *([] if self._centralised else ["beutel2020flower"])}
        )

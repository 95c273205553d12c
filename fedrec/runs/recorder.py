"""What a run leaves behind: the run log, the best round's model and values, the result."""

from __future__ import annotations

import hashlib
import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from fedrec.config.experiment import Experiment
from fedrec.errors import MissingExtra, NumericError
from fedrec.evaluation.evaluate import Evaluation
from fedrec.evaluation.metrics.base import Metric, PerUserMetric
from fedrec.plugins import Plugin
from fedrec.runs.checkpoint import Checkpoint, Origin, write_checkpoint
from fedrec.runs.divergence import likely_causes, loss_fault
from fedrec.runs.folder import (
    FINISHED,
    MODEL,
    PER_USER,
    RESULT,
    ROUNDS,
    remove_unfinished,
    write_result,
)
from fedrec.runs.interrupts import held_back
from fedrec.runs.log import RoundRecord, RunLog, rounds_before
from fedrec.runs.provenance import commit, hardware, versions
from fedrec.runs.reference import near_popularity, popularity_scores
from fedrec.runs.tally import Tally, described
from fedrec.storage.files import write_arrays, write_bytes
from fedrec.types import FloatArray, Params, Split, State

__all__ = ["Recorder", "digest"]

LOG = logging.getLogger("fedrec")
Observer = Callable[[Mapping[str, Any]], None]


def digest(params: Params) -> str:
    """SHA-256 over names, shapes, types and bytes of the global parameters."""
    state = hashlib.sha256()
    for name in sorted(params):
        value = np.asarray(params[name], order="C")
        state.update(f"{name}|{value.dtype.str}|{value.shape}|".encode())
        state.update(value.tobytes())
    return state.hexdigest()


def _reopen(out: Path, checkpoint: Checkpoint) -> list[RoundRecord]:
    """Remove from a run folder what was written after a checkpoint; return the rounds before it."""
    last = checkpoint.record.round
    rounds, size = rounds_before(out / ROUNDS, last, checkpoint.log)
    remove_unfinished(out)
    os.truncate(out / ROUNDS, size)
    (out / RESULT).unlink(missing_ok=True)
    return rounds


def write_per_user(folder: Path, columns: Mapping[str, FloatArray]) -> None:
    """Replace ``per_user.parquet`` of a run folder.

    Args:
        folder: The run folder.
        columns: One value per user each: ``user``, ``client``, ``n_train``, ``test.ndcg@10``, ...

    Raises:
        MissingExtra: If pyarrow is not installed.
    """
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise MissingExtra("pyarrow, for per-user results,", "sim") from error
    table = pa.table({name: pa.array(values) for name, values in columns.items()})
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, write_page_checksum=True)
    write_bytes(folder / PER_USER, sink.getvalue().to_pybytes())


def evaluation_summary(
    evaluation: Evaluation, metrics: Sequence[Metric]
) -> dict[str, dict[str, dict[str, float | None]]]:
    """Return the values of the metrics per view and part; None where nobody has held-out items."""
    return {
        view: {
            part: {
                label: None if np.isnan(value) else float(value)
                for label, value in evaluation.summarise(metrics, view, part).items()
            }
            for part in parts
        }
        for view, parts in evaluation.values.items()
    }


class Recorder:
    """Writes a run folder round by round; knows which round validation chose.

    Args:
        out: The run folder, made already.
        experiment: What is run.
        split: The data.
        engine: What it runs on: name, workers, nodes.
        observer: Is called with the record of each round.
        centralised: Whether one place sees all the data, as for a baseline.
        warnings: What the result is to warn of.
        origin: What the run is made from; None: it keeps no checkpoints.
        checkpoint: Where the run continues; None: at its beginning.
    """

    def __init__(
        self,
        out: Path,
        experiment: Experiment,
        split: Split,
        engine: Mapping[str, Any],
        observer: Observer | None = None,
        centralised: bool = False,
        warnings: Sequence[str] = (),
        origin: Origin | None = None,
        checkpoint: Checkpoint | None = None,
    ) -> None:
        self._out = out
        self._experiment = experiment
        self._split = split
        self._engine = dict(engine)
        self._observer = observer
        self._centralised = centralised
        self._warnings = tuple(warnings)
        self._metrics = experiment.evaluate.parsed()
        rounds = _reopen(out, checkpoint) if checkpoint is not None else []
        self._log = RunLog(out / ROUNDS)
        self._origin = origin
        self._began = time.perf_counter()
        self._before = 0.0
        self._started = datetime.now(UTC).isoformat(timespec="seconds")
        self._resumed: tuple[int, ...] = ()
        self.tuning: Mapping[str, Any] | None = None
        """How the settings of a baseline were chosen; None where there is nothing to choose."""
        self._tally = Tally(self._metrics[0].label, self._popularity_score)
        for record in rounds:
            self._tally.add(record)
        if checkpoint is not None:
            self._started = checkpoint.started
            self._resumed = (*checkpoint.resumed, checkpoint.record.round)
            last = checkpoint.record.seconds
            self._before = sum(self._tally.seconds.values()) + last.train + last.evaluate

    @property
    def best_round(self) -> int | None:
        """The round that validation chose so far; None before the first evaluation."""
        return self._tally.best.round if self._tally.best is not None else None

    @property
    def stale(self) -> int:
        """Evaluations without progress, see `Tally`."""
        return self._tally.stale

    @cached_property
    def popularity(self) -> dict[str, dict[str, float]] | None:
        """The scores of the popularity baseline, computed when first asked for."""
        return None if self._centralised else popularity_scores(self._experiment, self._split)

    def check_loss(self, record: RoundRecord) -> None:
        """Check that training has not diverged.

        Raises:
            NumericError: If the loss is not finite, or a thousand times that of the first round.
        """
        if record.loss is None:
            return
        fault = loss_fault(record.loss, self._tally.first_loss, self._experiment.train.negatives)
        if fault is not None:
            raise NumericError(fault)

    def diverged(self, round: int, error: NumericError, params: Params) -> NumericError:
        """Write the result of a run that diverged; return the error for the user.

        Args:
            round: The round in which it did.
            error: What is wrong with it.
            params: The shared parameters after the round.
        """
        if self._tally.rounds < round:
            self.record(RoundRecord(round=round, clients=0), None, params)
        self.finish("diverged", params)
        return NumericError(
            f"round {round}: training diverged: {error}; {likely_causes(self._experiment)}"
        )

    def checkpoint(
        self,
        record: RoundRecord,
        params: Params,
        state: State,
        evaluates: bool,
        node_states: Mapping[str, tuple[int, int]],
    ) -> None:
        """Write a checkpoint: from here on, a run that is killed continues after this round.

        Args:
            record: What is known of the round, without its evaluation.
            params: The shared parameters after the round.
            state: The strategy's state after the round.
            evaluates: Whether the round is evaluated.
            node_states: See `Checkpoint`.
        """
        if self._origin is not None:
            checkpoint = Checkpoint(
                record,
                params,
                state,
                evaluates,
                self._origin,
                self._started,
                self._resumed,
                node_states,
                self._log.sha256,
            )
            write_checkpoint(self._out, checkpoint)

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
            summary = evaluation_summary(evaluation, self._metrics)
            record = record.model_copy(update={"evaluation": summary})
        with held_back():  # the log never names a best round whose model is not there
            self._log.append(record)
            better = self._tally.add(record)
            if better and evaluation is not None:
                if params:
                    about = {"round": str(record.round)}
                    write_arrays(self._out / MODEL, params, about)
                write_per_user(self._out, self._per_user(evaluation))
        if self._observer is not None:
            self._observer(record.model_dump(mode="json"))
        return better

    def finish(self, status: str, params: Params) -> dict[str, Any]:
        """Write the result.

        Args:
            status: ``completed``, ``early_stop``, ``interrupted`` or ``diverged``.
            params: The global parameters after the last round.
        """
        e, rounds = self._experiment, self._tally.result()
        rounds["seconds"]["total"] = self._before + time.perf_counter() - self._began
        if self._centralised:
            rounds["clients_per_second"] = None
        reference = None if status == "interrupted" else self.popularity
        warnings = [*self._warnings, *(self._near_popularity() if status in FINISHED else ())]
        result = {
            **described(e.model_dump(mode="json"), self._centralised),
            **rounds,
            "digest": digest(params) if params else None,
            "clients": self._split.n_clients,
            "users": self._split.n_users,
            "items": self._split.n_items,
            "ranking": "full" if e.data.protocol == "clean" else "99 sampled candidates",
            "centralised": self._centralised,
            "executor": None if self._centralised else e.client_task().executor(),
            "status": status,
            "warnings": warnings,
            "reference": {} if reference is None else {"popularity": reference},
            **({} if self.tuning is None else {"tuning": self.tuning}),
            "engine": self._engine,
            "versions": versions(),
            "commit": commit(),
            "hardware": hardware(),
            "started": self._started,
            "finished": datetime.now(UTC).isoformat(timespec="seconds"),
            "resumed": list(self._resumed),
            "citations": self._citations(),
        }
        written = write_result(self._out, result)
        self.close()
        return written

    def close(self) -> None:
        """Close the run log, also of a run that failed. A second call does nothing."""
        self._log.close()

    def _popularity_score(self) -> float | None:
        scores = self.popularity
        return None if scores is None else scores["valid"].get(self._metrics[0].label)

    def _near_popularity(self) -> list[str]:
        """Return the warning that the model is near popularity, if it is; it is logged too."""
        scores = self._tally.scores_near_popularity()
        if scores is None:
            return []
        warning = near_popularity(self.best_round, self._metrics[0].label, *scores)
        LOG.warning(warning)
        return [warning]

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

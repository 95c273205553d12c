"""What a run leaves behind: the run log, the best round's model and values, the result."""

import hashlib
import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from typing import Any

import numpy as np

from fedrec.config.experiment import Experiment
from fedrec.errors import NumericError
from fedrec.evaluation.evaluate import Evaluation
from fedrec.evaluation.targets import eligible_targets
from fedrec.features.prepare import feature_lines
from fedrec.plugins import Plugin, plugins_in
from fedrec.runs.baseline import chance_levels, popularity_scores, slice_sizes, tied_scores
from fedrec.runs.folder import (
    FINISHED,
    MODEL,
    PER_USER,
    RESULT,
    ROUNDS,
    remove_unfinished,
    write_result,
)
from fedrec.runs.log import (
    Bytes,
    Checkpoint,
    RoundRecord,
    RunLog,
    name_of_run,
    rounds_before,
    write_checkpoint,
)
from fedrec.runs.open_run import OpenRun
from fedrec.runs.origin import Origin
from fedrec.runs.prepare import settings_without_effect
from fedrec.runs.provenance import commit, hardware, versions
from fedrec.runs.reader import RunFolder
from fedrec.runs.tally import Tally, described, likely_causes, loss_fault, metrics_of
from fedrec.storage.files import write_arrays, write_bytes
from fedrec.types import Params, State

LOG = logging.getLogger("fedrec")
# Is called with the record of each round, as it stands in ``rounds.jsonl``.
Observer = Callable[[Mapping[str, Any]], None]


def digest(params: Params) -> str:
    """Return the SHA-256 of names, shapes, types and bytes of the shared parameters."""
    state = hashlib.sha256()
    for name in sorted(params):
        value = np.asarray(params[name], order="C")
        state.update(f"{name}|{value.dtype.str}|{value.shape}|".encode())
        state.update(value.tobytes())
    return state.hexdigest()


@contextmanager
def interrupts_held_back() -> Iterator[None]:
    """Let Ctrl-C and SIGTERM wait until a short block is done: all is written, or nothing.

    Elsewhere than in the main thread, where no interrupt arrives, it changes nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    before = {number: each for number, each in handlers.items() if each is not None}  # Python's own
    for number in before:
        signal.signal(number, lambda number, _: came.append(number))
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if came:
            signal.raise_signal(came[0])


@dataclass(frozen=True, slots=True)
class End:
    """What the phases at the end of a run came to.

    Args:
        evaluation: The ranking after them; in its view ``before_end`` that of the chosen round.
        seconds: Wall time.
        simulation: The messages that it took.
    """

    evaluation: Evaluation
    seconds: float
    simulation: Bytes


class Recorder:
    """Writes a run folder round by round; knows which round validation chose.

    Args:
        run: The run; its folder is made already.
        engine: What it runs on: name, workers, nodes.
        observer: Is called with the record of each round.
        origin: What the run is made from; None: it keeps no checkpoints.
        checkpoint: Where the run continues; None: at its beginning.

    Attributes:
        tally: The rounds so far.
    """

    def __init__(
        self,
        run: OpenRun,
        engine: Mapping[str, Any],
        observer: Observer | None = None,
        origin: Origin | None = None,
        checkpoint: Checkpoint | None = None,
    ) -> None:
        self._run = run
        self._engine = dict(engine)
        self._observer = observer
        self._origin = origin
        self._name = name_of_run(checkpoint, run.id)
        self._metrics = run.experiment.evaluate.parsed()
        label = run.experiment.evaluate.chooser
        self.tally = Tally(label, lambda: self.popularity.get("valid", {}).get(label))
        self._began = time.perf_counter()
        self._started = datetime.now(UTC).isoformat(timespec="seconds")
        self._resumed: tuple[int, ...] = ()
        if checkpoint is not None:
            self._go_back_to(checkpoint)
        self._log = RunLog(run.folder / ROUNDS)

    def _go_back_to(self, checkpoint: Checkpoint) -> None:
        """Remove from the run folder what was written after a checkpoint, and count the rest."""
        folder, last = self._run.folder, checkpoint.record
        rounds, size = rounds_before(folder / ROUNDS, last.round, checkpoint.log)
        remove_unfinished(folder)
        os.truncate(folder / ROUNDS, size)
        (folder / RESULT).unlink(missing_ok=True)
        for record in rounds:
            self.tally.add(record)
        self._started = checkpoint.started
        self._resumed = (*checkpoint.resumed, last.round)
        self._began -= self.tally.result()["seconds"]["total"]
        self._began -= last.seconds.train + last.seconds.evaluate

    @cached_property
    def popularity(self) -> dict[str, dict[str, float]]:
        """The scores of the popularity baseline, computed when first asked for, if data is here."""
        if not self._run.sees_interactions:
            return {}
        return popularity_scores(self._run.experiment, self._run.honest)

    def diverged(self, round: int, error: NumericError, params: Params) -> NumericError:
        """Write the result of a run that diverged in a round; return the error for the user."""
        if self.tally.rounds < round:
            self.record(RoundRecord(round=round, clients=0), None, params)
        self.finish("diverged", params)
        causes = likely_causes(self._run.experiment, self._run.task)
        return NumericError(f"round {round}: training diverged: {error}; {causes}")

    def checkpoint(
        self,
        record: RoundRecord,
        params: Params,
        state: State,
        evaluates: bool,
        node_states: Mapping[str, tuple[tuple[tuple[int, int], ...], int]],
    ) -> None:
        """Write a checkpoint: from here on, a run that is killed continues after this round.

        Raises:
            NumericError: If the loss is out of bounds, see `loss_fault`.
        """
        losses = [*self.tally.losses, *([] if record.loss is None else [record.loss])]
        if losses and (fault := loss_fault(losses, self._run.experiment.train.negatives)):
            raise NumericError(fault)
        if self._origin is not None:
            checkpoint = Checkpoint(
                record=record,
                params=params,
                state=state,
                evaluates=evaluates,
                origin=self._origin,
                started=self._started,
                resumed=self._resumed,
                node_states=node_states,
                log=self._log.sha256,
                run=self._name,
            )
            write_checkpoint(self._run.folder, checkpoint)

    def record(self, record: RoundRecord, evaluation: Evaluation | None, params: Params) -> bool:
        """Write one round, its evaluation if there is one, and what the best round leaves behind.

        Returns:
            Whether it is the best round so far, see `Tally`.
        """
        if evaluation is not None:
            record = record.model_copy(update={"evaluation": self._summary(evaluation)})
        with interrupts_held_back():  # the log never names a best round whose model is not there
            self._log.append(record)
            better = self.tally.add(record)
            if better and evaluation is not None:
                if params:
                    write_arrays(self._run.folder / MODEL, params, {"round": str(record.round)})
                self._write_per_user(evaluation)
        if self._observer is not None:
            self._observer(record.model_dump(mode="json"))
        return better

    def finish(
        self,
        status: str,
        params: Params,
        tuning: Mapping[str, Any] | None = None,
        end: End | None = None,
        notes: Sequence[str] = (),
    ) -> dict[str, Any]:
        """Write the result, and return it.

        Args:
            status: ``completed``, ``early_stop``, ``interrupted`` or ``diverged``.
            params: After the last round.
            tuning: How the settings of a baseline were chosen.
            end: What the phases at the end came to; None: there are none.
            notes: More that the user must know.
        """
        run, e, rounds = self._run, self._run.experiment, self.tally.result()
        rounds |= {} if end is None else self._ended(end)
        rounds["seconds"]["total"] = time.perf_counter() - self._began
        if run.centralised:
            rounds["clients_per_second"] = None
        references = {"chance": chance_levels(e.evaluate, run.honest)}
        if status != "interrupted":
            references["popularity"] = self.popularity
        notes = [*notes, *(self._notes() if status in FINISHED else [])]
        for note in notes:
            LOG.warning(note)
        result = {
            **described(e.model_dump(mode="json"), run.centralised),
            **rounds,
            "digest": digest(params) if params else None,
            "clients": run.split.n_clients,
            **({"attackers": len(run.attackers)} if len(run.attackers) else {}),
            "users": run.honest.n_users,
            "items": run.split.n_items,
            "features": feature_lines(run.features),
            "ranking": _ranking(e),
            "centralised": run.centralised,
            "executor": run.executor,
            "weights": "" if run.centralised else run.task.weights,
            "status": status,
            "warnings": [*settings_without_effect(run), *run.notes, *notes],
            "reference": {n: scores for n, scores in references.items() if scores},
            **({"slices": sizes} if (sizes := slice_sizes(e.evaluate, run.honest)) else {}),
            **self._targets(),
            **({} if tuning is None else {"tuning": tuning}),
            "engine": self._engine,
            "versions": versions(),
            "commit": commit(),
            "hardware": hardware(),
            "started": self._started,
            "finished": datetime.now(UTC).isoformat(timespec="seconds"),
            "resumed": list(self._resumed),
            "citations": self._citations(),
        }
        written = write_result(run.folder, result)
        self.close()
        return written

    def best_model(self) -> Params:
        """Return the shared parameters of the best round.

        Raises:
            RunFolderError: If they are missing or damaged.
        """
        assert self.tally.best is not None
        return RunFolder(self._run.folder).model(self.tally.best.round)

    def _ended(self, end: End) -> dict[str, Any]:
        """Write the values of users after the end, and return what the result says of it."""
        best, label = self.tally.best, self._metrics[0].label
        assert best is not None and best.evaluation is not None
        views = self._summary(end.evaluation)
        self._write_per_user(end.evaluation)
        scores = best.score("test", label), views["mixed"]["test"][label]
        before, after = ("nothing" if score is None else f"{score:.4f}" for score in scores)
        LOG.info(f"the end: {label} {after} on the test, {before} before")
        about = {"round": best.round, "before": metrics_of(best.evaluation)}
        times = {"seconds": end.seconds, "simulation": end.simulation.model_dump()}
        return {"metrics": metrics_of(views), "end": {**about, **times}}

    def close(self) -> None:
        """Close the run log, also of a run that failed. A second call does nothing."""
        self._log.close()

    def _notes(self) -> list[str]:
        """Return the warnings about the round that validation chose."""
        best, near = self.tally.best, self.tally.scores_near_popularity()
        if best is None:
            return []
        if not self._run.centralised and not self.tally.clients:
            return [
                "no client took part in any round, so nothing was trained; see rounds.selection"
            ]
        scores = {metric: best.score("test", metric.label) for metric in self._metrics}
        notes = [
            f"{metric.label} is {score:g}, which is not from {metric.bounds[0]:g} to "
            f"{metric.bounds[1]:g}; declare the bounds of class {type(metric).__name__}"
            for metric, score in scores.items()
            if score is not None and not metric.bounds[0] <= score <= metric.bounds[1]
        ]
        if near is None:
            return notes
        chosen = f"round {best.round}, which validation chose,"
        label = self._run.experiment.evaluate.chooser
        notes.append(
            f"{chosen} has {label} {near[0]:.4f}, and ranking by popularity has {near[1]:.4f}: the "
            "model has learnt little beyond which items are popular; train longer (rounds.count, "
            "rounds.patience) or change the rates (train.optimizers, strategy)"
        )
        tied = tied_scores(self._run.experiment, self._run.honest)
        if all(best.score("test", metric) == value for metric, value in tied.items()):
            notes.append(
                f"{chosen} ranks no test item better than scores that are all equal would: the "
                "model may tell no items apart; check its score"
            )
        return notes

    def _summary(self, evaluation: Evaluation) -> dict[str, Any]:
        """Return the metrics per view and part; None where nobody has held-out items."""
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

    def _write_per_user(self, evaluation: Evaluation) -> None:
        """Replace the file of one row per user: raw id, client, train items, and metrics."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        split, users = self._run.split, evaluation.users
        client = np.empty(split.n_users, np.int64)
        client[split.clients.values] = split.clients.owners()
        columns: dict[str, Any] = {
            "user": split.user_ids[users],
            "client": client[users],
        }
        if self._run.sees_interactions:
            columns["n_train"] = split.train.lengths[users]
        for view, parts in evaluation.values.items():
            middle = "" if view == "mixed" else f"{view}."
            for part, values in parts.items():
                labels = evaluation.labels(self._metrics, part)
                columns |= {f"{part}.{middle}{m}": values[:, at] for at, m in enumerate(labels)}
        sink = pa.BufferOutputStream()
        pq.write_table(pa.table(columns), sink, write_page_checksum=True)
        write_bytes(self._run.folder / PER_USER, sink.getvalue().to_pybytes())

    def _targets(self) -> dict[str, Any]:
        """Return what the result says of target items: their raw ids, and who may be shown one."""
        split, targets = self._run.honest, self._run.targets
        if not len(targets):
            return {}
        users = np.count_nonzero(eligible_targets(split, targets).lengths)
        return {"targets": {"items": split.item_ids[targets].tolist(), "users": users}}

    def _citations(self) -> list[str]:
        e, keys = self._run.experiment, {"krichene2020sampled"}
        plugins: list[Plugin] = [e.data, e.model]
        if not self._run.centralised:
            keys.add("beutel2020flower")
            plugins += [e.personalization, e.strategy, *plugins_in(e.strategy), *e.transforms]
            plugins += plugins_in(e.rounds)
        return sorted(keys.union(plugin.reference for plugin in plugins if plugin.reference))


def _ranking(experiment: Experiment) -> str:
    """Return what the clients rank, as tables say it."""
    if experiment.data.protocol == "legacy":
        return "99 sampled candidates"
    rerank = experiment.evaluate.rerank
    return "full" if rerank is None else str(rerank)

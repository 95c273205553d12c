"""What users measured: what passes the checks of the server can be joined and summarised."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from types import ModuleType
from typing import Any, ClassVar

import numpy as np

from fedrec.evaluation.evaluate import Evaluation, evaluate, merge
from fedrec.evaluation.metrics import parse_metric
from fedrec.evaluation.slices import Slices
from fedrec.flower import records
from fedrec.flower.records import Evaluated, RoundRequest
from fedrec.runs.log import RoundRecord
from fedrec.testing.trial import small_split
from fedrec.types import IntArray
from server import replies
from server.replies import ExpectedEvaluation, read_evaluation
from tests.fuzz.files import Files
from tests.fuzz.targets.base import Target
from tests.fuzz.targets.messages import files_of, message_of
from tests.fuzz.targets.replies import reply_of

_NODES = "nodes"
_METRICS = [parse_metric(label) for label in ("ndcg@5", "mrr", "coverage@5", "gini@3", "er@5")]


def _measured(clients: IntArray, slices: Slices | None) -> Evaluation:
    """Return what a node measures where all users score items by their numbers."""
    split = small_split()
    shard = split.shard(clients)

    def score(rows: IntArray) -> Mapping[Any, Any]:
        scores = np.tile(np.sin(np.arange(split.n_items, dtype=np.float32)), (len(rows), 1))
        return {"mixed": scores, "local": -scores}

    return evaluate(shard, score, _METRICS, slices=slices, targets=np.array([1, 5, 9]))


class MeasuredTarget(Target):
    """What the users of the one node that was asked measured, or of the second of two."""

    name = "measured"
    decoders: ClassVar[Mapping[ModuleType, Sequence[str]]] = {
        replies: ("read_evaluation", "_check_evaluation", "_views")
    }

    @cached_property
    def _requests(self) -> list[RoundRequest]:
        hosted = np.array_split(np.arange(small_split().n_clients), 2)
        return [RoundRequest("run", "start", 3, clients=clients) for clients in hosted]

    @cached_property
    def _measured(self) -> list[list[Evaluation]]:
        slices = (None, Slices.of(small_split(), ("head", "tail", "cold", "cold_among_all")))
        return [[_measured(asked.clients, each) for asked in self._requests] for each in slices]

    def valid(self) -> Sequence[Files]:
        """Return what the second node measured, with and without slices, and with the first."""
        id = self._requests[1].id
        return [
            {**files_of(records.encode(Evaluated(id, second))), _NODES: bytes([number, nodes])}
            for number, (_, second) in enumerate(self._measured)
            for nodes in (1, 2)
        ]

    def run(self, files: Files) -> None:
        """Join what was measured, and write its summary."""
        number, nodes = files.get(_NODES, b"").ljust(2, b"\0")[:2]
        other = self._measured[number % len(self._measured)][0] if nodes != 1 else None
        split, asked = small_split(), self._requests[1]
        ranking = np.arange(split.n_users)
        expected = ExpectedEvaluation(_METRICS, split.n_items, ranking, split.clients)
        measured = read_evaluation(reply_of(message_of(files), 2), asked, expected, other)
        evaluation = merge([measured] if other is None else [other, measured])
        summary = {
            view: {
                part: {
                    label: None if np.isnan(value) else float(value)
                    for label, value in evaluation.summarise(_METRICS, view, part).items()
                }
                for part in parts
            }
            for view, parts in evaluation.values.items()
        }
        record = RoundRecord(round=1, clients=1, evaluation=summary)
        assert RoundRecord.model_validate_json(record.model_dump_json().encode()) == record

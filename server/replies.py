"""Read what nodes reply, and check it before it is used."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from math import inf
from typing import Any

import numpy as np
from flwr.app import Message
from numpy.typing import NDArray

from fedrec.aggregation.fixed_point import SCALE
from fedrec.aggregation.update import Aggregate, UpdateBatch
from fedrec.errors import ProtocolError
from fedrec.evaluation.evaluate import Evaluation
from fedrec.evaluation.metrics import ExposureMetric, Metric
from fedrec.evaluation.ranking import PARTS
from fedrec.flower.records import (
    CHECKSUMS,
    Evaluated,
    RollCall,
    RoundRequest,
    Trained,
    decode,
)
from fedrec.ragged import Ragged
from fedrec.types import FloatArray, IntArray

_LARGEST = 1e100
"""Of the values of metrics, so that the sum over any users is finite."""


@dataclass(frozen=True, slots=True)
class Expected:
    """What clients send in every round.

    Args:
        shapes: Of each shared parameter, and of what is sent beside one, such as ``item/control``.
        tables: Which of these are tables with a row for each item.
        metrics: What each client measures.
        reports_losses: Whether the server is told the loss of each client.
        largest: By how much a client may change a value at most; None: by anything finite.
        extras: What the client rule sums besides, see
            `fedrec.training.client_rule.ClientRule.extras`.
        each: Whether the server is sent each client's update, and not their sum.
    """

    shapes: Mapping[str, tuple[int, ...]]
    tables: Collection[str]
    metrics: Collection[str]
    reports_losses: bool = False
    largest: float | None = None
    extras: Collection[str] = ()
    each: bool = False


def read_roll_call(reply: Message) -> RollCall:
    """Read which clients a node hosts.

    Raises:
        ProtocolError: Names the node, and what does not fit.
    """
    try:
        answer = decode(reply.content, RollCall)
        clients, examples = answer.clients, answer.examples
        is_set = clients.ndim == 1 and (np.diff(clients, prepend=-1) > 0).all()
        _require(bool(is_set), "clients that are not sorted, each once")
        _require(0 <= answer.partition < answer.partitions, f"the partition {answer.partition}")
        fits = examples.shape in (clients.shape, (0,)) and not (examples < 0).any()
        _require(bool(fits), "numbers of examples of something else")
        if answer.state is not None:
            tickets = [*answer.state.applied, *(ticket for ticket, _ in answer.state.staged)]
            sums = [answer.state.checksum, *(change for _, change in answer.state.staged)]
            once = len({*tickets}) == len(tickets) and min([(0, 0), *tickets]) == (0, 0)
            possible = all(0 <= each < CHECKSUMS for each in sums)
            _require(once and possible, "an impossible state")
        _check_texts(answer.code, answer.catalogue, answer.weights)
    except ProtocolError as error:
        raise ProtocolError(f"roll call: node {_node(reply)}: {error}") from error
    return answer


def read_trained(
    reply: Message,
    request: RoundRequest,
    attackers: IntArray,
    expected: Expected,
    other: Trained | None = None,
) -> Trained:
    """Read what a node replies to a training request: each client counts once, values are finite.

    Of a sum nobody can see whose changes it holds, and how large they are.

    Args:
        reply: The reply.
        request: What the node was asked.
        attackers: int64; their updates are not in the sums.
        expected: What clients send.
        other: The reply of another node, to whose sums its own will be added.

    Raises:
        ProtocolError: Names the node, and what does not fit.
    """
    try:
        trained = decode(reply.content, Trained, expected.shapes)
        _check_id(trained.request, request)
        _check_trained(trained, request, attackers, expected)
        replies = (trained,) if other is None else (trained, other)
        forms = [_form(each) for reply in replies for each in reply.aggregates.values()]
        _require(all(form == forms[0] for form in forms), "sums of another form than others")
    except ProtocolError as error:
        raise ProtocolError(f"round {request.round}: node {_node(reply)}: {error}") from error
    return trained


def read_answer(
    reply: Message,
    request: RoundRequest,
    kind: type[Any],
    check: Callable[[Any, RoundRequest], None],
) -> Any:
    """Read what a node replies to a question of a plan.

    Args:
        reply: The reply.
        request: What the node was asked.
        kind: The type of the reply, with a field ``request``.
        check: See `server.plans.base.Question`.

    Raises:
        ProtocolError: Names the node, and what does not fit.
    """
    try:
        value = decode(reply.content, kind, {})  # a question never asks for updates
        _check_id(value.request, request)
        check(value, request)
    except ProtocolError as error:
        raise ProtocolError(f"round {request.round}: node {_node(reply)}: {error}") from error
    return value


@dataclass(frozen=True, slots=True)
class ExpectedEvaluation:
    """What users measure.

    Args:
        metrics: By name and cutoff.
        n_items: Of the catalogue.
        ranking: int64, the users who rank, sorted.
        of_clients: One row per client: the users it holds.
    """

    metrics: Sequence[Metric]
    n_items: int
    ranking: IntArray
    of_clients: Ragged

    def users(self, clients: IntArray) -> IntArray:
        """Return who ranks of the users of some clients, int64, sorted."""
        return np.intersect1d(self.of_clients.take(clients).values, self.ranking)


def read_evaluation(
    reply: Message,
    request: RoundRequest,
    expected: ExpectedEvaluation,
    other: Evaluation | None = None,
) -> Evaluation:
    """Read what the users of a node measured.

    Args:
        reply: The reply.
        request: What the node was asked.
        expected: What users measure.
        other: What users of another node measured, with which it will be joined.

    Raises:
        ProtocolError: Names the node, and what does not fit.
    """
    try:
        evaluated = decode(reply.content, Evaluated)
        _check_id(evaluated.request, request)
        evaluation, users = evaluated.evaluation, expected.users(request.clients)
        _check_texts(*evaluation.notes)
        _require(evaluation.users.ndim == 1, "users in a table")
        _require(np.array_equal(np.sort(evaluation.users), users), "other users than were asked")
        if len(users):
            _check_evaluation(evaluation, expected.metrics, expected.n_items)
            alike = other is None or _views(evaluation) == _views(other)
            _require(alike, "other rankings than other nodes")
    except ProtocolError as error:
        raise ProtocolError(f"evaluation: node {_node(reply)}: {error}") from error
    return evaluation


def _check_evaluation(evaluation: Evaluation, metrics: Sequence[Metric], n_items: int) -> None:
    """Check the metric values of some users."""
    _require("mixed" in evaluation.values, "no ranking")
    for values in evaluation.values.values():
        _require({*values} == {*PARTS}, "values of something else")
        for part, of_users in values.items():
            shape = len(evaluation.users), len(evaluation.labels(metrics, part))
            _require(of_users.shape == shape, f"values of the shape {list(of_users.shape)}")
            too_large = np.abs(of_users, dtype=np.float64) > _LARGEST
            _require(not too_large.any(), "values that are not finite, or too large")
    depths = {metric.depth for metric in metrics if isinstance(metric, ExposureMetric)}
    cold = depths if "cold_among_all" in evaluation.slices else set()
    fits = evaluation.exposure.keys() == depths and evaluation.cold_listed.keys() == cold
    _require(fits, "lists of another length")
    for counts in evaluation.exposure.values():
        fits = counts.ndim == 1 and 0 < len(counts) <= n_items
        _require(fits and _are_counts(counts, len(evaluation.users)), "counts of something else")
    for k, counts in evaluation.cold_listed.items():
        fits = counts.shape == (2,) and _are_counts(counts, k * len(evaluation.users))
        _require(fits, "counts of something else")


def _are_counts(counts: IntArray, most: int) -> bool:
    return not ((counts < 0) | (counts > most)).any()


def _views(evaluation: Evaluation) -> tuple[Any, ...]:
    """Return what was measured, by name, and of how many items."""
    counts = [
        {k: len(of_items) for k, of_items in each.items()}
        for each in (evaluation.exposure, evaluation.cold_listed)
    ]
    return {*evaluation.values}, counts, evaluation.slices


def _check_trained(
    trained: Trained, request: RoundRequest, attackers: IntArray, expected: Expected
) -> None:
    asked, groups = request.clients, request.groups
    succeeded = checked_outcome(trained, request, expected)
    honest = succeeded & ~np.isin(asked, attackers)
    for group in {*groups[honest].tolist(), *trained.aggregates}:
        aggregate, of_group = trained.aggregates.get(group), asked[honest & (groups == group)]
        n = 0 if aggregate is None else aggregate.clients
        _require(n == len(of_group), f"a sum of {n} clients of a group of {len(of_group)}")
        if aggregate is not None:
            _require(n > 0, "a sum of nobody")
            check_sums(aggregate, expected)
            if aggregate.each is not None:
                _check_updates(aggregate.each, request.round, of_group, expected)
    attack = asked[succeeded & ~honest]
    if trained.attackers is not None or len(attack):
        _require(trained.attackers is not None, "no updates of attackers")
        assert trained.attackers is not None
        _check_updates(trained.attackers, request.round, attack, expected)


def checked_outcome(
    trained: Trained, request: RoundRequest, expected: Expected
) -> NDArray[np.bool_]:
    """Check all of a reply but updates; return which of the clients succeeded, bool [c].

    Raises:
        ProtocolError: Says what does not fit.
    """
    _check_texts(*trained.notes, *(failure.reason for failure in trained.failures))
    asked = request.clients
    succeeded = np.ones(len(asked), np.bool_)
    if failures := [failure.client for failure in trained.failures]:
        names, failed = asked.astype(str), np.array(failures, str)
        _require(_are_some(failed, names), "failures of clients that were not asked")
        succeeded = ~np.isin(names, failed)
    reported = asked[succeeded] if expected.reports_losses else asked[:0]
    fits = trained.clients.ndim == 1 and np.array_equal(np.sort(trained.clients), reported)
    _require(fits, "losses of other clients")
    _check_values("loss", trained.losses, reported.shape)
    fits = trained.uploaded >= 0 and 0 <= trained.state_change < CHECKSUMS
    _require(fits and 0 <= trained.seconds < inf, "a number that is too small or too large")
    return succeeded


def _check_id(answered: str, request: RoundRequest) -> None:
    _require(answered == request.id, "the answer to another request")


def _form(aggregate: Aggregate) -> tuple[Any, ...]:
    """Return all that must be alike where sums are added."""
    return {*aggregate.metrics}, {*aggregate.extras}


def check_sums(aggregate: Aggregate, expected: Expected) -> None:
    """Check sums in fixed point.

    Raises:
        ProtocolError: Says what does not fit.
    """
    _require(aggregate.weight >= 0, "a weight below 0")
    _check_names("sum", aggregate.metrics, expected.metrics)
    as_expected = (aggregate.each is not None) == expected.each
    _require(as_expected, "a sum in place of updates" if expected.each else "updates and no sum")
    if aggregate.each is None:
        _check_names("sum", aggregate.sums, expected.shapes)
        _check_names("sum", aggregate.extras, expected.extras)
    tables = {name for name in aggregate.sums if name in expected.tables}
    fits = tables == aggregate.ids.keys() == aggregate.row_weight.keys()
    _require(fits, "rows of something else than tables")
    _require(aggregate.sums.keys() <= aggregate.scale.keys(), "a sum without a scale")
    _require({*aggregate.scale.values()} <= {SCALE}, "a sum in another scale")
    for name, sums in aggregate.sums.items():
        _require(name in expected.shapes, f"'{name}', which no client sends")
        shape = expected.shapes[name]
        if name in tables:
            ids, weight = aggregate.ids[name], aggregate.row_weight[name]
            _check_rows(name, np.array([0, ids.size]), ids, shape[0])
            _require(weight.shape == ids.shape and not (weight < 0).any(), f"weights of '{name}'")
            shape = (len(ids), *shape[1:])
        _require(sums.shape == shape, f"'{name}' of the shape {list(sums.shape)}")
        weights = aggregate.row_weight.get(name, np.array(aggregate.weight))
        _require(not (weights > aggregate.weight).any(), f"weights of '{name}' above their sum")
        _check_size(name, sums * 2.0**-SCALE, weights * 2.0**-SCALE, expected)


def _check_updates(batch: UpdateBatch, round: int, asked: IntArray, expected: Expected) -> None:
    """Check the updates of single clients."""
    n = len(asked)
    _require(batch.round == round, f"an update of round {batch.round}")
    _require(np.array_equal(np.sort(batch.client_ids), asked), "updates of other clients")
    _require(bool((batch.weight >= 0).all()), "a weight below 0")
    dense = expected.shapes.keys() - {*expected.tables}
    _check_names("update", batch.tables, expected.tables)
    _check_names("update", batch.dense, dense)
    _check_names("number", batch.metrics, expected.metrics)
    _check_names("number", batch.extras, expected.extras)
    _require(len(batch.tables) + len(batch.dense) == len(expected.shapes), "updates of other names")
    for name, block in batch.tables.items():
        n_rows, *of_row = expected.shapes[name]
        _check_rows(name, block.offsets, block.ids, n_rows)
        _check_values(name, block.values, (len(block.ids), *of_row))
        _check_size(name, block.values, np.ones(len(block.ids)), expected)
    for name in dense:
        _check_values(name, batch.dense[name], (n, *expected.shapes[name]))
        _check_size(name, batch.dense[name], np.ones(n), expected)
    numbers: Mapping[str, FloatArray] = {"weight": batch.weight, **batch.metrics, **batch.extras}
    for name, values in numbers.items():
        _check_values(name, values, (n,))


def _check_texts(*texts: str) -> None:
    """Check that texts may be shown: no line breaks, nothing that a terminal would obey."""
    _require(all(map(str.isprintable, texts)), "a text that cannot be printed")


def _check_names(what: str, came: Collection[str], expected: Collection[str]) -> None:
    for name in expected:
        _require(name in came, f"no {what} of '{name}'")


def _check_values(name: str, values: FloatArray, shape: tuple[int, ...]) -> None:
    _require(values.shape == shape, f"'{name}' of the shape {list(values.shape)}")
    _require(bool(np.isfinite(values).all()), f"a '{name}' that is not finite")


def _check_size(name: str, values: FloatArray, weights: FloatArray, expected: Expected) -> None:
    """Check that changes, float [n, ...], are within what clients of a weight, [n], may send."""
    if expected.largest is not None:
        limit = expected.largest * weights.reshape(
            *weights.shape, *[1] * (values.ndim - weights.ndim)
        )
        # Sums are rounded to fixed point.
        fits = bool((np.abs(values) <= limit * (1 + 1e-6) + 1e-6).all())
        _require(fits, f"'{name}' larger than rounds.largest_change allows ({expected.largest:g})")


def _check_rows(name: str, offsets: IntArray, ids: IntArray, n_rows: int) -> None:
    owners = Ragged(offsets, ids).owners()
    _require(ids.shape == owners.shape, f"rows of '{name}' of nobody")
    _require(not ((ids < 0) | (ids >= n_rows)).any(), f"rows of '{name}' that no item has")
    twice = (ids[1:] <= ids[:-1]) & (owners[1:] == owners[:-1])
    _require(not twice.any(), f"rows of '{name}' that are not sorted, each once")


def _are_some(names: Any, of: Any) -> bool:
    """Return whether these are different ones of some."""
    return len(np.unique(names)) == len(names) and bool(np.isin(names, of).all())


def _node(reply: Message) -> int:
    return reply.metadata.src_node_id


def _require(fits: bool, came: str) -> None:
    if not fits:
        raise ProtocolError(
            f"its reply has {came}; it was changed on its way, or the node runs another program: "
            "start it anew with the same version of fedrec, or leave it out"
        )

"""Read what nodes reply, and check it before it is used."""

from collections.abc import Mapping, Sequence
from math import inf
from typing import Any

import numpy as np
from flwr.app import Message

from fedrec.aggregation.update import Aggregate, UpdateBatch
from fedrec.errors import ProtocolError
from fedrec.evaluation.evaluate import Evaluation, merge
from fedrec.evaluation.metrics import Metric
from fedrec.flower.records import RoundRequest, Trained, decode
from fedrec.ragged import Ragged
from fedrec.types import FloatArray, IntArray, Params

_CHECKSUMS = 2**64


def read_trained(
    reply: Message, request: RoundRequest, attackers: IntArray, params: Params
) -> Trained:
    """Read a reply to a request, and check it: clients count once, values fit and are finite.

    A sum must be of clients that were asked, at most of all of a group; whose changes it holds, and
    how large they are, nobody can see. What is beside a parameter, such as ``item/control``, has
    its shape.

    Args:
        reply: The reply.
        request: The request to the node.
        attackers: int64; their updates are not in the sums.
        params: The shared parameters.

    Raises:
        ProtocolError: Names the node, and what does not fit.
    """
    try:
        trained = decode(reply.content, Trained)
        _check(trained, request, attackers, params)
    except ProtocolError as error:
        node = reply.metadata.src_node_id
        raise ProtocolError(f"round {request.round}: node {node}: {error}") from error
    return trained


def read_evaluations(
    replies: Sequence[Message], metrics: Sequence[Metric], n_items: int
) -> Evaluation:
    """Read what nodes measured, check it, and join it user by user.

    Args:
        replies: Of all nodes.
        metrics: What they were to measure.
        n_items: Of the catalogue.

    Raises:
        ProtocolError: Names the node, and what does not fit.
    """
    evaluations, seen = list[Evaluation](), set[int]()
    for reply in replies:
        where = f"evaluation: node {reply.metadata.src_node_id}"
        try:
            evaluation = decode(reply.content, Evaluation)
            if evaluation.users.size:
                _check_evaluation(evaluation, metrics, n_items)
                first = next((each for each in evaluations if each.users.size), evaluation)
                _require(_views(evaluation) == _views(first), "other rankings than other nodes")
                users = evaluation.users.tolist()
                _require(len({*users} - seen) == len(users), "a user a second time")
                seen.update(users)
        except ProtocolError as error:
            raise ProtocolError(f"{where}: {error}") from error
        evaluations.append(evaluation)
    return merge(evaluations)


def _check_evaluation(evaluation: Evaluation, metrics: Sequence[Metric], n_items: int) -> None:
    _require(evaluation.users.ndim == 1, "users in a table")
    for values in evaluation.values.values():
        for part, of_users in values.items():
            shape = len(evaluation.users), len(evaluation.labels(metrics, part))
            _require(of_users.shape == shape, f"values of the shape {list(of_users.shape)}")
    for counts in (*evaluation.exposure.values(), *evaluation.cold_listed.values()):
        fits = counts.ndim == 1 and len(counts) <= n_items and not (counts < 0).any()
        _require(fits, "counts of something else")


def _views(evaluation: Evaluation) -> tuple[Any, ...]:
    """Return what was measured, by name, and of how many items."""
    views = {view: {*parts} for view, parts in evaluation.values.items()}
    counts = [
        {k: len(of_items) for k, of_items in each.items()}
        for each in (evaluation.exposure, evaluation.cold_listed)
    ]
    return views, counts, evaluation.slices


def _check(trained: Trained, request: RoundRequest, attackers: IntArray, params: Params) -> None:
    honest = ~np.isin(request.clients, attackers)
    for group, aggregate in trained.aggregates.items():
        asked = request.clients[honest & (request.groups == group)]
        _require(1 <= aggregate.clients <= len(asked), f"a sum of {aggregate.clients} clients")
        _check_sums(aggregate, params)
        if aggregate.each is not None:
            _check_updates(aggregate.each, request.round, asked, params)
            _require(len(aggregate.each.client_ids) == aggregate.clients, "other clients' updates")
    if trained.attackers is not None:
        asked = request.clients[~honest]
        _check_updates(trained.attackers, request.round, asked, params)
    counted = [aggregate.clients for aggregate in trained.aggregates.values()]
    counted += [len(trained.attackers.client_ids)] if trained.attackers is not None else []
    answered = sum(counted) + len(trained.failures)
    _require(answered <= len(request.clients), f"{answered} clients of {len(request.clients)}")
    reported = trained.clients
    _require(_are_some(reported, request.clients), "losses of other clients")
    _require(trained.losses.shape == reported.shape, "as many losses as clients")
    fits = trained.uploaded >= 0 and 0 <= trained.state_change < _CHECKSUMS
    _require(fits and 0 <= trained.seconds < inf, "a number that is too small or too large")


def _check_sums(aggregate: Aggregate, params: Params) -> None:
    """Check sums in fixed point."""
    _require(aggregate.weight >= 0, "a weight below 0")
    if aggregate.each is not None:
        _require(not aggregate.sums, "sums beside updates")
    tables = aggregate.ids.keys()
    fits = tables == aggregate.row_weight.keys() and tables <= aggregate.sums.keys()
    _require(fits, "rows without a sum")
    _require(aggregate.scale.keys() == aggregate.sums.keys(), "a sum without a scale")
    _require(all(0 <= scale < 63 for scale in aggregate.scale.values()), "an unknown scale")
    for name, sums in aggregate.sums.items():
        shape = _shape(name, params)
        if name in tables:
            ids, weight = aggregate.ids[name], aggregate.row_weight[name]
            _check_rows(name, np.array([0, ids.size]), ids, shape[0])
            _require(weight.shape == ids.shape and not (weight < 0).any(), f"weights of '{name}'")
            shape = (len(ids), *shape[1:])
        _require(sums.shape == shape, f"'{name}' of the shape {list(sums.shape)}")


def _check_updates(batch: UpdateBatch, round: int, asked: IntArray, params: Params) -> None:
    """Check the updates of single clients."""
    n = len(batch.client_ids)
    _require(batch.round == round, f"an update of round {batch.round}")
    _require(_are_some(batch.client_ids, asked), "updates of clients that were not asked")
    _require(bool((batch.weight >= 0).all()), "a weight below 0")
    for name, block in batch.tables.items():
        n_rows, *of_row = _shape(name, params)
        _check_rows(name, block.offsets, block.ids, n_rows)
        _check_values(name, block.values, (len(block.ids), *of_row))
    for name, values in batch.dense.items():
        _check_values(name, values, (n, *_shape(name, params)))
    numbers: Mapping[str, FloatArray] = {"weight": batch.weight, **batch.metrics, **batch.extras}
    for name, values in numbers.items():
        _check_values(name, values, (n,))


def _check_values(name: str, values: FloatArray, shape: tuple[int, ...]) -> None:
    _require(values.shape == shape, f"'{name}' of the shape {list(values.shape)}")
    _require(bool(np.isfinite(values).all()), f"a '{name}' that is not finite")


def _check_rows(name: str, offsets: IntArray, ids: IntArray, n_rows: int) -> None:
    owners = Ragged(offsets, ids).owners()
    _require(ids.shape == owners.shape, f"rows of '{name}' of nobody")
    _require(not ((ids < 0) | (ids >= n_rows)).any(), f"rows of '{name}' that no item has")
    twice = (ids[1:] <= ids[:-1]) & (owners[1:] == owners[:-1])
    _require(not twice.any(), f"rows of '{name}' that are not sorted, each once")


def _are_some(clients: IntArray, of: IntArray) -> bool:
    """Return whether clients are different ones of some."""
    is_set = clients.ndim == 1 and len(np.unique(clients)) == len(clients)
    return is_set and bool(np.isin(clients, of).all())


def _shape(name: str, params: Params) -> tuple[int, ...]:
    """Return the shape of a parameter, or of that beside which something stands."""
    of = name.partition("/")[0] if name not in params else name
    _require(of in params, f"'{name}', which is no shared parameter")
    return np.shape(params[of])


def _require(fits: bool, came: str) -> None:
    if not fits:
        raise ProtocolError(
            f"its reply has {came}; it was changed on its way, or the node runs another program: "
            "start it anew with the same version of fedrec, or leave it out"
        )

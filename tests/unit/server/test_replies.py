"""What a node replies is used only where it can be an answer to what it was asked."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from flwr.app import Message, RecordDict

from fedrec.aggregation.update import RowBlock, UpdateBatch
from fedrec.errors import ProtocolError
from fedrec.evaluation.evaluate import Evaluation
from fedrec.evaluation.metrics import parse_metric
from fedrec.flower import records
from fedrec.flower.grid import claim_identity
from fedrec.flower.records import RoundRequest, Trained
from fedrec.types import FailedClient, FloatArray
from server.replies import read_evaluations, read_trained
from strategies import FedAvg, Krum

N_ITEMS = 20
PARAMS = {"item": np.zeros((N_ITEMS, 2), np.float32), "head": np.zeros(3, np.float32)}
ALLOWED = ["item", "head", "item/control", "other"]
GROUPS = np.array([0, 0, 7, 7])
REQUEST = RoundRequest("run", 3, clients=np.array([2, 4, 5, 9]), groups=GROUPS)
ATTACKERS = np.array([1, 9])


def batch(*clients: int, **changes: Any) -> UpdateBatch:
    n = len(clients)
    rows, ids = 2 * n, np.tile([3, 8], n)
    block = RowBlock(np.arange(n + 1) * 2, ids, np.ones((rows, 2), np.float32))
    metrics = {"loss": np.ones(n), "examples": np.ones(n)}
    dense = {"head": np.ones((n, 3), np.float32)}
    made = UpdateBatch(3, np.array(clients), np.ones(n), {"item": block}, dense, metrics)
    return replace(made, **changes)


def block(**changes: Any) -> dict[str, RowBlock]:
    return {"item": replace(batch(2, 4).tables["item"], **changes)}


SUMS, EACH = FedAvg().reduce(batch(2, 4)), Krum().reduce(batch(2, 4))


def summed(**changes: Any) -> Trained:
    return Trained({0: replace(SUMS, **changes)})


def each(**changes: Any) -> Trained:
    return Trained({0: replace(EACH, each=batch(2, 4, **changes))})


def of_message(value: Any) -> Message:
    claim_identity()
    asked = Message(RecordDict(), 11, records.TRAIN)
    return Message(records.encode(value, ALLOWED), reply_to=asked)


def test_what_fits_is_read() -> None:
    two_groups = {0: SUMS, 7: FedAvg().reduce(batch(5))}
    with_attackers = Trained(two_groups, attackers=batch(9))
    for trained in (
        summed(),
        each(),
        Trained({}),
        replace(with_attackers, clients=np.array([2, 5]), losses=np.ones(2)),
        Trained({}, (FailedClient(client="2", reason="no power"),) * 4),
    ):
        read = read_trained(of_message(trained), REQUEST, ATTACKERS, PARAMS)
        assert read.aggregates.keys() == trained.aggregates.keys()


NAN = np.full((4, 2), np.nan, np.float32)
FAULTS: dict[str, tuple[Trained, str]] = {
    "no client": (summed(clients=0), "a sum of 0 clients"),
    "more than asked": (summed(clients=3), "a sum of 3 clients"),
    "group not asked": (Trained({5: SUMS}), "a sum of 2 clients"),
    "attacker in a sum": (Trained({7: SUMS}), "a sum of 2 clients"),
    "weight": (summed(weight=-1), "a weight below 0"),
    "row too large": (summed(ids={"item": np.array([3, 20])}), "rows of 'item' that no item has"),
    "row below 0": (summed(ids={"item": np.array([-1, 3])}), "rows of 'item' that no item has"),
    "row twice": (summed(ids={"item": np.array([3, 3])}), "rows of 'item' that are not sorted"),
    "rows unsorted": (summed(ids={"item": np.array([8, 3])}), "rows of 'item' that are not sorted"),
    "fewer rows": (summed(ids={"item": np.array([3])}), "weights of 'item'"),
    "no rows": (summed(ids={}), "rows without a sum"),
    "rows without sum": (summed(sums={}, scale={}), "rows without a sum"),
    "row weight": (summed(row_weight={"item": np.array([1, -1])}), "weights of 'item'"),
    "shape": (summed(sums={**SUMS.sums, "head": np.zeros(4, np.int64)}), r"'head' .* \[4\]"),
    "width": (summed(sums={**SUMS.sums, "item": np.zeros((2, 3), np.int64)}), r"'item' .* \[2, 3"),
    "no scale": (summed(scale={}), "a sum without a scale"),
    "scale": (summed(scale={"item": 64, "head": 32}), "an unknown scale"),
    "other name": (
        summed(
            sums={**SUMS.sums, "other": np.zeros(1, np.int64)}, scale={**SUMS.scale, "other": 1}
        ),
        "'other', which is no shared parameter",
    ),
    "sums and each": (
        Trained({0: replace(SUMS, each=batch(2, 4))}),
        "sums beside updates",
    ),
    "round": (each(round=2), "an update of round 2"),
    "not asked": (each(client_ids=np.array([2, 3])), "clients that were not asked"),
    "client twice": (each(client_ids=np.array([2, 2])), "clients that were not asked"),
    "fewer updates": (Trained({0: replace(EACH, each=batch(2))}), "other clients' updates"),
    "weight NaN": (each(weight=np.array([1.0, np.nan])), "a weight below 0"),
    "not finite": (each(tables=block(values=NAN)), "a 'item' that is not finite"),
    "update's row": (
        each(tables=block(ids=np.array([3, 8, 3, 20]))),
        "rows of 'item' that no item",
    ),
    "update's width": (each(tables=block(values=np.ones((4, 3), np.float32))), r"'item' .* \[4, 3"),
    "dense": (each(dense={"head": np.ones((2, 4), np.float32)}), r"'head' of the shape \[2, 4"),
    "dense NaN": (each(dense={"head": np.full((2, 3), np.inf)}), "a 'head' that is not finite"),
    "metric": (each(metrics={"loss": np.array([1.0, np.inf])}), "a 'loss' that is not finite"),
    "honest attacker": (Trained({}, attackers=batch(2)), "clients that were not asked"),
    "other attacker": (Trained({}, attackers=batch(1)), "clients that were not asked"),
    "too many": (
        replace(summed(), failures=(FailedClient(client="2", reason="x"),) * 3),
        "5 clients of 4",
    ),
    "losses": (replace(summed(), clients=np.array([3]), losses=np.ones(1)), "losses of other"),
    "as many losses": (replace(summed(), clients=np.array([2])), "as many losses as clients"),
    "bytes": (replace(summed(), uploaded=-1), "a number that is too small"),
    "seconds": (replace(summed(), seconds=float("nan")), "a number that is too small"),
    "checksum": (replace(summed(), state_change=2**64 - 2**70), "no Trained of fedrec"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_does_not_fit_is_refused_and_named(fault: str) -> None:
    trained, said = FAULTS[fault]
    with pytest.raises(ProtocolError, match=rf"^round 3: node 11: .*{said}"):
        read_trained(of_message(trained), REQUEST, ATTACKERS, PARAMS)


METRICS = [parse_metric(label) for label in ("mrr", "coverage@10")]
VALUES: FloatArray = np.array([[0.5], [np.nan]])
EVALUATION = Evaluation(
    np.array([4, 6]),
    {"mixed": {"valid": VALUES, "test": VALUES}},
    {10: np.arange(N_ITEMS)},
)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda e: replace(e, users=np.array([4, 4])), "a user a second time"),
        (lambda e: replace(e, users=np.array([6, 9])), "a user a second time"),
        (lambda e: replace(e, users=np.array([7])), r"values of the shape \[2, 1\]"),
        (lambda e: replace(e, values={"mixed": {"valid": VALUES}}), "other rankings"),
        (lambda e: replace(e, values={"global": e.values["mixed"]}), "other rankings"),
        (lambda e: replace(e, exposure={}), "other rankings"),
        (lambda e: replace(e, exposure={10: np.arange(3)}), "other rankings"),
        (lambda e: replace(e, exposure={10: np.arange(N_ITEMS + 1)}), "counts of something else"),
        (lambda e: replace(e, exposure={10: -np.arange(N_ITEMS)}), "counts of something else"),
    ],
)
def test_evaluations_of_other_users_or_things_are_refused(
    change: Callable[[Evaluation], Evaluation], said: str
) -> None:
    other = change(replace(EVALUATION, users=np.array([7, 9])))
    with pytest.raises(ProtocolError, match=f"^evaluation: node 11: its reply has .*{said}"):
        read_evaluations([*map(of_message, (EVALUATION, other))], METRICS, N_ITEMS)


def test_evaluations_are_joined_with_those_of_nobody() -> None:
    nobody = Evaluation(np.zeros(0, np.int64), {}, {})
    other = replace(EVALUATION, users=np.array([7, 5]))
    joined = read_evaluations([*map(of_message, (nobody, EVALUATION, other))], METRICS, N_ITEMS)
    assert joined.users.tolist() == [4, 5, 6, 7]
    assert (joined.exposure[10] == 2 * np.arange(N_ITEMS)).all()

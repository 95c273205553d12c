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
from fedrec.evaluation.ranking import PARTS
from fedrec.flower import records
from fedrec.flower.grid import claim_identity
from fedrec.flower.records import Evaluated, PrivateState, RollCall, RoundRequest, Trained
from fedrec.ragged import Ragged
from fedrec.types import FailedClient, FloatArray
from server.replies import (
    Expected,
    ExpectedEvaluation,
    read_evaluation,
    read_roll_call,
    read_trained,
)
from strategies import FedAvg, Krum

N_ITEMS = 20
ALLOWED = ["item", "head", "item/control", "other"]
EXPECTED = Expected({"item": (N_ITEMS, 2), "head": (3,)}, ["item"], ["loss", "examples"])
REPORTED = replace(EXPECTED, reports_losses=True)
GROUPS = np.array([0, 0, 7, 7])
REQUEST = RoundRequest("run", "start", 3, clients=np.array([2, 4, 5, 9]), groups=GROUPS)
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
FAILED = (FailedClient(client="5", reason="no power"), FailedClient(client="9", reason="lost"))


def summed(**changes: Any) -> Trained:
    """A reply with the sum of clients 2 and 4; 5 and 9 have failed."""
    return Trained({0: replace(SUMS, **changes)}, FAILED)


def each(**changes: Any) -> Trained:
    return Trained({0: replace(EACH, each=batch(2, 4, **changes))}, FAILED)


def of_message(value: Any, node: int = 11) -> Message:
    claim_identity()
    asked = Message(RecordDict(), node, records.TRAIN)
    return Message(records.encode(value, ALLOWED), reply_to=asked)


def roll_call(state: PrivateState) -> RollCall:
    return RollCall(np.array([1]), "", 2, 0, state)


def read(*replies: Trained, expected: Expected = EXPECTED) -> list[Trained]:
    answers = [replace(trained, request=trained.request or REQUEST.id) for trained in replies]
    sends_each = any(sent.each is not None for sent in answers[0].aggregates.values())
    expected, read = replace(expected, each=sends_each), list[Trained]()
    for trained in answers:
        message = of_message(trained, 11 + len(read))
        other = read[0] if read else None
        read.append(read_trained(message, REQUEST, ATTACKERS, expected, other))
    return read


def test_what_fits_is_read() -> None:
    two_groups = {0: SUMS, 7: FedAvg().reduce(batch(5))}
    everybody = Trained(two_groups, attackers=batch(9))
    names = [FailedClient(client=str(client), reason="no power") for client in (2, 4, 5, 9)]
    for trained in (summed(), each(), everybody, Trained({}, tuple(names))):
        (as_read,) = read(trained)
        assert as_read.aggregates.keys() == trained.aggregates.keys()
    losses = replace(everybody, clients=np.array([9, 2, 4, 5]), losses=np.ones(4))
    assert read(losses, expected=REPORTED)[0].losses.tolist() == [1.0] * 4


NAN = np.full((4, 2), np.nan, np.float32)
HEAD = {"head": SUMS.sums["head"]}
FAULTS: dict[str, tuple[Trained, str]] = {
    "round before": (replace(summed(), request="start/2/1"), "the answer to another request"),
    "other attempt": (replace(summed(), request="start/3/2"), "the answer to another request"),
    "no client": (summed(clients=0), "a sum of 0 clients"),
    "more than asked": (summed(clients=3), "a sum of 3 clients"),
    "fewer than asked": (summed(clients=1), "a sum of 1 clients of a group of 2"),
    "nobody": (Trained({}), "a sum of 0 clients of a group of 2"),
    "group not asked": (Trained({5: SUMS}, FAILED), "a sum of"),
    "attacker in a sum": (Trained({0: SUMS, 7: SUMS}, FAILED), "a sum of 2 clients"),
    "weight": (summed(weight=-1), "a weight below 0"),
    "row too large": (summed(ids={"item": np.array([3, 20])}), "rows of 'item' that no item has"),
    "row below 0": (summed(ids={"item": np.array([-1, 3])}), "rows of 'item' that no item has"),
    "row twice": (summed(ids={"item": np.array([3, 3])}), "rows of 'item' that are not sorted"),
    "rows unsorted": (summed(ids={"item": np.array([8, 3])}), "rows of 'item' that are not sorted"),
    "fewer rows": (summed(ids={"item": np.array([3])}), "weights of 'item'"),
    "table as dense": (summed(ids={}, row_weight={}), "rows of something else"),
    "dense as table": (
        summed(
            ids={**SUMS.ids, "head": np.arange(3)},
            row_weight={**SUMS.row_weight, "head": np.ones(3, int)},
        ),
        "rows of something else",
    ),
    "no sum": (summed(sums=HEAD), "no sum of 'item'"),
    "no metric": (summed(metrics={"loss": 1}), "no sum of 'examples'"),
    "row weight": (summed(row_weight={"item": np.array([1, -1])}), "weights of 'item'"),
    "shape": (summed(sums={**SUMS.sums, "head": np.zeros(4, np.int64)}), r"'head' .* \[4\]"),
    "width": (summed(sums={**SUMS.sums, "item": np.zeros((2, 3), np.int64)}), r"'item' .* \[2, 3"),
    "no scale": (summed(scale={}), "a sum without a scale"),
    "scale": (summed(scale={"item": 31, "head": 32}), "a sum in another scale"),
    "other name": (
        summed(sums={**SUMS.sums, "other": np.zeros(1, int)}, scale={**SUMS.scale, "other": 32}),
        "'other', which no client sends",
    ),
    "round": (each(round=2), "an update of round 2"),
    "not asked": (each(client_ids=np.array([2, 3])), "updates of other clients"),
    "client twice": (each(client_ids=np.array([2, 2])), "updates of other clients"),
    "fewer updates": (Trained({0: replace(EACH, each=batch(2))}, FAILED), "updates of other"),
    "no table": (each(tables={}), "no update of 'item'"),
    "no dense": (each(dense={}), "no update of 'head'"),
    "weight NaN": (each(weight=np.array([1.0, np.nan])), "a weight below 0"),
    "not finite": (each(tables=block(values=NAN)), "a 'item' that is not finite"),
    "update's row": (
        each(tables=block(ids=np.array([3, 8, 3, 20]))),
        "rows of 'item' that no item",
    ),
    "update's width": (each(tables=block(values=np.ones((4, 3), np.float32))), r"'item' .* \[3\]"),
    "dense": (each(dense={"head": np.ones((2, 4), np.float32)}), r"'head' .* \[4\]"),
    "dense NaN": (each(dense={"head": np.full((2, 3), np.inf)}), "a 'head' that is not finite"),
    "metric": (
        each(metrics={"loss": np.array([1.0, np.inf]), "examples": np.ones(2)}),
        "a 'loss' that is not finite",
    ),
    "no attacker": (Trained({0: SUMS}, FAILED[:1]), "no updates of attackers"),
    "honest attacker": (Trained({0: SUMS}, FAILED[:1], attackers=batch(2)), "of other clients"),
    "failed twice": (replace(summed(), failures=FAILED * 2), "failures of clients that were not"),
    "failed elsewhere": (
        replace(summed(), failures=(FailedClient(client="77", reason="x"),)),
        "failures of clients that were not asked",
    ),
    "losses": (replace(summed(), clients=np.array([2]), losses=np.ones(1)), "losses of other"),
    "as many losses": (replace(summed(), losses=np.ones(1)), r"'loss' of the shape \[1\]"),
    "bytes": (replace(summed(), uploaded=-1), "a number that is too small"),
    "seconds": (replace(summed(), seconds=float("nan")), "a number that is too small"),
    "checksum": (replace(summed(), state_change=2**64 - 2**70), "no Trained of fedrec"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_does_not_fit_is_refused_and_named(fault: str) -> None:
    trained, said = FAULTS[fault]
    with pytest.raises(ProtocolError, match=rf"^round 3: node 11: .*{said}"):
        read(trained)


@pytest.mark.parametrize(
    "other",
    [
        summed(extras={"steps": 3}),
        summed(metrics={**SUMS.metrics, "loss_before": 1}),
    ],
)
def test_sums_that_cannot_be_added_are_refused(other: Trained) -> None:
    with pytest.raises(ProtocolError, match="node 12: its reply has sums of another form"):
        read(summed(), other)


@pytest.mark.parametrize(
    ("sent", "needed", "said"),
    [
        (summed(), {"extras": ["steps"]}, "no sum of 'steps'"),
        (each(), {"extras": ["steps"], "each": True}, "no number of 'steps'"),
        (summed(), {"each": True}, "a sum in place of updates"),
        (each(), {"each": False}, "updates and no sum"),
        (Trained({0: SUMS, 3: replace(SUMS, clients=0)}, FAILED), {}, "a sum of nobody"),
    ],
)
def test_what_a_strategy_needs_is_there(sent: Trained, needed: Any, said: str) -> None:
    reply = of_message(replace(sent, request=REQUEST.id))
    with pytest.raises(ProtocolError, match=said):
        read_trained(reply, REQUEST, ATTACKERS, replace(EXPECTED, **needed))


def test_losses_that_are_needed_are_of_all_clients_that_succeeded() -> None:
    some = replace(summed(), clients=np.array([2]), losses=np.ones(1))
    with pytest.raises(ProtocolError, match="losses of other clients"):
        read(some, expected=REPORTED)
    unknown = replace(summed(), clients=np.array([2, 4]), losses=np.array([1.0, np.nan]))
    with pytest.raises(ProtocolError, match="a 'loss' that is not finite"):
        read(unknown, expected=REPORTED)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (RollCall(np.array([[1, 2]]), "", 2), "clients that are not sorted"),
        (RollCall(np.array([2, 1]), "", 2), "clients that are not sorted"),
        (RollCall(np.array([-1, 1]), "", 2), "clients that are not sorted"),
        (RollCall(np.array([1]), "", 2, 2), "the partition 2"),
        (RollCall(np.array([1]), "", 0), "the partition 0"),
        (RollCall(np.array([1]), "", 2, examples=np.arange(3)), "numbers of examples"),
        (RollCall(np.array([1]), "", 2, examples=np.array([-1])), "numbers of examples"),
        (roll_call(PrivateState(((-1, 1),), 3)), "an impossible state"),
        (roll_call(PrivateState(((1, 1),), -3)), "an impossible state"),
        (roll_call(PrivateState(((1, 1),), 3, (((1, 1), 5),))), "an impossible state"),
        (roll_call(PrivateState((), 3, (((1, 1), -1),))), "an impossible state"),
    ],
)
def test_an_answer_to_the_roll_call_is_checked(answer: RollCall, said: str) -> None:
    with pytest.raises(ProtocolError, match=f"^roll call: node 11: .*{said}"):
        read_roll_call(of_message(answer))


METRICS = [parse_metric(label) for label in ("mrr", "coverage@10")]
USERS_OF = Ragged(np.array([0, 0, 0, 1, 1, 2, 3, 3, 3, 3, 5]), np.array([4, 6, 7, 8, 9]))
MEASURED = ExpectedEvaluation(METRICS, N_ITEMS, np.array([4, 6, 7, 9]), USERS_OF)
VALUES: FloatArray = np.array([[0.5], [np.nan]])
EVALUATION = Evaluation(
    np.array([4, 6]),
    {"mixed": {"valid": VALUES, "test": VALUES}},
    {10: np.arange(N_ITEMS) % 3},
)


def read_evaluated(evaluation: Evaluation, *clients: int, id: str = REQUEST.id) -> Evaluation:
    """Reads what the users of some clients measured, beside `EVALUATION`."""
    request = replace(REQUEST, clients=np.array(clients))
    message = of_message(Evaluated(id, evaluation))
    return read_evaluation(message, request, MEASURED, EVALUATION)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda e: replace(e, users=np.array([7, 7])), "other users than were asked"),
        (lambda e: replace(e, users=np.array([6, 9])), "other users than were asked"),
        (lambda e: replace(e, users=np.array([7])), "other users than were asked"),
        (lambda e: replace(e, users=np.array([7, 8])), "other users than were asked"),
        (lambda e: replace(e, users=np.array([[7, 9]])), "users in a table"),
        (
            lambda e: replace(e, values={"mixed": dict.fromkeys(PARTS, VALUES[:1])}),
            r"values of the shape \[1, 1\]",
        ),
        (lambda e: replace(e, values={"mixed": {"valid": VALUES}}), "values of something else"),
        (lambda e: replace(e, values={"global": e.values["mixed"]}), "no ranking"),
        (lambda e: replace(e, values={**e.values, "global": e.values["mixed"]}), "other rankings"),
        (
            lambda e: replace(e, values={"mixed": dict.fromkeys(PARTS, VALUES + np.inf)}),
            "not finite",
        ),
        (lambda e: replace(e, exposure={}), "lists of another length"),
        (lambda e: replace(e, exposure={10: np.arange(3)}), "other rankings"),
        (lambda e: replace(e, exposure={10: np.arange(N_ITEMS + 1)}), "counts of something else"),
        (lambda e: replace(e, exposure={10: -np.arange(N_ITEMS)}), "counts of something else"),
        (lambda e: replace(e, exposure={10: np.full(N_ITEMS, 3)}), "counts of something else"),
        (lambda e: replace(e, exposure={10: np.zeros(0, int)}), "counts of something else"),
        (lambda e: replace(e, cold_listed={10: np.arange(2)}), "lists of another length"),
    ],
)
def test_evaluations_of_other_users_or_things_are_refused(
    change: Callable[[Evaluation], Evaluation], said: str
) -> None:
    other = change(replace(EVALUATION, users=np.array([7, 9])))
    with pytest.raises(ProtocolError, match=f"^evaluation: node 11: its reply has .*{said}"):
        read_evaluated(other, 5, 9)


def test_users_come_in_any_order_and_may_be_nobody() -> None:
    other = replace(EVALUATION, users=np.array([9, 7]))
    assert read_evaluated(other, 5, 9).users.tolist() == [9, 7]
    nobody = Evaluation(np.zeros(0, np.int64), {}, {})
    assert not read_evaluated(nobody, 0, 1).users.size


def test_an_evaluation_of_an_earlier_round_is_refused() -> None:
    with pytest.raises(ProtocolError, match="node 11: its reply has the answer to another request"):
        read_evaluated(EVALUATION, 2, 4, id="start/2/1")

"""What is said on the wire: every key is a constant here, and only declared names may pass.

Down goes an order and the global parameters; up comes a sum of updates or metric values. A name
that the experiment does not declare as global cannot be encoded, so a local parameter cannot leave
its client by mistake.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, get_args

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict

from fedrec.errors import ProtocolError
from fedrec.evaluation.evaluate import Evaluation, Part
from fedrec.flower.each import decode_each, encode_each
from fedrec.personalization.base import View
from fedrec.types import Aggregate, FailedClient, FloatArray, IntArray, Params

__all__ = [
    "EVALUATE",
    "ROLL_CALL",
    "TRAIN",
    "RollCall",
    "RoundRequest",
    "Trained",
    "byte_count",
    "decode_evaluation",
    "decode_params",
    "decode_request",
    "decode_roll_call",
    "decode_trained",
    "encode_evaluation",
    "encode_params",
    "encode_request",
    "encode_roll_call",
    "encode_trained",
]

TRAIN = "train"
EVALUATE = "evaluate"
ROLL_CALL = "query.roll_call"

_ORDER, _PARAMS, _CLIENTS = "order", "params", "clients"
_SUMS, _ABOUT, _EACH = "sums", "about", "each"
_VALUES = "values"
_MARK = "/"


@dataclass(frozen=True, slots=True)
class RoundRequest:
    """What the server tells a node with every message.

    Args:
        run: id of the run; a new one for each start.
        out: the run folder.
        split: the folder of the prepared data.
        round: the round.
        committed: the last round that the server took.
        best: the best round so far, by validation.
        group: of the strategy; all clients that are meant are in it.
    """

    run: str
    out: str
    split: str
    round: int = 0
    committed: int = 0
    best: int = 0
    group: int = 0


@dataclass(frozen=True, slots=True)
class RollCall:
    """What a node answers when it is asked who it is.

    Args:
        clients: int64, the clients it hosts, sorted.
        code: hash of the source code it runs.
        partitions: number of nodes that there are in all.
        partition: number of the node.
        state: the last round that changed the clients' private state, and the checksum of it;
            None where they have none.
    """

    clients: IntArray
    code: str
    partitions: int
    partition: int = 0
    state: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class Trained:
    """What a node answers to a training message.

    Args:
        aggregate: the reduced updates, or None if no client succeeded.
        failures: the clients that failed.
        group: the group of the strategy that they are in.
        seconds: how long the node worked.
        state_change: what the checksum of the clients' private state changes by.
    """

    aggregate: Aggregate | None
    failures: tuple[FailedClient, ...] = ()
    group: int = 0
    seconds: float = field(default=0.0, compare=False)
    state_change: int = 0


def encode_params(params: Params, allowed: Iterable[str]) -> ArrayRecord:
    """The global parameters, encoded once for all nodes.

    Args:
        params: Named arrays.
        allowed: The names that may travel, see `fedrec.training.task.ClientTask.travels`.

    Raises:
        ProtocolError: If another name is among them.
    """
    return _arrays(params, set(allowed))


def decode_params(content: RecordDict) -> dict[str, FloatArray]:
    """The global parameters of a message."""
    return _numpy(_needed(content, _PARAMS))


def encode_request(
    order: RoundRequest, params: ArrayRecord | None = None, clients: IntArray | None = None
) -> RecordDict:
    """A message to a node.

    Args:
        order: What is to be done.
        params: From `encode_params`; shared by all messages of a round.
        clients: int64, the clients that are meant; None: all of the node.
    """
    content = RecordDict({_ORDER: ConfigRecord(asdict(order))})
    if params is not None:
        content[_PARAMS] = params
    if clients is not None:
        content[_CLIENTS] = ArrayRecord({"ids": Array(clients)})
    return content


def decode_request(content: RecordDict) -> tuple[RoundRequest, IntArray | None]:
    """The order of a message, and the clients that are meant (None: all of the node).

    Raises:
        ProtocolError: If there is none.
    """
    what = content.get(_ORDER)
    if not isinstance(what, ConfigRecord):
        raise ProtocolError(
            "the message holds no order of fedrec; start rounds with fedrec's own server app"
        )
    order = RoundRequest(**dict(what))  # type: ignore[arg-type]
    return order, _numpy(_needed(content, _CLIENTS))["ids"] if _CLIENTS in content else None


def encode_roll_call(roll_call: RollCall) -> RecordDict:
    """The answer to a roll call."""
    about: dict[str, Any] = {
        "code": roll_call.code,
        "partitions": roll_call.partitions,
        "partition": roll_call.partition,
    }
    if roll_call.state is not None:
        # As text: a checksum needs all 64 bits.
        about["state"] = [str(number) for number in roll_call.state]
    ids = ArrayRecord({"ids": Array(roll_call.clients)})
    return RecordDict({_CLIENTS: ids, _ABOUT: ConfigRecord(about)})


def decode_roll_call(content: RecordDict) -> RollCall:
    """What `encode_roll_call` encoded."""
    ids = _numpy(_needed(content, _CLIENTS))["ids"]
    about = _about(content)
    state = tuple(int(number) for number in about["state"]) if "state" in about else None
    return RollCall(
        ids,
        str(about["code"]),
        int(about["partitions"]),
        int(about["partition"]),
        state,  # type: ignore[arg-type]
    )


def encode_trained(trained: Trained, allowed: Iterable[str]) -> RecordDict:
    """The answer to a training message.

    Args:
        trained: What came of it.
        allowed: The names that may travel, see `fedrec.training.task.ClientTask.travels`.

    Raises:
        ProtocolError: If the sums hold another name.
    """
    about: dict[str, Any] = {
        "group": trained.group,
        "seconds": trained.seconds,
        "state_change": str(trained.state_change),
    }
    if trained.failures:  # Flower cannot count the bytes of an empty list.
        about["failed"] = [failure.client for failure in trained.failures]
        about["reasons"] = [failure.reason for failure in trained.failures]
    aggregate = trained.aggregate
    if aggregate is None:
        return RecordDict({_ABOUT: ConfigRecord(about)})
    names = [*aggregate.sums, *aggregate.ids, *aggregate.row_weight, *aggregate.scale]
    _check(names, set(allowed))
    arrays = {f"{name}{_MARK}sums": value for name, value in aggregate.sums.items()}
    arrays |= {f"{name}{_MARK}ids": _small(value) for name, value in aggregate.ids.items()}
    arrays |= {f"{name}{_MARK}weight": value for name, value in aggregate.row_weight.items()}
    about |= {
        "clients": aggregate.clients,
        "weight": aggregate.weight,
        "names": list(aggregate.scale),
        "scales": list(aggregate.scale.values()),
        "metrics": list(aggregate.metrics),
        "metric_sums": list(aggregate.metrics.values()),
        "extras": list(aggregate.extras),
        "extra_sums": list(aggregate.extras.values()),
    }
    content = RecordDict({_ABOUT: ConfigRecord({k: v for k, v in about.items() if v != []})})
    if aggregate.each is None:
        content[_SUMS] = _arrays(arrays, set(arrays))
    else:
        content[_EACH] = encode_each(aggregate.each, set(allowed))
    return content


def decode_trained(content: RecordDict) -> Trained:
    """What `encode_trained` encoded."""
    about = _about(content)
    failures = tuple(
        FailedClient(client=str(client), reason=str(reason))
        for client, reason in zip(about.get("failed", []), about.get("reasons", []), strict=True)
    )
    group, seconds = int(about["group"]), float(about["seconds"])
    if _SUMS not in content and _EACH not in content:
        return Trained(None, failures, group, seconds)
    found: dict[str, dict[str, IntArray]] = {"sums": {}, "ids": {}, "weight": {}}
    sums = _numpy(_needed(content, _SUMS)) if _SUMS in content else {}
    for key, value in sums.items():
        name, _, kind = key.rpartition(_MARK)
        found[kind][name] = value.astype(np.int64, copy=False)
    aggregate = Aggregate(
        clients=int(about["clients"]),
        weight=int(about["weight"]),
        ids=found["ids"],
        sums=found["sums"],
        row_weight=found["weight"],
        scale=_paired(about, "names", "scales"),
        metrics=_paired(about, "metrics", "metric_sums"),
        extras=_paired(about, "extras", "extra_sums"),
        each=decode_each(_needed(content, _EACH)) if _EACH in content else None,
    )
    return Trained(aggregate, failures, group, seconds, int(about["state_change"]))


def _paired(about: Mapping[str, Any], names: str, values: str) -> dict[str, int]:
    return dict(zip(about.get(names, []), about.get(values, []), strict=True))


def encode_evaluation(evaluation: Evaluation) -> RecordDict:
    """The answer to an evaluation: metric values of each user, and counts of exposure."""
    arrays: dict[str, FloatArray] = {"users": evaluation.users}
    for view, parts in evaluation.values.items():
        for part, values in parts.items():
            arrays[f"{view}{_MARK}{part}"] = values
    for cutoff, counts in evaluation.exposure.items():
        arrays[f"exposure{_MARK}{cutoff}"] = counts
    return RecordDict({_VALUES: _arrays(arrays, set(arrays))})


def decode_evaluation(content: RecordDict) -> Evaluation:
    """What `encode_evaluation` encoded."""
    arrays = _numpy(_needed(content, _VALUES))
    values: dict[View, dict[Part, FloatArray]] = {}
    for view in get_args(View):
        parts = {
            p: arrays[f"{view}{_MARK}{p}"] for p in get_args(Part) if f"{view}{_MARK}{p}" in arrays
        }
        if parts:
            values[view] = parts
    exposure = {
        int(key.rpartition(_MARK)[2]): value
        for key, value in arrays.items()
        if key.startswith(f"exposure{_MARK}")
    }
    return Evaluation(arrays["users"], values, exposure)


def byte_count(message: Message) -> int:
    """Bytes of the arrays and configuration that a message carries; headers are left out."""
    return sum(record.count_bytes() for record in message.content.values())


def _arrays(values: Mapping[str, FloatArray], allowed: set[str]) -> ArrayRecord:
    _check(values, allowed)
    return ArrayRecord({name: Array(np.asarray(v, order="C")) for name, v in values.items()})


def _needed(content: RecordDict, key: str) -> ArrayRecord:
    # Flower's own `array_records` makes a circle of references, in which the arrays stay until
    # the garbage collector comes by.
    record = content.get(key)
    if not isinstance(record, ArrayRecord):
        raise ProtocolError(f"the message holds no arrays '{key}'; run the same fedrec everywhere")
    return record


def _about(content: RecordDict) -> dict[str, Any]:
    record = content.get(_ABOUT)
    if not isinstance(record, ConfigRecord):
        raise ProtocolError(f"the message holds no '{_ABOUT}'; run the same fedrec everywhere")
    return dict(record)


def _check(names: Iterable[str], allowed: set[str]) -> None:
    other = sorted(set(names) - allowed)
    if other:
        raise ProtocolError(
            f"'{other[0]}' may not leave its client: only parameters with the role item_rows or "
            f"global travel ({', '.join(sorted(allowed))})"
        )


def _small(ids: IntArray) -> FloatArray:
    """Item ids in 4 bytes where they fit."""
    return ids.astype(np.int32) if len(ids) == 0 or ids[-1] < 2**31 else ids


def _numpy(record: ArrayRecord) -> dict[str, FloatArray]:
    return {str(name): array.numpy() for name, array in record.items()}

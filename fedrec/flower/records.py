"""Encode and decode what server and nodes send each other; only declared names may pass.

A request and the shared parameters go down; a sum of updates, every update or metric values come
up. A name that the experiment does not declare as shared cannot be encoded, so a private parameter
cannot leave its client by mistake.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict

from fedrec.errors import ProtocolError
from fedrec.evaluation.evaluate import Evaluation
from fedrec.types import (
    Aggregate,
    FailedClient,
    FloatArray,
    IntArray,
    Params,
    RowBlock,
    UpdateBatch,
)

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

_REQUEST, _PARAMS, _CLIENTS = "request", "params", "clients"
_SUMS, _ABOUT, _EACH, _VALUES = "sums", "about", "each", "values"
_SEPARATOR = ":"
_DIFFERENT_VERSION = "install the same version of fedrec on server and nodes"

_Groups = Mapping[str, Mapping[str, FloatArray]]
"""Arrays by kind and name."""


@dataclass(frozen=True, slots=True)
class RoundRequest:
    """What the server tells a node with every message.

    Args:
        run: id of the run; a new one for each start.
        out: the run folder.
        split: the folder of the prepared data.
        round: the round.
        committed: the last round that the server completed.
        best: the best round so far, by validation.
        group: of the strategy; all clients of the request are in it.
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
    """What a node replies when the server asks which clients it hosts.

    Args:
        clients: int64, the clients it hosts, sorted.
        code: hash of the source code it runs.
        partitions: number of nodes of the run.
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
    """What a node replies to a training request.

    Args:
        aggregate: the reduced updates, or None if no client succeeded.
        failures: the clients that failed.
        group: the group of the strategy that they are in.
        uploaded: bytes that the clients send, see `fedrec.aggregation.payload.upload_bytes`.
        seconds: how long the node worked.
        state_change: what the checksum of the clients' private state changes by.
    """

    aggregate: Aggregate | None
    failures: tuple[FailedClient, ...] = ()
    group: int = 0
    uploaded: int = 0
    seconds: float = field(default=0.0, compare=False)
    state_change: int = 0


def encode_params(params: Params, allowed: Iterable[str]) -> ArrayRecord:
    """Encode the shared parameters, once for all nodes.

    Args:
        params: Named arrays.
        allowed: The names that may travel, see `fedrec.training.task.ClientTask.travels`.

    Raises:
        ProtocolError: If another name is among them.
    """
    _check(params, set(allowed))
    return _record(params)


def decode_params(content: RecordDict) -> dict[str, FloatArray]:
    """Return the shared parameters of a message."""
    return _numpy(_arrays_of(content, _PARAMS))


def encode_request(
    request: RoundRequest, params: ArrayRecord | None = None, clients: IntArray | None = None
) -> RecordDict:
    """Encode a message to a node.

    Args:
        request: What the node is to do.
        params: From `encode_params`; shared by all messages of a round.
        clients: int64, the clients that are to do it; None: all of the node.
    """
    content = RecordDict({_REQUEST: ConfigRecord(asdict(request))})
    if params is not None:
        content[_PARAMS] = params
    if clients is not None:
        content[_CLIENTS] = _record({"ids": clients})
    return content


def decode_request(content: RecordDict) -> tuple[RoundRequest, IntArray | None]:
    """Return the request of a message, and its clients (None: all of the node).

    Raises:
        ProtocolError: If there is none.
    """
    fields = content.get(_REQUEST)
    if not isinstance(fields, ConfigRecord):
        raise ProtocolError(
            "the message holds no request of fedrec; start rounds with fedrec's own server app"
        )
    request = RoundRequest(**dict(fields))  # type: ignore[arg-type]
    return request, _numpy(_arrays_of(content, _CLIENTS))["ids"] if _CLIENTS in content else None


def encode_roll_call(roll_call: RollCall) -> RecordDict:
    """Encode the reply to a roll call."""
    about: dict[str, Any] = {
        "code": roll_call.code,
        "partitions": roll_call.partitions,
        "partition": roll_call.partition,
    }
    if roll_call.state is not None:
        # As text: a checksum needs all 64 bits.
        about["state"] = [str(number) for number in roll_call.state]
    return RecordDict({_CLIENTS: _record({"ids": roll_call.clients}), _ABOUT: ConfigRecord(about)})


def decode_roll_call(content: RecordDict) -> RollCall:
    """Invert `encode_roll_call`."""
    ids, about = _numpy(_arrays_of(content, _CLIENTS))["ids"], _about(content)
    state = tuple(int(number) for number in about["state"]) if "state" in about else None
    return RollCall(
        ids,
        str(about["code"]),
        int(about["partitions"]),
        int(about["partition"]),
        state,  # type: ignore[arg-type]
    )


def encode_trained(trained: Trained, allowed: Iterable[str]) -> RecordDict:
    """Encode the reply to a training request.

    Args:
        trained: What came of it.
        allowed: The names that may travel, see `fedrec.training.task.ClientTask.travels`.

    Raises:
        ProtocolError: If the updates hold another name.
    """
    about: dict[str, Any] = {
        "group": trained.group,
        "uploaded": trained.uploaded,
        "seconds": trained.seconds,
        "state_change": str(trained.state_change),
        "failed": [failure.client for failure in trained.failures],
        "reasons": [failure.reason for failure in trained.failures],
    }
    content, aggregate = RecordDict(), trained.aggregate
    if aggregate is not None:
        about |= {"clients": aggregate.clients, "weight": aggregate.weight}
        for field_name in ("scale", "metrics", "extras"):
            values = getattr(aggregate, field_name)
            about |= {field_name: list(values), f"{field_name}_values": list(values.values())}
        if aggregate.each is None:
            _check([*aggregate.sums, *aggregate.ids, *aggregate.row_weight], set(allowed))
            ids = {name: _small(value) for name, value in aggregate.ids.items()}
            groups = {"sums": aggregate.sums, "ids": ids, "weight": aggregate.row_weight}
            content[_SUMS] = _grouped(groups)
        else:
            content[_EACH] = _encode_each(aggregate.each, set(allowed))
    # Flower cannot count the bytes of an empty list.
    content[_ABOUT] = ConfigRecord({key: value for key, value in about.items() if value != []})
    return content


def decode_trained(content: RecordDict) -> Trained:
    """Invert `encode_trained`."""
    about = _about(content)
    failures = tuple(
        FailedClient(client=str(client), reason=str(reason))
        for client, reason in zip(about.get("failed", []), about.get("reasons", []), strict=True)
    )
    aggregate: Aggregate | None = None
    if _SUMS in content or _EACH in content:
        groups = _groups(_arrays_of(content, _SUMS)) if _SUMS in content else {}
        aggregate = Aggregate(
            clients=int(about["clients"]),
            weight=int(about["weight"]),
            ids={name: value.astype(np.int64) for name, value in groups.get("ids", {}).items()},
            sums=groups.get("sums", {}),
            row_weight=groups.get("weight", {}),
            scale=_named(about, "scale"),
            metrics=_named(about, "metrics"),
            extras=_named(about, "extras"),
            each=_decode_each(_arrays_of(content, _EACH)) if _EACH in content else None,
        )
    return Trained(
        aggregate,
        failures,
        int(about["group"]),
        int(about["uploaded"]),
        float(about["seconds"]),
        int(about["state_change"]),
    )


def _encode_each(batch: UpdateBatch, allowed: set[str]) -> ArrayRecord:
    """Encode the updates of single clients, for a strategy that needs each."""
    _check([*batch.tables, *batch.dense], allowed)
    tables = batch.tables.items()
    return _grouped(
        {
            "batch": {
                "round": np.array(batch.round),
                "clients": batch.client_ids,
                "weight": np.asarray(batch.weight, np.float64),
            },
            "offsets": {name: block.offsets for name, block in tables},
            "ids": {name: _small(block.ids) for name, block in tables},
            "rows": {name: block.values for name, block in tables},
            "dense": batch.dense,
            "metrics": batch.metrics,
            "extras": batch.extras,
        }
    )


def _decode_each(record: ArrayRecord) -> UpdateBatch:
    groups = _groups(record)
    tables = {
        name: RowBlock(offsets, groups["ids"][name].astype(np.int64), groups["rows"][name])
        for name, offsets in groups.get("offsets", {}).items()
    }
    return UpdateBatch(
        round=int(groups["batch"]["round"]),
        client_ids=groups["batch"]["clients"],
        weight=groups["batch"]["weight"],
        tables=tables,
        dense=groups.get("dense", {}),
        metrics=groups.get("metrics", {}),
        extras=groups.get("extras", {}),
    )


def encode_evaluation(evaluation: Evaluation) -> RecordDict:
    """Encode the reply to an evaluation: metric values of each user, and counts of exposure."""
    groups: dict[str, Mapping[str, FloatArray]] = {"of": {"users": evaluation.users}}
    groups |= {view: dict(parts) for view, parts in evaluation.values.items()}  # type: ignore[arg-type]
    groups["exposure"] = {str(cutoff): counts for cutoff, counts in evaluation.exposure.items()}
    return RecordDict({_VALUES: _grouped(groups)})


def decode_evaluation(content: RecordDict) -> Evaluation:
    """Invert `encode_evaluation`."""
    groups = _groups(_arrays_of(content, _VALUES))
    users, exposure = groups.pop("of")["users"], groups.pop("exposure", {})
    counts = {int(cutoff): values for cutoff, values in exposure.items()}
    return Evaluation(users, groups, counts)  # type: ignore[arg-type]


def byte_count(message: Message) -> int:
    """Count the bytes of the arrays and settings that a message carries, without its headers."""
    return sum(record.count_bytes() for record in message.content.values())


def _check(names: Iterable[str], allowed: set[str]) -> None:
    if private := sorted(set(names) - allowed):
        raise ProtocolError(
            f"'{private[0]}' may not leave its client: only shared parameters "
            f"travel ({', '.join(sorted(allowed))})"
        )


def _record(values: Mapping[str, FloatArray]) -> ArrayRecord:
    return ArrayRecord({name: Array(np.asarray(v, order="C")) for name, v in values.items()})


def _numpy(record: ArrayRecord) -> dict[str, FloatArray]:
    return {str(name): array.numpy() for name, array in record.items()}


def _grouped(groups: _Groups) -> ArrayRecord:
    named = {f"{kind}{_SEPARATOR}{name}": v for kind in groups for name, v in groups[kind].items()}
    return _record(named)


def _groups(record: ArrayRecord) -> dict[str, dict[str, FloatArray]]:
    groups: dict[str, dict[str, FloatArray]] = {}
    for key, value in _numpy(record).items():
        kind, _, name = key.partition(_SEPARATOR)
        groups.setdefault(kind, {})[name] = value
    return groups


def _named(about: Mapping[str, Any], field_name: str) -> dict[str, int]:
    return dict(zip(about.get(field_name, []), about.get(f"{field_name}_values", []), strict=True))


def _arrays_of(content: RecordDict, key: str) -> ArrayRecord:
    # Flower's own `array_records` makes a circle of references, in which the arrays stay until
    # the garbage collector comes by.
    record = content.get(key)
    if not isinstance(record, ArrayRecord):
        raise ProtocolError(f"the message holds no arrays '{key}'; {_DIFFERENT_VERSION}")
    return record


def _about(content: RecordDict) -> dict[str, Any]:
    record = content.get(_ABOUT)
    if not isinstance(record, ConfigRecord):
        raise ProtocolError(f"the message holds no '{_ABOUT}'; {_DIFFERENT_VERSION}")
    return dict(record)


def _small(ids: IntArray) -> FloatArray:
    """Return item ids in 4 bytes where they fit."""
    return ids.astype(np.int32) if len(ids) == 0 or ids.max() < 2**31 else ids

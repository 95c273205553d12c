"""Encode and decode what server and nodes send each other; only declared names may pass.

What is run, then requests and the shared parameters go down; a sum of updates, every update or
metric values come up. A message holds one value: its arrays stand in an array record under their
place in the value, such as ``Trained:aggregates:0:sums:item``, and all else is JSON, read by the
types that are declared. Updates of single clients travel as their payloads
(`fedrec.aggregation.codec`), all in one array, and are decoded to plain values. A parameter that
the experiment does not declare as shared cannot be encoded, so a private one cannot leave its
client by mistake.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from io import BytesIO
from typing import Any, TypeAlias, TypeVar, cast

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict
from pydantic_core import from_json

from fedrec.aggregation import codec
from fedrec.aggregation.mix import WEIGHTS, packed, unpacked
from fedrec.aggregation.update import Aggregate, Down, UpdateBatch
from fedrec.errors import ProtocolError
from fedrec.evaluation.evaluate import Evaluation
from fedrec.flower.decoding import decoded
from fedrec.types import FailedClient, FloatArray, IntArray, Params

TRAIN = "train"
EVALUATE = "evaluate"
ENROL = "query.enrol"
FINISH = "query.finish"
ROLL_CALL = "query.roll_call"
CHECKSUMS = 2**64
"""Checksums of private state are counted modulo this."""
Ticket: TypeAlias = tuple[int, int]
"""A training request to a node: its round, and which attempt of the round it is, from 1."""
PARAMS = "params"
"""Where the shared parameters stand in a message, as from `encode_params`."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class RoundRequest:
    """What the server tells a node with every message.

    Args:
        run: name of the run.
        start: which start of the run it is: a run that is continued has another.
        round: the round.
        attempt: which request of the round it is, to this node.
        applied: the training requests whose updates the server has applied, and of which the node
            has not yet shown that it knows; at least the last one.
        pending: the training requests to this node that may still be answered.
        best: the best round so far, by validation.
        clients: int64, the clients that are meant.
        groups: int64, the group of each in the strategy; the updates of each group are summed.
        end: whether clients train the phases of the end before they rank; the round is the best.
    """

    run: str
    start: str
    round: int = 0
    attempt: int = 1
    applied: tuple[Ticket, ...] = ()
    pending: tuple[Ticket, ...] = ()
    best: int = 0
    clients: IntArray = field(default_factory=lambda: np.zeros(0, np.int64), compare=False)
    groups: IntArray = field(default_factory=lambda: np.zeros(0, np.int64), compare=False)
    end: bool = False

    @property
    def ticket(self) -> Ticket:
        """Round and attempt, under which the node keeps what the request changes."""
        return self.round, self.attempt

    @property
    def id(self) -> str:
        """A text that no other request to the node has; the reply repeats it."""
        return f"{self.start}/{self.round}/{self.attempt}{'/end' * self.end}"


@dataclass(frozen=True, slots=True)
class RunDescription:
    """What the server tells each node once, when it calls the roll.

    It does not say where data, features or state lie: each node knows that of its own machine.

    Args:
        run: name of the run, under which the node keeps private state.
        start: which start of the run it is.
        experiment: what is run, as JSON.
        begun: whether the server has completed a round.
        number: of the node, where it does not know that itself: on a device.
        nodes: how many devices there are.
        first_client: on a device, the number of its first client; the others follow.
        n_clients: of the run, on all devices.
    """

    run: str
    start: str
    experiment: str
    begun: bool = False
    number: int = 0
    nodes: int = 1
    first_client: int = 0
    n_clients: int = 0


@dataclass(frozen=True, slots=True)
class PrivateState:
    """What a node holds of the private state of its clients.

    Args:
        applied: the requests whose values are the committed ones, of those that the server named
            last.
        checksum: of the committed values.
        staged: the requests whose values are not committed, and what each changes the checksum by.
    """

    applied: tuple[Ticket, ...]
    checksum: int
    staged: tuple[tuple[Ticket, int], ...] = ()

    def checksum_with(self, applied: Iterable[Ticket]) -> int | None:
        """Return the checksum once some requests are applied; None if values of one are missing.

        Args:
            applied: the requests; those that are committed already count once.
        """
        staged, checksum = dict(self.staged), self.checksum
        for ticket in {*applied} - {*self.applied}:
            if ticket not in staged:
                return None
            checksum += staged[ticket]
        return checksum % CHECKSUMS


@dataclass(frozen=True, slots=True)
class Enrolment:
    """What a device replies when the server asks whether it takes part in a run.

    Args:
        clients: how many clients it hosts.
        code: hash of the source code it runs.
        catalogue: hash of the items that it knows, with their features.
    """

    clients: int
    code: str
    catalogue: str


@dataclass(frozen=True, slots=True)
class RollCall:
    """What a node replies when the server asks which clients it hosts.

    Args:
        clients: int64, the clients it hosts, sorted.
        code: hash of the source code it runs.
        partitions: number of nodes of the run.
        partition: number of the node.
        state: the private state of the clients; None where they have none.
        catalogue: hash of the items that it knows, with their features.
        weights: hash of the weights of its model that stay frozen.
        examples: int64, the train items of each client, if the selection needs them.
    """

    clients: IntArray
    code: str
    partitions: int
    partition: int = 0
    state: PrivateState | None = None
    catalogue: str = ""
    weights: str = ""
    examples: IntArray = field(default_factory=lambda: np.zeros(0, np.int64))


@dataclass(frozen=True, slots=True)
class Trained:
    """What a node replies to a training request.

    Args:
        aggregates: per group of the strategy, the reduced updates of the clients that succeeded.
        attackers: the updates of attackers, which are not reduced yet; None: there are none.
        failures: the clients that failed.
        uploaded: bytes that the clients send, see `fedrec.aggregation.codec.payload_bytes`.
        seconds: how long the node worked.
        state_change: what the checksum of the clients' private state changes by.
        notes: what the user should know, a line each.
        clients: int64 [c], the clients that succeeded, if the selection needs their losses.
        losses: float64 [c], the mean training loss of each of them.
        request: the id of the request.
    """

    aggregates: Mapping[int, Aggregate]
    failures: tuple[FailedClient, ...] = ()
    uploaded: int = 0
    seconds: float = field(default=0.0, compare=False)
    state_change: int = 0
    notes: tuple[str, ...] = field(default=(), compare=False)
    attackers: UpdateBatch | None = None
    clients: IntArray = field(default_factory=lambda: np.zeros(0, np.int64))
    losses: FloatArray = field(default_factory=lambda: np.zeros(0))
    request: str = ""


@dataclass(frozen=True, slots=True)
class Evaluated:
    """What a node replies to an evaluation request.

    Args:
        request: the id of the request.
        evaluation: what its users measured.
    """

    request: str
    evaluation: Evaluation


_ARRAYS, _REST = "arrays", "rest"
_STYPE = "numpy.ndarray"


def encode(value: Any, allowed: Iterable[str] = ()) -> RecordDict:
    """Encode a value of one of the classes above.

    The values of `fedrec.flower.sum_records` are encoded in the same way.

    Args:
        value: What to send.
        allowed: The names of parameters that may travel, see
            `fedrec.training.task.ClientTask.travels`.

    Raises:
        ProtocolError: If an aggregate holds another parameter.
    """
    arrays: dict[str, FloatArray] = {}
    name = type(value).__name__
    rest = json.dumps([name, _take_apart(value, name, arrays, set(allowed))])
    return RecordDict({_ARRAYS: _record(arrays), _REST: ConfigRecord({"json": rest})})


def decode(
    content: RecordDict, kind: type[T], shapes: Mapping[str, tuple[int, ...]] | None = None
) -> T:
    """Invert `encode`.

    Args:
        content: Of a message.
        kind: What it must hold.
        shapes: Of the parameters of which it may hold updates of single clients, see
            `fedrec.aggregation.codec.decode`; None: any.

    Raises:
        ProtocolError: If it holds something else.
    """
    try:
        # Flower's own `array_records` makes a circle of references, in which the arrays stay
        # until the garbage collector comes by.
        arrays: Any = content[_ARRAYS]
        rest: Any = content[_REST]
        name, tree = from_json(rest["json"])
        tree = tree if name == kind.__name__ else None
        value = decoded(kind, tree, lambda n: _read(arrays[n]), shapes)
    except ProtocolError:
        raise
    # What is damaged can make the readers of JSON and of arrays raise anything.
    except Exception as error:
        raise ProtocolError(
            f"the message holds no {kind.__name__} of fedrec; start rounds with fedrec's own "
            "server app, and install the same version of fedrec on server and nodes"
        ) from error
    return cast(T, value)


class Broadcast:
    """What the server sends to clients, encoded once for all nodes.

    Args:
        down: What the clients receive, and of whom.
        allowed: As for `encode`.

    Raises:
        ProtocolError: If another name is among them.
    """

    def __init__(self, down: Down, allowed: Iterable[str]) -> None:
        _check([*down.shared, *down.own], set(allowed))
        self._down = down
        weights = [name for name in packed(down) if name.endswith(WEIGHTS)]
        self._shared = _record({n: v for n, v in packed(down).items() if n not in weights})

    def record(self, clients: IntArray) -> ArrayRecord:
        """Return the record for some of the clients: int64 [c], their places among them."""
        if not self._down.own:
            return self._shared
        weights = packed(Down({}, self._down.take(clients).own))
        of_clients = _record({n: v for n, v in weights.items() if n.endswith(WEIGHTS)})
        return ArrayRecord({**dict(self._shared.items()), **dict(of_clients.items())})


def encode_params(params: Params, allowed: Iterable[str]) -> ArrayRecord:
    """Encode shared parameters that all clients receive.

    Args:
        params: Named arrays.
        allowed: As for `encode`.

    Raises:
        ProtocolError: If another name is among them.
    """
    return Broadcast(Down(params), allowed).record(np.zeros(0, np.int64))


def decode_down(content: RecordDict) -> Down:
    """Return what the clients of a message receive.

    Raises:
        ProtocolError: If there is nothing.
    """
    record = content.get(PARAMS)
    try:
        arrays: Any = record if isinstance(record, ArrayRecord) else None
        return unpacked({str(name): _read(array) for name, array in arrays.items()})
    except Exception as error:  # as in `decode`
        raise ProtocolError("the message holds no shared parameters") from error


def byte_count(message: Message) -> int:
    """Count the bytes of the arrays and settings that a message carries, without its headers."""
    if message.has_error():
        return 0
    return sum(record.count_bytes() for record in message.content.values())


def _take_apart(value: Any, place: str, arrays: dict[str, FloatArray], allowed: set[str]) -> Any:
    """Return a value as JSON, and add its arrays to ``arrays``: int64 as int32 where it fits."""
    if isinstance(value, np.ndarray):
        arrays[place] = value
        if value.dtype == np.int64 and np.array_equal(short := value.astype(np.int32), value):
            arrays[place] = short
        return place
    if isinstance(value, Aggregate):
        _check([*value.sums, *value.ids, *value.row_weight], allowed)
    if isinstance(value, UpdateBatch):
        _check([*value.tables, *value.dense, *value.coded], allowed)
        value = codec.encode(value)
    if is_dataclass(value):
        names = [each.name for each in fields(value)]
        return {n: _take_apart(getattr(value, n), f"{place}:{n}", arrays, allowed) for n in names}
    if isinstance(value, Mapping):
        pairs = value.items()
        return [[k, _take_apart(v, f"{place}:{k}", arrays, allowed)] for k, v in pairs]
    if isinstance(value, tuple):
        return [_take_apart(v, f"{place}:{k}", arrays, allowed) for k, v in enumerate(value)]
    return value


def _check(names: Iterable[str], allowed: set[str]) -> None:
    if private := sorted(set(names) - allowed):
        raise ProtocolError(
            f"'{private[0]}' may not leave its client: only shared parameters "
            f"travel ({', '.join(sorted(allowed))})"
        )


def _record(values: Mapping[str, FloatArray]) -> ArrayRecord:
    return ArrayRecord({name: _array(np.asarray(v, order="C")) for name, v in values.items()})


def _array(value: FloatArray) -> Array:
    """Return an array as Flower encodes it, copied once: Flower itself copies three times."""
    header = BytesIO()
    np.lib.format.write_array_header_1_0(header, np.lib.format.header_data_from_array_1_0(value))
    data = b"".join([header.getvalue(), value.reshape(-1).view(np.uint8).data])
    return Array(str(value.dtype), value.shape, _STYPE, data)


def _read(array: Array) -> FloatArray:
    """Return an array that `_array` made; memory is taken only for bytes that are there.

    Raises:
        ValueError: If it is something else.
    """
    data = BytesIO(array.data)
    version = np.lib.format.read_magic(data)
    if version != (1, 0) or array.stype != _STYPE:
        raise ValueError(f"an array of the form {array.stype} {version}")
    shape, by_column, dtype = np.lib.format.read_array_header_1_0(data)
    if by_column or dtype.kind not in "biuf" or min(shape, default=0) < 0:
        raise ValueError(f"an array of {dtype} {shape}")
    # A copy, in the byte order of this machine, that may be written to.
    values = np.frombuffer(array.data, dtype, offset=data.tell())
    return values.reshape(shape).astype(dtype.newbyteorder("="))

"""The decoders of every kind of message, and messages as files."""

from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from types import ModuleType, SimpleNamespace, UnionType
from typing import Any, ClassVar, Literal, Union, get_args, get_origin, get_type_hints

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict

from clients.node import Node
from fedrec.aggregation import mix
from fedrec.aggregation.mix import clients_alike, rows_of
from fedrec.aggregation.update import Down, Mix
from fedrec.flower import decoding, records
from fedrec.flower.records import Enrolment, Evaluated, RollCall, RoundRequest, RunDescription
from fedrec.flower.sum_records import by_group
from fedrec.testing.trial import as_bytes
from tests.fuzz.files import Files
from tests.fuzz.targets.base import Target

_ARRAYS, _CONFIG = "ArrayRecord", "ConfigRecord"
_HOST: Any = SimpleNamespace(shard=SimpleNamespace(client_ids=np.arange(3)))
"""A node, of which nothing but its clients is looked at."""


def files_of(content: RecordDict) -> dict[str, bytes]:
    """Return the content of a message as files: ``TYPE/RECORD/KEY``, and ``TYPE/RECORD/``."""
    files = {}
    for record, values in content.items():
        files[f"{type(values).__name__}/{record}/"] = b""
        for key, value in values.items():
            named: Any = value
            content_of = named.data if isinstance(named, Array) else str(named).encode()
            files[f"{type(values).__name__}/{record}/{key}"] = content_of
    return files


def message_of(files: Files) -> RecordDict:
    """Invert `files_of`; what no message can hold is left out."""
    records: dict[str, Any] = {}
    for name in sorted(files):
        kind, _, rest = name.partition("/")
        record, _, key = rest.partition("/")
        if kind not in (_ARRAYS, _CONFIG):
            continue
        held = records.setdefault(record, ArrayRecord() if kind == _ARRAYS else ConfigRecord())
        if key and isinstance(held, ArrayRecord):
            held[key] = Array("float32", (), "numpy.ndarray", files[name])
        elif key:
            held[key] = _text(files[name])
    return RecordDict(records)


def _text(content: bytes) -> str | bytes:
    """Return what a setting of a message holds: text, or bytes that are none."""
    try:
        return content.decode()
    except UnicodeDecodeError:
        return content


def example(kind: Any, n: int = 3) -> Any:
    """Return a value of a type that messages have, with ``n`` of what there may be several.

    It reads the declared fields, as `fedrec.flower.decoding.decoded` does, so that a message with
    new fields is fuzzed as it is.
    """
    origin, parts = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        options = [part for part in parts if part is not type(None)]
        return example(options[0], n)
    if origin is np.ndarray:
        (element,) = get_args(parts[-1])
        return np.arange(n).astype(np.float64 if element is Any else element)
    if origin is Mapping:
        keys = [example(parts[0], n)] if parts[0] is not int else list(range(1, n + 1))
        return {key: example(parts[1], n) for key in keys}
    if origin is tuple:
        each = parts[:1] * n if parts[-1] is Ellipsis else parts
        return tuple(example(part, n) for part in each)
    if origin is Literal:
        return parts[0]
    if is_dataclass(kind):
        make: Any = kind
        hints = get_type_hints(kind)
        return make(**{each.name: example(hints[each.name], n) for each in fields(make)})
    return kind(n) if kind is not str else f"text {n}"


class MessageTarget(Target):
    """The decoder of one kind of message."""

    kind: ClassVar[type[Any]]
    decoders: ClassVar[Mapping[ModuleType, Sequence[str]]] = {
        decoding: (),
        records: ("decode",),
    }

    def valid(self) -> Sequence[Files]:
        """Return messages with few and with several of everything."""
        return [files_of(records.encode(example(self.kind, n))) for n in (1, 3)]

    def run(self, files: Files) -> None:
        """Decode a message; what is read can be sent and read again."""
        self.sent_again(records.decode(message_of(files), self.kind))

    def sent_again(self, value: Any, allowed: Sequence[str] = ()) -> None:
        """Check that a value that was read can be sent, and read as the same."""
        sent = records.encode(value, allowed)
        again = records.encode(records.decode(sent, self.kind), allowed)
        assert files_of(again) == files_of(sent), "it is read as another when it is sent again"


class DescriptionTarget(MessageTarget):
    """What the server tells each node once."""

    name, kind = "description", RunDescription


class RollCallTarget(MessageTarget):
    """Which clients a node says it hosts."""

    name, kind = "roll-call", RollCall


class RequestTarget(MessageTarget):
    """What the server asks of a node in a round."""

    name, kind = "request", RoundRequest

    def run(self, files: Files) -> None:
        """Decode a request; what the node does not refuse is about some of its clients."""
        request = records.decode(message_of(files), self.kind)
        self.sent_again(request)
        Node.check(_HOST, request)
        of_groups = [np.zeros(0, np.int64), *by_group(request).values()]
        assert np.array_equal(np.sort(np.concatenate(of_groups)), request.clients)
        assert {*request.clients.tolist()} <= {*range(3)}


class EvaluationTarget(MessageTarget):
    """What nodes measured."""

    name, kind = "evaluation", Evaluated


class EnrolmentTarget(MessageTarget):
    """What a device says of itself."""

    name, kind = "enrolment", Enrolment


class DownTarget(Target):
    """What clients receive, and the values of each of them."""

    name = "down"
    decoders: ClassVar[Mapping[ModuleType, Sequence[str]]] = {mix: (), records: ("decode_down",)}

    def valid(self) -> Sequence[Files]:
        """Return shared parameters alone, and with values of clients' own."""
        shared = {"item": np.ones((9, 4), np.float32), "head": np.ones(2, np.float32)}
        bases = np.linspace(-1, 1, 3 * 9 * 4, dtype=np.float32).reshape(3, 9, 4)
        few, all_bases = np.eye(3, dtype=np.float32), np.full((4, 3), 1 / 3, np.float32)
        downs = [Down(shared), Down(shared, {"user": Mix(bases, few)})]
        downs.append(Down({}, {"item": Mix(bases, all_bases), "head": Mix(bases[:, 0], all_bases)}))
        many = Mix(np.ones((12, 9, 4), np.float32), np.eye(4, 12, dtype=np.float32))
        downs.append(Down({}, {"item": many}))
        allowed = ["item", "head", "user"]
        return [
            files_of(RecordDict({records.PARAMS: broadcast.record(np.arange(3))}))
            for broadcast in (records.Broadcast(down, allowed) for down in downs)
        ]

    def run(self, files: Files) -> None:
        """Decode what clients receive; all of them get their values, and it can be sent again."""
        down = records.decode_down(message_of(files))
        n = min((len(each.weights) for each in down.own.values()), default=2)
        clients = np.arange(n)
        received = [*clients_alike(down.take(clients), n)]
        places = np.concatenate([np.zeros(0, np.int64), *(alike for alike, _ in received)])
        assert np.array_equal(np.sort(places), clients), "not every client receives values"
        for each in down.own.values():
            if each.bases.ndim > 1:
                rows_of(each, clients[:1], np.zeros_like(clients[:1]))
        sent = records.Broadcast(down, [*down.shared, *down.own]).record(clients)
        again = records.decode_down(RecordDict({records.PARAMS: sent}))
        assert as_bytes(again) == as_bytes(down.take(clients)), "it is sent as another"

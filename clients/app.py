"""The ClientApp: what a node does with a message. Decode, call, encode; no arithmetic."""

import logging
from collections.abc import Callable
from typing import Any

from flwr.app import Context, Error, Message
from flwr.clientapp import ClientApp
from flwr.clientapp.typing import ClientAppCallable

from clients.node import Node
from clients.open_node import enrol, keep_description, open_node
from clients.place import NodePlace
from clients.secure_sum import SumMember
from fedrec.config.sources import code_with_sources
from fedrec.errors import (
    ConfigError,
    EngineError,
    MissingExtra,
    ProtocolError,
    RunFolderError,
    TooFewClients,
)
from fedrec.flower import records, sum_records
from fedrec.flower.processes import code_hash

LOG = logging.getLogger("fedrec")
PUBLIC = (
    ConfigError,
    EngineError,
    MissingExtra,
    ProtocolError,
    RunFolderError,
    TooFewClients,
)
"""Errors that tell of settings and files, and never of what is in a user's data."""

_NO_PART = 1
"""Code of the error of a node that can take no part in a secure sum."""


def keep_reasons(message: Message, context: Context, call: ClientAppCallable) -> Message:
    """On a device, let only such errors reach the server as tell nothing of the users.

    What else goes wrong may name a user or an item. It stands in the device's log.
    """
    try:
        return call(message, context)
    except Exception as error:
        if isinstance(error, PUBLIC) or not context.node_config.get("own-file"):
            raise
        LOG.error(f"{type(error).__name__}: {' '.join(str(error).split())}")
        raise EngineError(
            f"the device failed ({type(error).__name__}); its own log says why"
        ) from None


app = ClientApp(mods=[keep_reasons])


@app.query("enrol")
def enrol_device(message: Message, context: Context) -> Message:
    """Say how many clients this device has, and what it knows of the run."""
    description = records.decode(message.content, records.RunDescription)
    place = NodePlace.of(context.node_config).of_run(description.run)
    keep_description(description, place)
    experiment, source, n_clients = enrol(description, place)
    code = code_with_sources(code_hash(), experiment)
    answer = records.Enrolment(n_clients, code, source.catalogue().hash)
    return Message(records.encode(answer), reply_to=message)


@app.query("roll_call")
def roll_call(message: Message, context: Context) -> Message:
    """Say which clients this node hosts, and which code it runs."""
    description = records.decode(message.content, records.RunDescription)
    place = NodePlace.of(context.node_config).of_run(description.run)
    keep_description(description, place)
    node = open_node(description.start, place)
    is_device = place.own_file is not None
    answer = records.RollCall(
        node.shard.client_ids,
        code_with_sources(code_hash(), node.experiment),
        description.nodes if is_device else place.partitions,
        description.number if is_device else place.partition,
        node.state(description.begun),
        node.task.catalogue.hash,
        node.task.weights,
        node.examples(),
    )
    return Message(records.encode(answer), reply_to=message)


@app.train()
def train(message: Message, context: Context) -> Message:
    """Train the clients that are meant, and answer with the sum of their updates."""
    request = records.decode(message.content, records.RoundRequest)
    node = _opened(request, context)
    trained = node.train(request, records.decode_down(message.content))
    return Message(records.encode(trained, node.task.travels()), reply_to=message)


@app.train(sum_records.KEYS)
def keys(message: Message, context: Context) -> Message:
    """Answer with public keys of the clients that are meant."""
    asked = records.decode(message.content, sum_records.KeyRequest)
    _opened(asked.request, context)
    return _answered(message, lambda: SumMember(context.state).keys(asked))


@app.train(sum_records.SHARES)
def shares(message: Message, context: Context) -> Message:
    """Answer with shares of the secrets of the clients, sealed for their neighbours."""
    asked = records.decode(message.content, sum_records.ShareRequest)
    _opened(asked.request, context)
    return _answered(message, lambda: SumMember(context.state).shares(asked))


@app.train(sum_records.MASKED)
def masked(message: Message, context: Context) -> Message:
    """Train the clients that are meant, and answer with the masked sum of their updates."""
    asked = records.decode(message.content, sum_records.MaskRequest)
    node, down = _opened(asked.request, context), records.decode_down(message.content)
    return _answered(message, lambda: SumMember(context.state).masked(asked, down, node))


@app.train(sum_records.REVEAL)
def reveal(message: Message, context: Context) -> Message:
    """Answer with the shares that the server needs to remove the masks from the sum."""
    asked = records.decode(message.content, sum_records.RevealRequest)
    _opened(asked.request, context)
    return _answered(message, lambda: SumMember(context.state).reveal(asked))


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Let the users rank, at the end after a last training, and answer with metric values."""
    request = records.decode(message.content, records.RoundRequest)
    node = _opened(request, context)
    rank = node.end if request.end else node.evaluate
    evaluation = rank(request, records.decode_down(message.content))
    evaluated = records.Evaluated(request.id, evaluation)
    return Message(records.encode(evaluated), reply_to=message)


@app.query("finish")
def finish(message: Message, context: Context) -> Message:
    """Keep what the best round has left, once a run is at its end."""
    request = records.decode(message.content, records.RoundRequest)
    _opened(request, context).finish(request)
    return Message(records.encode(request), reply_to=message)


def _opened(request: records.RoundRequest, context: Context) -> Node:
    """Return the node, after it has checked that the request is about its clients."""
    place = NodePlace.of(context.node_config).of_run(request.run)
    node = open_node(request.start, place)
    node.check(request)
    return node


def _answered(message: Message, answer: Callable[[], Any]) -> Message:
    """Return the reply of a member of a secure sum; an error if it can take no part.

    An error reply, as the other nodes go on without this one; also on fedrec's own engines.
    """
    try:
        return Message(records.encode(answer()), reply_to=message)
    except (ProtocolError, TooFewClients) as error:
        return Message(Error(_NO_PART, str(error)), reply_to=message)

"""Which node hosts which clients. Node ids go no further than this file."""

import time
from collections.abc import Iterable, Mapping
from typing import TypeAlias

import numpy as np
from flwr.app import Message
from flwr.serverapp import Grid

from fedrec.errors import EngineError
from fedrec.flower import records
from fedrec.types import IntArray
from server.replies import read_roll_call

# What each node of a run, by its id, has answered; in the order of the clients they host.
Roster: TypeAlias = Mapping[int, records.RollCall]


def deal(roster: Roster, cohort: IntArray) -> list[tuple[int, IntArray]]:
    """Cut a cohort to the nodes that host it.

    Args:
        roster: The nodes.
        cohort: int64, sorted client ids.

    Returns:
        (node id, its clients of the cohort), nodes without any left out.
    """
    hosted = [(node, answer.clients) for node, answer in roster.items()]
    dealt = [(node, np.intersect1d(ids, cohort, assume_unique=True)) for node, ids in hosted]
    return [(node, clients) for node, clients in dealt if len(clients)]


def call_roll(
    grid: Grid,
    description: records.RunDescription,
    n_clients: int,
    code: str,
    catalogue: str,
    weights: str = "",
    patience: float = 60.0,
    devices: Mapping[int, records.RunDescription] | None = None,
) -> Roster:
    """Ask every node once which clients it hosts.

    Each node says how many nodes there are in all, so those still on their way are waited for.

    Args:
        grid: The nodes.
        description: What each node is told of the run.
        n_clients: Of the run.
        code: Hash of the code that every node must run.
        catalogue: Hash of the items that every node must know, with their features.
        weights: Hash of the frozen weights that every node's model must have.
        patience: Seconds to wait.
        devices: By node id, what each is told in place of ``description``; no others are asked.
            Without any, all nodes are.

    Raises:
        EngineError: If nodes are missing, run other code than the server, know other items or
            weights, or do not host every client exactly once.
    """
    expected = len(devices or ()) or 1
    answers: dict[int, records.RollCall] = {}
    deadline = time.monotonic() + patience
    while len(answers) < expected:
        here = set(grid.get_node_ids())
        asked = sorted((here & set(devices) if devices else here) - set(answers))
        told = {node: (devices or {}).get(node, description) for node in asked}
        calls = [Message(records.encode(told[n]), n, records.ROLL_CALL) for n in asked]
        for reply in exchange(grid, calls, "roll call") if calls else []:
            node, answer = reply.metadata.src_node_id, read_roll_call(reply)
            by_partition = {other.partition: n for n, other in answers.items()}
            if answer.partition in by_partition:
                raise EngineError(
                    f"nodes {by_partition[answer.partition]} and {node} both are number "
                    f"{answer.partition}; give each a partition-id of its own"
                )
            answers[node] = answer
            expected = max(expected, answer.partitions)
            if answer.code != code:
                raise EngineError(
                    f"node {node} runs other code than the server ({answer.code[:8]} and "
                    f"{code[:8]}); install the same version of fedrec and put the same files of "
                    "own plug-ins on both"
                )
            if answer.catalogue != catalogue:
                raise EngineError(
                    f"node {node} has the features of another catalogue than the server "
                    f"({answer.catalogue[:8]} and {catalogue[:8]}); give both the same file of "
                    "items and features"
                )
            if answer.weights != weights:
                raise EngineError(
                    f"node {node} has a model with other frozen weights than the server "
                    f"({answer.weights[:8]} and {weights[:8]}); give both the same files"
                )
        if not calls:
            if time.monotonic() > deadline:
                raise EngineError(
                    f"{len(answers)} of {expected} nodes came within {patience:.0f} s"
                )
            time.sleep(0.05)
    hosted = np.concatenate([answer.clients for answer in answers.values()])
    if not np.array_equal(np.sort(hosted), np.arange(n_clients)):
        raise EngineError(
            f"the nodes host {len(hosted)} clients, {len(np.unique(hosted))} of them different, "
            f"but the run has {n_clients}; each must be hosted exactly once"
        )

    def place(node: int) -> tuple[int, int]:
        return next(iter(answers[node].clients.tolist()), n_clients), node

    return {node: answers[node] for node in sorted(answers, key=place)}


def exchange(grid: Grid, messages: Iterable[Message], what: str) -> list[Message]:
    """Send messages to nodes and return all replies, sorted by node id.

    Raises:
        EngineError: If a node answers with an error, or not at all.
    """
    sent = list(messages)
    replies = list(grid.send_and_receive(sent))
    for reply in replies:
        if reply.has_error():
            node = reply.metadata.src_node_id
            raise EngineError(f"{what}: node {node} failed: {reply.error.reason}")
    if len(replies) < len(sent):
        raise EngineError(f"{what}: {len(sent) - len(replies)} of {len(sent)} nodes are silent")
    return sorted(replies, key=lambda reply: reply.metadata.src_node_id)

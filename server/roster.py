"""Which node hosts which clients. Node ids go no further than this file."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from flwr.app import Message
from flwr.serverapp import Grid

from fedrec.errors import EngineError
from fedrec.flower import records
from fedrec.flower.siblings import code_hash
from fedrec.types import IntArray

__all__ = ["Roster", "call_roll", "exchange"]


@dataclass(frozen=True, slots=True)
class Roster:
    """The nodes of a run, in the order of the clients they host.

    Args:
        node_ids: one per node.
        hosted: per node, int64, the clients it hosts, sorted.
    """

    node_ids: tuple[int, ...]
    hosted: tuple[IntArray, ...]

    def deal(self, cohort: IntArray) -> list[tuple[int, IntArray]]:
        """Cut a cohort to the nodes that host it.

        Args:
            cohort: int64, sorted client ids.

        Returns:
            (node id, its clients of the cohort), nodes without any left out.
        """
        parts = [
            (node, np.intersect1d(hosted, cohort, assume_unique=True))
            for node, hosted in zip(self.node_ids, self.hosted, strict=True)
        ]
        return [(node, clients) for node, clients in parts if len(clients)]


def call_roll(
    grid: Grid, order: records.RoundRequest, n_clients: int, patience: float = 60.0
) -> Roster:
    """Ask every node once which clients it hosts.

    Each node says how many nodes there are in all, so those still on their way are waited for.

    Args:
        grid: The nodes.
        order: Names the run.
        n_clients: All clients of the run; each must be hosted exactly once.
        patience: Seconds to wait.

    Raises:
        EngineError: If nodes are missing, run other code than the server, or do not host every
            client exactly once.
    """
    here, wanted = code_hash(), 1
    answers: dict[int, records.RollCall] = {}
    deadline = time.monotonic() + patience
    while len(answers) < wanted:
        asked = sorted(set(grid.get_node_ids()) - set(answers))
        calls = [Message(records.encode_request(order), node, records.ROLL_CALL) for node in asked]
        for reply in exchange(grid, calls, "roll call") if calls else []:
            answer = records.decode_roll_call(reply.content)
            answers[reply.metadata.src_node_id] = answer
            wanted = max(wanted, answer.partitions)
            if answer.code != here:
                raise EngineError(
                    f"node {reply.metadata.src_node_id} runs other code of fedrec than the server "
                    f"({answer.code[:8]} and {here[:8]}); install the same version on both"
                )
        if not calls:
            if time.monotonic() > deadline:
                raise EngineError(f"{len(answers)} of {wanted} nodes came within {patience:.0f} s")
            time.sleep(0.05)
    found = [(answer.clients, node) for node, answer in answers.items()]
    found.sort(
        key=lambda pair: (len(pair[0]) == 0, int(pair[0][0]) if len(pair[0]) else 0, pair[1])
    )
    every = np.concatenate([clients for clients, _ in found])
    if not np.array_equal(np.sort(every), np.arange(n_clients)):
        raise EngineError(
            f"the nodes host {len(every)} clients, {len(np.unique(every))} of them different, but "
            f"the run has {n_clients}; each must be hosted exactly once"
        )
    return Roster(tuple(node for _, node in found), tuple(clients for clients, _ in found))


def exchange(grid: Grid, messages: Iterable[Message], what: str) -> list[Message]:
    """Send one message to each of some nodes and wait for all replies.

    Args:
        grid: The nodes.
        messages: At most one per node.
        what: Name of the exchange, for errors.

    Returns:
        The replies, sorted by node id.

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

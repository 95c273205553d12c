"""Which node hosts which clients. Node ids go no further than this file."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
from flwr.app import Message
from flwr.serverapp import Grid

from fedrec.errors import EngineError, RunFolderError
from fedrec.flower import records
from fedrec.types import IntArray

__all__ = ["Roster", "call_roll", "check_states", "exchange"]


@dataclass(frozen=True, slots=True)
class Roster:
    """The nodes of a run, in the order of the clients they host.

    Args:
        node_ids: one per node.
        hosted: per node, int64, the clients it hosts, sorted.
        numbers: per node, the number that names its folder of private state.
        states: per number, the last round that changed the private state of the node's clients,
            and its checksum; nodes whose clients have none are left out.
    """

    node_ids: tuple[int, ...]
    hosted: tuple[IntArray, ...]
    numbers: tuple[int, ...] = ()
    states: Mapping[str, tuple[int, int]] = field(default_factory=dict)

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
    grid: Grid, request: records.RoundRequest, n_clients: int, code: str, patience: float = 60.0
) -> Roster:
    """Ask every node once which clients it hosts.

    Each node says how many nodes there are in all, so those still on their way are waited for.

    Args:
        grid: The nodes.
        request: Names the run.
        n_clients: All clients of the run; each must be hosted exactly once.
        code: Hash of the code that every node must run.
        patience: Seconds to wait.

    Raises:
        EngineError: If nodes are missing, run other code than the server, or do not host every
            client exactly once.
    """
    wanted = 1
    answers: dict[int, records.RollCall] = {}
    deadline = time.monotonic() + patience
    while len(answers) < wanted:
        asked = sorted(set(grid.get_node_ids()) - set(answers))
        calls = [
            Message(records.encode_request(request), node, records.ROLL_CALL) for node in asked
        ]
        for reply in exchange(grid, calls, "roll call") if calls else []:
            answer = records.decode_roll_call(reply.content)
            answers[reply.metadata.src_node_id] = answer
            wanted = max(wanted, answer.partitions)
            if answer.code != code:
                raise EngineError(
                    f"node {reply.metadata.src_node_id} runs other code than the server "
                    f"({answer.code[:8]} and {code[:8]}); install the same version of fedrec and "
                    "put the same files of own plug-ins on both"
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
    nodes = [node for _, node in found]
    return Roster(
        tuple(nodes),
        tuple(clients for clients, _ in found),
        tuple(answers[node].partition for node in nodes),
        {str(a.partition): a.state for a in answers.values() if a.state is not None},
    )


def check_states(out: str, roster: Roster, expected: Mapping[str, tuple[int, int]]) -> None:
    """Make sure that the private state of every node's clients is what the checkpoint expects.

    Args:
        out: The run folder.
        roster: The nodes with their states.
        expected: As `Roster.states`.

    Raises:
        RunFolderError: Names the node and the round of its state.
    """
    for number, (round, checksum) in expected.items():
        there = roster.states.get(number)
        if there == (round, checksum):
            continue
        folder = f"{out}/state/node-{int(number):03d}"
        if there is None:
            what = "the private state of this node's clients is missing"
        elif there[0] != round:
            what = f"the private state is of round {there[0]}, the checkpoint needs round {round}"
        else:
            what = f"the private state of round {round} is not the one of this run"
        raise RunFolderError(
            f"{folder}: {what}; put back the whole run folder from one copy, or run again with "
            "--overwrite"
        )


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

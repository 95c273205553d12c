"""What the server knows of the private state of nodes: what was applied, and a checksum."""

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

from fedrec.errors import RunFolderError
from fedrec.flower.records import CHECKSUMS, Ticket
from server.plans.base import Replies, Reply
from server.roster import Roster

Stored: TypeAlias = Mapping[str, tuple[tuple[Ticket, ...], int]]
"""By number of a node, as text: the requests that were applied last, and the checksum then."""


@dataclass(frozen=True, slots=True)
class NodeState:
    """The private state of a node's clients.

    Args:
        applied: The requests that were applied last, as in `RoundRequest.applied`.
        checksum: Of the state with these.
    """

    applied: tuple[Ticket, ...]
    checksum: int


class NodeStates:
    """Follows the private state of nodes from request to request.

    Args:
        roster: The nodes; those whose clients have no private state are not followed.
        stored: What a checkpoint holds; None: the run begins.
    """

    def __init__(self, roster: Roster, stored: Stored | None = None) -> None:
        self._attempts: Counter[tuple[int, int]] = Counter()
        self._before: Counter[tuple[int, int]] = Counter()
        self._states: dict[int, NodeState] = {}
        for answer in roster.values():
            if answer.state is not None:
                state = answer.state.applied, answer.state.checksum
                state = state if stored is None else stored[str(answer.partition)]
                self._states[answer.partition] = NodeState(*state)
                # What a start before this one staged and did not apply is never asked for again.
                for round, attempt in (ticket for ticket, _ in answer.state.staged):
                    key = answer.partition, round
                    self._before[key] = max(self._before[key], attempt)

    def stored(self) -> Stored:
        """Return what a checkpoint holds."""
        return {str(n): (state.applied, state.checksum) for n, state in self._states.items()}

    def applied(self, number: int) -> tuple[Ticket, ...]:
        """Return what a request to a node names as applied."""
        return self._states[number].applied if number in self._states else ()

    def pending(self, number: int, round: int) -> tuple[Ticket, ...]:
        """Return the earlier requests of the round to a node, which may still be applied."""
        first = self._before[number, round]
        return tuple((round, first + k + 1) for k in range(self._attempts[number, round]))

    def next_attempt(self, number: int, round: int) -> int:
        """Return which request of a round the next one to a node is, from 1.

        Those of earlier starts count, if the node has staged what one of them changes.
        """
        self._attempts = Counter({key: n for key, n in self._attempts.items() if key[1] == round})
        self._attempts[number, round] += 1
        return self._before[number, round] + self._attempts[number, round]

    def apply(self, replies: Replies) -> None:
        """Note that the server applies what nodes replied in a round.

        The requests said what was applied before, and by their replies the nodes know.
        """
        fresh = defaultdict[int, list[Reply]](list)
        for reply in replies.usable:
            if reply.succeeded:
                fresh[reply.number].append(reply)
        for number in fresh.keys() & self._states.keys():
            change = sum(reply.trained.state_change for reply in fresh[number])
            checksum = (self._states[number].checksum + change) % CHECKSUMS
            tickets = tuple(reply.request.ticket for reply in fresh[number])
            self._states[number] = NodeState(tickets, checksum)


def check_states(out: str, roster: Roster, stored: Stored) -> None:
    """Make sure that the private state of every node's clients is what the checkpoint expects.

    Args:
        out: The run folder.
        roster: The nodes with their states.
        stored: Of the checkpoint.

    Raises:
        RunFolderError: Names the node and the round of its state.
    """
    states = {str(answer.partition): answer.state for answer in roster.values()}
    for number, (applied, checksum) in stored.items():
        round, state = max(applied, default=(0, 0))[0], states.get(number)
        if state is not None and state.checksum_with(applied) == checksum:
            continue
        fault = f"the private state of round {round} is not the one of this run"
        if state is None:
            fault = "the private state of this node's clients is missing"
        elif state.checksum_with(applied) is None or {*state.applied} - {*applied}:
            last = max((*state.applied, *(ticket for ticket, _ in state.staged)), default=(0, 0))[0]
            fault = f"the private state is of round {last}, the checkpoint needs round {round}"
        raise RunFolderError(
            f"{out}/state/node-{int(number):03d}: {fault}; put back the whole run folder from one "
            "copy, or run again with --overwrite"
        )

"""The clients of each round: what a selection chooses, is told and remembers."""

import logging
from collections.abc import Iterable

import numpy as np

from fedrec.aggregation.returned import checked_choice, checked_state
from fedrec.compute.context import RoundContext
from fedrec.config.experiment import Experiment
from fedrec.errors import ProtocolError
from fedrec.flower.records import Trained
from fedrec.types import IntArray
from server.roster import Roster
from strategies.selections.base import REPORTED, selection_of

LOG = logging.getLogger("fedrec")


class Cohorts:
    """Chooses the clients of each round by ``rounds.selection``.

    Args:
        experiment: What is run.
        roster: Who hosts whom, and what nodes have said.
        context: The run, before its first round.

    Raises:
        ProtocolError: If a node has not said what the selection needs.

    Attributes:
        size: How many clients the experiment asks for in a round.
        state: What the selection remembers; part of the checkpoint.
    """

    def __init__(self, experiment: Experiment, roster: Roster, context: RoundContext) -> None:
        self._selection = selection_of(experiment)
        self.size = experiment.rounds.clients_of(context.n_clients)
        for need in self._selection.needs:
            LOG.info(f"rounds.selection: clients report {REPORTED[need]}")
        examples = np.zeros(0, np.int64)
        if "examples" in self._selection.needs:
            examples = np.zeros(context.n_clients, np.int64)
            for node, answer in roster.items():
                if answer.examples.shape != answer.clients.shape:
                    raise ProtocolError(
                        f"node {node} does not say how many train items its clients have, by which "
                        "rounds.selection chooses; start it anew with the same version of fedrec"
                    )
                examples[answer.clients] = answer.examples
        self.state = checked_state(
            self._selection, "init", self._selection.init(examples, context), context
        )

    def choose(self, size: int, context: RoundContext) -> IntArray:
        """Return the clients of a round, int64, sorted: as many as asked for, if there are."""
        return checked_choice(self._selection, self.state, size, context)

    def learn(self, answers: Iterable[Trained], context: RoundContext) -> None:
        """Let the selection remember the losses of a round, if clients report them."""
        if "loss" not in self._selection.needs:
            return
        replies = list(answers)
        clients = np.concatenate([each.clients for each in replies])
        losses, order = np.concatenate([each.losses for each in replies]), np.argsort(clients)
        state = self._selection.learned(self.state, clients[order], losses[order], context)
        self.state = checked_state(self._selection, "learned", state, context)

"""What a round plan is: it asks clients to train, once or several times, until a round is complete.

A plan is a generator: it yields exchanges, and receives what came back. Whatever it remembers is a
`State`, which the checkpoint holds, so a run that is continued goes on as if it had not stopped.
"""

from abc import abstractmethod
from collections.abc import Callable, Generator, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, Self, TypeAlias

import numpy as np

from fedrec.aggregation.update import Aggregates, Down
from fedrec.compute.context import RoundContext
from fedrec.config.experiment import Experiment
from fedrec.devices.timing import Timing
from fedrec.errors import ConfigError, FedRecError
from fedrec.flower.records import RoundRequest, Trained
from fedrec.plugins import Plugin
from fedrec.runs.log import Virtual
from fedrec.types import IntArray, State
from server.replies import Expected


@dataclass(frozen=True, slots=True)
class Exchange:
    """A request to train, to the nodes of some clients, and how long to wait for the replies.

    Args:
        clients: int64 [c], sorted.
        down: What the clients receive, in their order.
        deadline: Seconds to wait, on nodes that fedrec does not run itself; None: for all.
        enough: As many clients that have answered are enough; None: all.
    """

    clients: IntArray
    down: Down
    deadline: float | None = None
    enough: int | None = None


@dataclass(frozen=True, slots=True)
class Reply:
    """What a node replied to a request.

    Args:
        number: Of the node.
        request: What it was asked.
        trained: What it replied.
    """

    number: int
    request: RoundRequest
    trained: Trained

    @property
    def succeeded(self) -> bool:
        """Whether some of its clients trained, so that there is private state to commit."""
        return len(self.trained.failures) < len(self.request.clients)


@dataclass(frozen=True, slots=True)
class LostNode:
    """A node that did not answer in time, or whose answer is of no use.

    Args:
        number: Of the node.
        clients: int64, the clients that it was asked about.
        error: Why.
    """

    number: int
    clients: IntArray
    error: FedRecError


@dataclass(frozen=True, slots=True)
class Replies:
    """What came back from some exchanges.

    Args:
        usable: Replies that passed all checks.
        lost: The nodes without one.
    """

    usable: tuple[Reply, ...] = ()
    lost: tuple[LostNode, ...] = ()

    @property
    def clients(self) -> IntArray:
        """The clients whose nodes answered, int64, sorted."""
        none = np.zeros(0, np.int64)
        return np.sort(np.concatenate([none, *(reply.request.clients for reply in self.usable)]))

    def joined(self, other: Self) -> Self:
        """Return both."""
        return replace(self, usable=self.usable + other.usable, lost=self.lost + other.lost)


@dataclass(frozen=True, slots=True)
class Question:
    """A request of a kind that a plan itself defines, to the nodes of some clients.

    Args:
        action: Names the kind: messages have the type ``train.ACTION``.
        clients: int64 [c], sorted.
        payload: From the request that a node would get to train to what it is sent in its place.
        reply: The type of the replies; its field ``request`` is the id of the request.
        check: Is called with a reply and the request of its node, and raises a ProtocolError if
            the reply does not fit: then the node is lost.
        down: What the clients receive beside it, in their order; None: nothing.
        deadline: As for an `Exchange`.
    """

    action: str
    clients: IntArray
    payload: Callable[[RoundRequest], Any]
    reply: type[Any]
    check: Callable[[Any, RoundRequest], None]
    down: Down | None = None
    deadline: float | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """What a node replied to a `Question`.

    Args:
        number: Of the node.
        request: What it was asked.
        value: What it replied.
    """

    number: int
    request: RoundRequest
    value: Any


@dataclass(frozen=True, slots=True)
class Answers:
    """What came back from a `Question`.

    Args:
        usable: Replies that passed all checks.
        lost: The nodes without one.
    """

    usable: tuple[Answer, ...]
    lost: tuple[LostNode, ...]


@dataclass(frozen=True, slots=True)
class RoundResult:
    """What a round came to.

    Args:
        state: What the plan remembers from here on.
        replies: What came back; none are a round without change.
        aggregates: What is applied, if it is not the sums of the replies.
        log: What the run log says of the round, by name.
        virtual: What it says of the virtual clock; None: none runs.
        bytes: What clients sent (``up``) and received (``down``) beside `Exchange` and
            `Question.down`.
    """

    state: State
    replies: Replies = Replies()
    aggregates: Aggregates | None = None
    log: dict[str, float] = field(default_factory=dict)
    virtual: Virtual | None = None
    bytes: Mapping[str, int] = field(default_factory=dict)


Steps: TypeAlias = Generator[Exchange | Question, Any, RoundResult]
"""Each `Exchange` is answered by `Replies`, each `Question` by `Answers`."""


class PlanServer(Protocol):
    """What a plan can ask the server for."""

    @property
    def timing(self) -> Timing | None:
        """When replies arrive on the virtual clock; None: none runs."""

    @property
    def in_real_time(self) -> bool:
        """Whether replies come when nodes send them; in a simulation all come at once."""

    def size(self) -> int:
        """Return how many clients the experiment asks for in a round."""

    def choose(self, size: int) -> IntArray:
        """Return the clients of the round as the selection chooses them, int64, sorted."""

    def down(self, clients: IntArray) -> Down:
        """Return what the strategy sends to some clients, int64 [c], sorted."""

    def sums(self, replies: Replies) -> Aggregates:
        """Return the sum of the updates of each group."""

    def merged(self, parts: Iterable[Aggregates]) -> Aggregates:
        """Return sums of updates, each by group, added up; in any order with the same bits."""

    def groups(self, clients: IntArray) -> IntArray:
        """Return the group of each client in the strategy, int64 [c]."""

    def expected(self) -> Expected:
        """Return what clients send in every round."""


class RoundPlan(Plugin):
    """Base of all round plans."""

    @property
    def clients_of_round(self) -> int | None:
        """How many clients take part in a round; None: as many as the section rounds says."""
        return None

    def check(self, run: Any) -> None:
        """Check, before a run begins, that the plan fits; by default it does.

        Args:
            run: The `fedrec.runs.open_run.OpenRun`.

        Raises:
            ConfigError: What does not fit, and the way out.
        """

    @property
    def quorum_of_evaluation(self) -> float:
        """The share of the clients that must answer an evaluation; all by default."""
        return 1.0

    @property
    def deadline_of_evaluation(self) -> float | None:
        """Seconds that nodes that fedrec does not run itself have to evaluate; None: no limit."""
        return None

    def init(self, context: RoundContext) -> State:
        """Return the state before the first round; empty by default.

        Args:
            context: The run, before its first round.
        """
        return State()

    @abstractmethod
    def run(self, state: State, server: PlanServer, context: RoundContext) -> Steps:
        """Yield the exchanges of a round; return what it came to.

        Args:
            state: From `init` or the last round.
            server: Chooses clients, and makes what they are sent.
            context: The round; its cohort is not known yet.

        Raises:
            FedRecError: If too few clients answered.
        """


def plan_of(experiment: Experiment) -> RoundPlan:
    """Return the round plan of an experiment.

    Raises:
        ConfigError: If it is not one of fedrec's kind.
    """
    plan = experiment.rounds.plan
    if not isinstance(plan, RoundPlan):
        raise ConfigError(
            f"rounds.plan: {type(plan).__name__} is not a round plan of fedrec (subclass "
            "server.plans.RoundPlan)"
        )
    return plan

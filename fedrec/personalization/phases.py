"""The phases of a client's local training, and what its private copies are called."""

from dataclasses import dataclass
from typing import Literal, TypeAlias

View: TypeAlias = Literal["mixed", "global", "local"]
"""Which of a client's models: the method's own, the shared one alone, its private one alone."""

COPY = "copy."
"""Before the name of a parameter: its copy, see `Personalization.copies`."""


@dataclass(frozen=True, slots=True)
class Phase:
    """Some local epochs that train some of a client's parameters.

    What it does not train gets no gradient, no weight decay and no term of a strategy. What the
    optimizers remember of shared parameters, and of copies of them, starts at 0 in each phase.

    Args:
        parameters: Names of what is trained; None: all that is trainable.
        views: The models whose losses are summed; the loss of the last is the one that is reported.
        epochs: Local epochs, with negatives and batches of their own; None: ``train.local_epochs``.
        when: In every ``round``, or once at the ``end``: from the shared and private values of the
            round that validation chose. There only what is private is trained, nothing is uploaded,
            and the ranking that follows is the result of the run.
    """

    parameters: tuple[str, ...] | None = None
    views: tuple[View, ...] = ("mixed",)
    epochs: int | None = None
    when: Literal["round", "end"] = "round"

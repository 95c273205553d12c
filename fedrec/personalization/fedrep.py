"""FedRep: a shared body and a head of each client's own, trained in turns."""

from collections.abc import Collection, Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from fedrec.personalization.base import Personalization, Phase
from fedrec.plugins import Count
from fedrec.types import ParamSpec


class FedRep(Personalization):
    """In a round each client trains its head with the body fixed, then the body.

    The head is private and lasts. Dense parameters of it that the model shares become private, and
    begin as the server's would. As no phase trains both, no momentum of one moves the other.

    Args:
        heads: Names of the parameters of the head, or ``auto``: the model's private ones and those
            behind its last hidden layer, where it says which that is (`Model.features`).
        head_epochs: Local epochs of the head; None: ``train.local_epochs``.
        body_epochs: Local epochs of the rest.
        final_epochs: Local epochs of the head at the end, with the body of the chosen round.

    Reference: collins2021exploiting, Algorithm 1. Its code trains 10 epochs of the head and 1 of
    the body, and heads of clients that were not drawn yet follow the averaged ones.
    """

    reference: ClassVar[str] = "collins2021exploiting"

    heads: Literal["auto"] | tuple[str, ...] = "auto"
    head_epochs: Count | None = None
    body_epochs: int = Field(1, ge=1)
    final_epochs: int = Field(0, ge=0)

    def without_effect(self, run: Any) -> list[str]:
        """Say that the model has no head."""
        if len(run.task.phases) > 1:
            return []
        return [f"heads: {self.heads} has no effect: no parameter is private or of the last layer"]

    def private(
        self, specs: Mapping[str, ParamSpec], last_layer: Collection[str]
    ) -> Collection[str]:
        """Return the shared parameters of the head."""
        names = last_layer if self.heads == "auto" else self.heads
        return [n for n in names if n not in specs or specs[n].scope != "private"]

    def phases(self, specs: Mapping[str, ParamSpec], copies: Collection[str]) -> tuple[Phase, ...]:
        """Return the phases of head and body, and of the head at the end, but empty ones."""
        private = (name for name, spec in specs.items() if spec.scope == "private")
        head = tuple(private) if self.heads == "auto" else self.heads
        body = tuple(name for name in specs if name not in head)
        phases = (
            Phase(head, epochs=self.head_epochs),
            Phase(body, epochs=self.body_epochs),
            Phase(head, epochs=self.final_epochs, when="end"),
        )
        return tuple(phase for phase in phases if phase.parameters)

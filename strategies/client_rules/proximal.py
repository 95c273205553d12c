"""FedProx's proximal term (Li et al., 2020)."""

from typing import Any, ClassVar

from pydantic import Field

from fedrec.training.client_rule import ClientRule


class Proximal(ClientRule):
    r"""Clients are held near the values that they received.

    A client minimises :math:`F_u(x) + \tfrac{\mu}{2} \lVert x - x_t \rVert^2` over the shared
    parameters. Rows it does not touch are at :math:`x_t` and stay there, so the term is exact on
    the touched rows. With one step per round it is zero: take ``local_epochs`` or batches.

    Args:
        mu: :math:`\mu`.

    Reference: li2020fedprox, Algorithm 2.
    """

    reference: ClassVar[str] = "li2020fedprox"

    mu: float = Field(0.01, ge=0)

    @property
    def proximal(self) -> float:
        r"""The weight :math:`\mu`."""
        return self.mu

    def without_effect(self, run: Any) -> list[str]:
        """Say that the proximal term is zero, or acts on no step."""
        if self.mu == 0:
            return ["mu: 0 has no effect: clients train plainly; raise it, or take the rule none"]
        if run.task.shared_epochs == 1 and run.experiment.train.one_step(run):
            return [
                f"mu: {self.mu:g} has no effect: clients make one step per round, which starts "
                "where the proximal term is zero; train what is shared for more epochs or lower "
                "train.batch_size"
            ]
        return []

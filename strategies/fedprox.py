"""FedProx (Li et al., 2020): federated averaging with a proximal term on the client."""

from typing import Any, ClassVar

from pydantic import Field

from fedrec.training.client_rule import ClientRule
from strategies.base import Averaging


class FedProx(Averaging):
    r"""The mean of the clients' changes, each held near the round's start.

    A client minimises :math:`F_u(x) + \tfrac{\mu}{2} \lVert x - x_t \rVert^2` over the global
    parameters. Rows it does not touch are at :math:`x_t` and stay there, so the term is exact on
    the touched rows. With one step per round it is zero: take ``local_epochs`` or batches.

    Args:
        mu: :math:`\mu`.
        average: ``per_row``, ``cohort`` or ``sum``; see `strategies.fedavg.FedAvg`.
        weighting: ``uniform``, or ``examples``: by number of train examples.
        server_lr: :math:`\eta`.

    Reference: li2020fedprox, Algorithm 2.
    """

    reference: ClassVar[str] = "li2020fedprox"

    mu: float = Field(0.01, ge=0)

    def without_effect(self, run: Any) -> list[str]:
        """Say that the proximal term is zero, or acts on no step."""
        lines = super().without_effect(run)
        if self.mu == 0:
            return [*lines, "mu: 0 has no effect: this is fedavg; raise it, or take fedavg"]
        if run.task.shared_epochs == 1 and run.experiment.train.one_step(run):
            lines.append(
                f"mu: {self.mu:g} has no effect: clients make one step per round, which starts "
                "where the proximal term is zero; train what is shared for more epochs or lower "
                "train.batch_size"
            )
        return lines

    @property
    def client_rule(self) -> ClientRule:
        """The proximal term."""
        return ClientRule(proximal=self.mu)

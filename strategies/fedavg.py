"""Federated averaging (McMahan et al., 2017), over the rows of item tables."""

from typing import ClassVar

from strategies.base import Averaging


class FedAvg(Averaging):
    r"""The mean of the clients' changes, taken as a step.

    .. math:: x \leftarrow x + \eta \, \frac{\sum_u w_u \Delta_u}{\text{divisor}}

    Args:
        average: ``per_row`` (divide by the weight of the clients that touched the row, so that
            an item that few clients know still moves), ``cohort`` (by the weight of all clients of
            the round, as published) or ``sum`` (do not divide).
        weighting: ``uniform``, or ``examples``: by number of train examples.
        server_lr: :math:`\eta`.

    Reference: mcmahan2017communication, Algorithm 1.
    """

    reference: ClassVar[str] = "mcmahan2017communication"

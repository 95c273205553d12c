"""Which clients take part in a round; one file each."""

from collections.abc import Mapping

from strategies.selections.activity import Activity
from strategies.selections.base import Selection
from strategies.selections.loss import Loss
from strategies.selections.poisson import Poisson
from strategies.selections.uniform import Uniform

__all__ = ["SELECTIONS", "Activity", "Loss", "Poisson", "Selection", "Uniform"]

SELECTIONS: Mapping[str, type[Selection]] = {
    "activity": Activity,
    "loss": Loss,
    "poisson": Poisson,
    "uniform": Uniform,
}

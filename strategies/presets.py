"""Strategies by the names of their papers: parts of `Composed` with the papers' choices."""

from typing import Annotated, ClassVar

from pydantic import Field

from fedrec.config.fields import PluginField
from fedrec.plugins import Defaults
from fedrec.training.client_rule import ClientRule
from strategies.aggregations.base import Aggregation
from strategies.composed import Composed
from strategies.server_optimizers.base import ServerOptimizer

_PROXIMAL = PluginField("client_rules", "proximal")
_SCAFFOLD = PluginField("client_rules", "scaffold")
_DYNAMIC = PluginField("client_rules", "feddyn")
_NORMALISED = PluginField("client_rules", "fednova")
_SUM = PluginField("aggregations", "mean", {"average": "sum"})
_OVER_COHORT = PluginField("aggregations", "mean", {"average": "cohort"})
_MEDIAN = PluginField("aggregations", "median")
_KRUM = PluginField("aggregations", "krum")
_ADAM = PluginField("server_optimizers", "adam")


class FedAvg(Composed):
    """Federated averaging: the mean of the clients' changes is a step.

    Reference: mcmahan2017communication, Algorithm 1.
    """

    reference: ClassVar[str] = "mcmahan2017communication"


class FedAdam(Composed):
    """The sum of the clients' changes is the gradient of Adam on the server.

    Reference: reddi2021adaptive, Algorithm 2.
    """

    reference: ClassVar[str] = "reddi2021adaptive"
    defaults: ClassVar[Defaults] = {}  # Adam rescales what it is given

    aggregation: Annotated[Aggregation, _SUM] = Field(default_factory=_SUM.make)
    server_optimizer: Annotated[ServerOptimizer, _ADAM] = Field(default_factory=_ADAM.make)


class FedDyn(Composed):
    """Federated averaging of clients whose regularisation follows how far they have gone.

    Reference: acar2021feddyn, Algorithm 1.
    """

    reference: ClassVar[str] = "acar2021feddyn"

    client_rule: Annotated[ClientRule, _DYNAMIC] = Field(default_factory=_DYNAMIC.make)
    aggregation: Annotated[Aggregation, _OVER_COHORT] = Field(default_factory=_OVER_COHORT.make)


class FedNova(Composed):
    """Federated averaging of the clients' changes per step.

    Reference: wang2020fednova, section 5.
    """

    reference: ClassVar[str] = "wang2020fednova"

    client_rule: Annotated[ClientRule, _NORMALISED] = Field(default_factory=_NORMALISED.make)


class FedProx(Composed):
    """Federated averaging of clients that are held near the round's start.

    Reference: li2020fedprox, Algorithm 2.
    """

    reference: ClassVar[str] = "li2020fedprox"

    client_rule: Annotated[ClientRule, _PROXIMAL] = Field(default_factory=_PROXIMAL.make)


class Scaffold(Composed):
    """Federated averaging of clients that correct their gradients by control variates.

    Reference: karimireddy2020scaffold, Algorithm 1, option II.
    """

    reference: ClassVar[str] = "karimireddy2020scaffold"

    client_rule: Annotated[ClientRule, _SCAFFOLD] = Field(default_factory=_SCAFFOLD.make)
    aggregation: Annotated[Aggregation, _OVER_COHORT] = Field(default_factory=_OVER_COHORT.make)


class Median(Composed):
    """The coordinate-wise median of the clients' changes is a step.

    Reference: yin2018byzantine, Algorithm 1, option I.
    """

    reference: ClassVar[str] = "yin2018byzantine"

    aggregation: Annotated[Aggregation, _MEDIAN] = Field(default_factory=_MEDIAN.make)


class Krum(Composed):
    """For every item, the change of the client whose neighbours are nearest is a step.

    Reference: blanchard2017machine, sections 4 and 5.
    """

    reference: ClassVar[str] = "blanchard2017machine"

    aggregation: Annotated[Aggregation, _KRUM] = Field(default_factory=_KRUM.make)

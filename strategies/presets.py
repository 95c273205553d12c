"""Strategies by the names of their papers: parts of `Composed` with the papers' choices."""

from typing import Annotated, ClassVar

from pydantic import Field

from fedrec.config.fields import PluginField
from fedrec.plugins import Defaults
from fedrec.training.client_rule import ClientRule
from strategies.aggregations.base import Aggregation
from strategies.composed import Composed
from strategies.server_optimizers.base import ServerOptimizer

_SUM = PluginField("aggregations", "mean", {"average": "sum"})
_OVER_COHORT = PluginField("aggregations", "mean", {"average": "cohort"})
_BULYAN = PluginField("aggregations", "bulyan")
_CENTRED = PluginField("aggregations", "centred_clipping")
_GEOMETRIC = PluginField("aggregations", "geometric_median")
_KRUM = PluginField("aggregations", "krum")
_MEDIAN = PluginField("aggregations", "median")
_MULTI_KRUM = PluginField("aggregations", "multi_krum")
_NORM_BOUNDED = PluginField("aggregations", "norm_bounded")
_Q_FAIR = PluginField("aggregations", "q_fair")
_TRIMMED_MEAN = PluginField("aggregations", "trimmed_mean")
_DYNAMIC = PluginField("client_rules", "feddyn")
_NORMALISED = PluginField("client_rules", "fednova")
_PROXIMAL = PluginField("client_rules", "proximal")
_SCAFFOLD = PluginField("client_rules", "scaffold")
_ADAGRAD = PluginField("server_optimizers", "adagrad")
_ADAM = PluginField("server_optimizers", "adam")
_MOMENTUM = PluginField("server_optimizers", "sgd", {"momentum": 0.9})
_YOGI = PluginField("server_optimizers", "yogi")


class FedAvg(Composed):
    """Federated averaging: the mean of the clients' changes is a step.

    The paper divides by the whole cohort and weights by examples: for that write
    ``aggregation: {average: cohort, weighting: examples}``.

    Reference: mcmahan2017communication, Algorithm 1.
    """

    reference: ClassVar[str] = "mcmahan2017communication"


class FedAvgM(Composed):
    """Federated averaging with momentum on the server.

    Reference: hsu2019measuring, section 4.
    """

    reference: ClassVar[str] = "hsu2019measuring"

    server_optimizer: Annotated[ServerOptimizer, _MOMENTUM] = Field(default_factory=_MOMENTUM.make)


class FedAdam(Composed):
    """The sum of the clients' changes is the gradient of Adam on the server.

    Reference: reddi2021adaptive, Algorithm 2.
    """

    reference: ClassVar[str] = "reddi2021adaptive"
    defaults: ClassVar[Defaults] = {}  # it rescales what it is given

    aggregation: Annotated[Aggregation, _SUM] = Field(default_factory=_SUM.make)
    server_optimizer: Annotated[ServerOptimizer, _ADAM] = Field(default_factory=_ADAM.make)


class FedAdagrad(Composed):
    """The sum of the clients' changes is the gradient of Adagrad on the server.

    Reference: reddi2021adaptive, Algorithm 2.
    """

    reference: ClassVar[str] = "reddi2021adaptive"
    defaults: ClassVar[Defaults] = {}  # it rescales what it is given

    aggregation: Annotated[Aggregation, _SUM] = Field(default_factory=_SUM.make)
    server_optimizer: Annotated[ServerOptimizer, _ADAGRAD] = Field(default_factory=_ADAGRAD.make)


class FedYogi(Composed):
    """The sum of the clients' changes is the gradient of Yogi on the server.

    Reference: reddi2021adaptive, Algorithm 2.
    """

    reference: ClassVar[str] = "reddi2021adaptive"
    defaults: ClassVar[Defaults] = {}  # it rescales what it is given

    aggregation: Annotated[Aggregation, _SUM] = Field(default_factory=_SUM.make)
    server_optimizer: Annotated[ServerOptimizer, _YOGI] = Field(default_factory=_YOGI.make)


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
    aggregation: Annotated[Aggregation, _OVER_COHORT] = Field(default_factory=_OVER_COHORT.make)


class QFedAvg(Composed):
    """Clients with larger losses weigh more.

    Reference: li2020fair, Algorithm 2.
    """

    reference: ClassVar[str] = "li2020fair"

    aggregation: Annotated[Aggregation, _Q_FAIR] = Field(default_factory=_Q_FAIR.make)


class Median(Composed):
    """The coordinate-wise median of the clients' changes is a step.

    Reference: yin2018byzantine, Algorithm 1, option I.
    """

    reference: ClassVar[str] = "yin2018byzantine"

    aggregation: Annotated[Aggregation, _MEDIAN] = Field(default_factory=_MEDIAN.make)


class TrimmedMean(Composed):
    """The mean of the clients' changes without the largest and the smallest is a step.

    Reference: yin2018byzantine, Algorithm 1, option II.
    """

    reference: ClassVar[str] = "yin2018byzantine"

    aggregation: Annotated[Aggregation, _TRIMMED_MEAN] = Field(default_factory=_TRIMMED_MEAN.make)


class Krum(Composed):
    """For every item, the change of the client whose neighbours are nearest is a step.

    Reference: blanchard2017machine, section 4.
    """

    reference: ClassVar[str] = "blanchard2017machine"

    aggregation: Annotated[Aggregation, _KRUM] = Field(default_factory=_KRUM.make)


class MultiKrum(Composed):
    """For every item, the mean change of clients whose neighbours are nearest is a step.

    Reference: blanchard2017machine, section 5.
    """

    reference: ClassVar[str] = "blanchard2017machine"

    aggregation: Annotated[Aggregation, _MULTI_KRUM] = Field(default_factory=_MULTI_KRUM.make)


class Bulyan(Composed):
    """For every item, a trimmed mean of clients that Krum chooses is a step.

    Reference: elmhamdi2018hidden.
    """

    reference: ClassVar[str] = "elmhamdi2018hidden"

    aggregation: Annotated[Aggregation, _BULYAN] = Field(default_factory=_BULYAN.make)


class RFA(Composed):
    """For every item, the geometric median of the clients' changes is a step.

    Reference: pillutla2022robust.
    """

    reference: ClassVar[str] = "pillutla2022robust"

    aggregation: Annotated[Aggregation, _GEOMETRIC] = Field(default_factory=_GEOMETRIC.make)


class NormBounded(Composed):
    """The mean of the clients' changes, none longer than a bound, is a step.

    Reference: sun2019can.
    """

    reference: ClassVar[str] = "sun2019can"

    aggregation: Annotated[Aggregation, _NORM_BOUNDED] = Field(default_factory=_NORM_BOUNDED.make)


class CentredClipping(Composed):
    """Changes are clipped around the last joint change; their mean is a step.

    Reference: karimireddy2021learning.
    """

    reference: ClassVar[str] = "karimireddy2021learning"

    aggregation: Annotated[Aggregation, _CENTRED] = Field(default_factory=_CENTRED.make)

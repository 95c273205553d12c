"""How a client's model differs from everybody's. One file each."""

from collections.abc import Mapping

from fedrec.personalization.additive import Additive
from fedrec.personalization.base import NoPersonalization, Personalization
from fedrec.personalization.ditto import Ditto
from fedrec.personalization.fedrep import FedRep
from fedrec.personalization.finetune import FineTune
from fedrec.personalization.interpolation import Interpolation
from fedrec.personalization.plgc.plgc import PLGC

__all__ = ["PERSONALIZATIONS", "PLGC", "Personalization"]

PERSONALIZATIONS: Mapping[str, type[Personalization]] = {
    "none": NoPersonalization,
    "plgc": PLGC,
    "fedrep": FedRep,
    "ditto": Ditto,
    "interpolation": Interpolation,
    "finetune": FineTune,
    "additive": Additive,
}

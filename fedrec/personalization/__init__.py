"""How a client's view of the items differs from everybody's. One file each."""

from collections.abc import Mapping

from fedrec.personalization.base import NoPersonalization, Personalization
from fedrec.personalization.plgc.plgc import PLGC

__all__ = ["PERSONALIZATIONS", "PLGC", "Personalization"]

PERSONALIZATIONS: Mapping[str, type[Personalization]] = {
    "none": NoPersonalization,
    "plgc": PLGC,
}

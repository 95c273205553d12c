"""What clients do besides plain training; one file each."""

from collections.abc import Mapping

from fedrec.training.client_rule import ClientRule
from strategies.client_rules.feddyn import DynamicRegularisation
from strategies.client_rules.fednova import NormalisedUpdates
from strategies.client_rules.plain import Plain
from strategies.client_rules.proximal import Proximal
from strategies.client_rules.scaffold import ControlVariates

CLIENT_RULES: Mapping[str, type[ClientRule]] = {
    "feddyn": DynamicRegularisation,
    "fednova": NormalisedUpdates,
    "none": Plain,
    "proximal": Proximal,
    "scaffold": ControlVariates,
}

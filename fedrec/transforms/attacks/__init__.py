"""What attackers do; one file for each family."""

from collections.abc import Mapping

from fedrec.transforms.attacks.alie import Alie
from fedrec.transforms.attacks.base import Attack
from fedrec.transforms.attacks.fedrecattack import FedRecAttack
from fedrec.transforms.attacks.gaussian import GaussianAttack
from fedrec.transforms.attacks.ipm import Ipm
from fedrec.transforms.attacks.label_flip import LabelFlip
from fedrec.transforms.attacks.pipattack import PipAttack
from fedrec.transforms.attacks.scaling import Scaling
from fedrec.transforms.attacks.shilling import PopularShilling, RandomShilling
from fedrec.transforms.attacks.sign_flip import SignFlip
from fedrec.transforms.attacks.ua_fedrec import UaFedRec

ATTACKS: Mapping[str, type[Attack]] = {
    "label_flip": LabelFlip,
    "sign_flip": SignFlip,
    "scaling": Scaling,
    "gaussian_attack": GaussianAttack,
    "alie": Alie,
    "ipm": Ipm,
    "random_shilling": RandomShilling,
    "popular_shilling": PopularShilling,
    "pipattack": PipAttack,
    "fedrecattack": FedRecAttack,
    "ua_fedrec": UaFedRec,
}

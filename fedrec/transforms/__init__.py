"""What is done to an update between client and server; one file each."""

from collections.abc import Mapping

from fedrec.transforms.attacks import ATTACKS
from fedrec.transforms.base import Transform
from fedrec.transforms.clip import Clip
from fedrec.transforms.gaussian import Gaussian
from fedrec.transforms.low_rank import LowRank
from fedrec.transforms.quantize import Float16, Int8
from fedrec.transforms.top_k import TopK

TRANSFORMS: Mapping[str, type[Transform]] = {
    "clip": Clip,
    "float16": Float16,
    "gaussian": Gaussian,
    "int8": Int8,
    "low_rank": LowRank,
    "top_k": TopK,
    **ATTACKS,
}

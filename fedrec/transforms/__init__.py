"""What is done to an update between client and server; one file each."""

from collections.abc import Mapping

from fedrec.transforms.base import Transform
from fedrec.transforms.clip import Clip
from fedrec.transforms.gaussian import Gaussian

TRANSFORMS: Mapping[str, type[Transform]] = {
    "clip": Clip,
    "gaussian": Gaussian,
}

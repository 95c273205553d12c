"""What is done to an update between client and server; one file each."""

from collections.abc import Mapping

from fedrec.transforms.base import Transform

TRANSFORMS: Mapping[str, type[Transform]] = {}

"""Yogi on the server (Zaheer et al., 2018; Reddi et al., 2021)."""

import numpy as np

from fedrec.types import FloatArray
from strategies.server_optimizers.adam import Adam


class Yogi(Adam):
    r"""Adam whose second moment moves by bounded steps, and so forgets large changes slowly.

    .. math:: v \leftarrow v - (1 - \beta_2) \Delta^2 \operatorname{sign}(v - \Delta^2)

    Reference: reddi2021adaptive, Algorithm 2; zaheer2018adaptive.
    """

    def second_moment(self, second: FloatArray, square: FloatArray) -> FloatArray:
        """Return the next v from v and the squared change."""
        return np.asarray(second - (1 - self.beta2) * square * np.sign(second - square))

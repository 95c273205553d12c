"""What a server optimizer is: it makes a step along the joint change of the clients."""

from abc import abstractmethod
from collections.abc import Mapping
from types import EllipsisType
from typing import Any, Literal

import numpy as np
from pydantic import Field

from fedrec.aggregation.returned import pair_of
from fedrec.errors import check_shapes
from fedrec.plugins import Plugin, name_of
from fedrec.types import FloatArray, IntArray, Params, State

STEPS = "steps"
"""What is remembered beside `ServerOptimizer.memory`: how many steps were made."""


class ServerOptimizer(Plugin):
    r"""Base of all server optimizers.

    Args:
        lr: :math:`\eta`, the step size.
        moments: What becomes of an item's row, and of what is remembered of it, in a round in which
            nobody touched it. ``dense``: it is stepped with a change of 0, so that moments decay
            and the row goes on moving, as in the papers. ``lazy``: it stays, and steps are counted
            for each row.
    """

    lr: float = Field(1.0, gt=0)
    moments: Literal["dense", "lazy"] = "dense"

    def without_effect(self, run: Any) -> list[str]:
        """Say that rows which nobody touched stay anyway where nothing is remembered."""
        return [] if self.memory else self.unused("nothing is remembered of a row", "moments")

    @property
    def memory(self) -> tuple[str, ...]:
        """Return the names of what is remembered of each value, from 0; none by default."""
        return ()

    @abstractmethod
    def direction(
        self, change: FloatArray, memory: Mapping[str, FloatArray]
    ) -> tuple[FloatArray, Mapping[str, FloatArray]]:
        """Return what is added to some values, and what is remembered of them.

        Args:
            change: float64 [n, ...], the joint change.
            memory: Per name of `memory`, float64 [n, ...]; and ``steps``, float64 [n or 1, 1, ...],
                how many were made, with this one.
        """

    def init(self, params: Params) -> State:
        """Return a memory of zeros, float64, ``MEMORY/NAME``; and the steps, ``steps/NAME``."""
        arrays: dict[str, FloatArray] = {}
        for name, value in params.items() if self.memory else ():
            arrays |= {f"{each}/{name}": np.zeros(value.shape) for each in self.memory}
            counted = value.shape[:1] if self.moments == "lazy" else (1,) * min(value.ndim, 1)
            arrays[f"{STEPS}/{name}"] = np.zeros(counted + (1,) * (value.ndim - 1))
        return State(arrays)

    def step(
        self, state: State, params: Params, change: Params, touched: Mapping[str, IntArray]
    ) -> tuple[State, Params]:
        """Return the next state, and the parameters after a step, float32.

        Args:
            state: From `init` or the last step.
            params: The shared parameters.
            change: Per name, float64, the joint change.
            touched: Per item table, int64 [m], the rows that somebody touched.
        """
        arrays, after = dict(state.arrays), {}
        for name, value in params.items():
            rows = touched.get(name, ...) if self.moments == "lazy" else ...
            names = [*self.memory, STEPS] if self.memory else []
            memory = {each: arrays[f"{each}/{name}"][rows] for each in names}
            if memory:
                memory[STEPS] = memory[STEPS] + 1
            of_rows = change[name][rows]
            where = f"server optimizer {name_of('server_optimizers', self)}: direction"
            came = self.direction(of_rows, memory)
            move, remembered = pair_of(where, came, "(what is added, what is remembered)")
            check_shapes(where, {name: np.asarray(move)}, {name: of_rows})
            if memory and isinstance(remembered, Mapping):
                remembered = {STEPS: memory[STEPS], **remembered}
            check_shapes(f"{where}: memory of '{name}'", remembered, memory)
            after[name] = _replaced(value, rows, value[rows] + move)
            for each, values in remembered.items():
                arrays[f"{each}/{name}"] = _replaced(arrays[f"{each}/{name}"], rows, values)
        return State(arrays), after


def _replaced(array: FloatArray, rows: IntArray | EllipsisType, values: FloatArray) -> FloatArray:
    """Return an array with other values in some of its rows, or in all."""
    after = np.array(array)  # a copy; numpy makes scalars of arrays of one number
    after[rows] = values
    return after

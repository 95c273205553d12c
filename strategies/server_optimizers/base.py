"""What a server optimizer is: it makes a step along the joint change of the clients."""

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from pydantic import Field

from fedrec.plugins import Plugin
from fedrec.types import FloatArray, IntArray, Params, State

_STEPS = "steps/"


class ServerOptimizer(Plugin):
    r"""Base of all server optimizers.

    Args:
        lr: :math:`\eta`, the step size.
        moments: What becomes of an item's row, and of what is remembered of it, in a round in which
            nobody touched it. ``dense``: it is stepped with a change of 0, so that moments decay
            and the row goes on moving, as in the papers. ``lazy``: it stays, and rounds are counted
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
        self, change: FloatArray, memory: Mapping[str, FloatArray], steps: FloatArray
    ) -> tuple[FloatArray, Mapping[str, FloatArray]]:
        """Return what is added to some values, and what is remembered of them.

        Args:
            change: float64 [n, ...], the joint change.
            memory: Per name of `memory`, float64 [n, ...].
            steps: float64 [n, 1, ...] or scalar, the steps that were made with this one.
        """

    def init(self, params: Params) -> State:
        """Return a memory of zeros, float64, ``MEMORY/NAME``; and the steps, ``steps/NAME``."""
        arrays: dict[str, FloatArray] = {}
        for name, value in params.items() if self.memory else ():
            arrays |= {f"{each}/{name}": np.zeros(value.shape) for each in self.memory}
            counted = len(value) if self.moments == "lazy" and value.ndim else 1
            arrays[_STEPS + name] = np.zeros(counted, np.int64)
        return State(arrays)

    def step(
        self, state: State, params: Params, change: Params, touched: Mapping[str, IntArray]
    ) -> tuple[State, Params]:
        """Return the next state, and the parameters after a step, float32.

        Args:
            state: From `init` or the last step.
            params: The shared parameters.
            change: Per name, float64, the joint change.
            touched: Per item table, int64 [m], the rows that somebody changed.
        """
        arrays, after = dict(state.arrays), {}
        for name, value in params.items():
            lazy = self.moments == "lazy" and name in touched
            rows: IntArray | slice = touched[name] if lazy else slice(None)
            memory = {each: arrays[f"{each}/{name}"] for each in self.memory}
            steps: FloatArray = np.ones(1)
            if self.memory:
                counts = arrays[_STEPS + name].copy()
                counts[rows if len(counts) > 1 or lazy else slice(None)] += 1
                arrays[_STEPS + name] = counts
                steps = (counts[rows] if lazy else counts[:1]).astype(np.float64)
            steps = steps.reshape(-1, *[1] * max(value.ndim - 1, 0)) if value.ndim else steps[0]
            chosen = {each: array[rows] if value.ndim else array for each, array in memory.items()}
            of_rows = change[name][rows] if value.ndim else change[name]
            move, remembered = self.direction(of_rows, chosen, steps)
            after[name] = np.asarray(value, np.float32)
            if lazy:
                after[name] = after[name].copy()
                after[name][rows] = value[rows] + move
            else:
                after[name] = np.asarray(value + move, np.float32)
            for each, array in remembered.items():
                arrays[f"{each}/{name}"] = array
                if lazy:
                    arrays[f"{each}/{name}"] = memory[each].copy()
                    arrays[f"{each}/{name}"][rows] = array
        return State(arrays), after

"""Where the time of a round goes: stopwatches around public functions while a run lasts."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import wraps
from importlib import import_module
from typing import Any

__all__ = ["PHASES", "Stopwatch", "timed"]

PHASES: Mapping[str, tuple[str, ...]] = {
    "sample": ("fedrec.training.clients:plan_work",),
    "gather": (
        "fedrec.types:Shard.take",
        "fedrec.types:Ragged.take",
        "clients.store:StateStore.get",
    ),
    "train": ("clients.node:train_clients",),
    "reduce": (
        "strategies.base:Strategy.reduce",
        "strategies.base:Strategy.merge",
    ),
    "state": ("clients.store:StateStore.stage", "clients.store:StateStore.settle"),
    "wire": (
        "fedrec.flower.records:decode_order",
        "fedrec.flower.records:decode_params",
        "fedrec.flower.records:decode_trained",
        "fedrec.flower.records:encode_order",
        "fedrec.flower.records:encode_params",
        "fedrec.flower.records:encode_trained",
        "fedrec.flower.records:byte_count",
    ),
    "apply": ("strategies.fedadam:FedAdam.apply",),
}
"""What belongs to which phase: ``module:function`` or ``module:Class.method``.

A function called within another is counted once, for its own phase."""


class Stopwatch:
    """Seconds by phase; what is inside one phase is not counted for the one around it.

    Args:
        phases: Their names.
    """

    def __init__(self, phases: Iterable[str]) -> None:
        self.seconds: dict[str, float] = dict.fromkeys(phases, 0.0)
        self._inner: list[float] = []

    def reset(self) -> None:
        """Start from 0."""
        self.seconds = dict.fromkeys(self.seconds, 0.0)

    def around(self, phase: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, which now counts its time.

        Args:
            phase: What its time is counted for.
            function: Any.
        """

        @wraps(function)
        def measured(*arguments: Any, **named: Any) -> Any:
            self._inner.append(0.0)
            began = time.perf_counter()
            try:
                return function(*arguments, **named)
            finally:
                took = time.perf_counter() - began
                self.seconds[phase] += took - self._inner.pop()
                if self._inner:
                    self._inner[-1] += took

        return measured


@contextmanager
def timed(phases: Mapping[str, tuple[str, ...]] = PHASES) -> Iterator[Stopwatch]:
    """Count the time of functions by phase while this lasts, in this process.

    Args:
        phases: See `PHASES`.

    Raises:
        ImportError: If a module is gone.
        KeyError: If a function is; likewise AttributeError for its class.
    """
    watch = Stopwatch(phases)
    with ExitStack() as stack:
        for phase, references in phases.items():
            for reference in references:
                owner, name, function = _find(reference)
                setattr(owner, name, watch.around(phase, function))
                stack.callback(setattr, owner, name, function)
        yield watch


def _find(reference: str) -> tuple[Any, str, Callable[..., Any]]:
    """Who holds a function as an own attribute, under which name, and the function."""
    module, _, path = reference.partition(":")
    owner: Any = import_module(module)
    *above, name = path.split(".")
    for each in above:
        owner = getattr(owner, each)
    return owner, name, vars(owner)[name]

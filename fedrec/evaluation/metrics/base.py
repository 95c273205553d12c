"""What a metric is, and how a label such as ``ndcg@10`` becomes one."""

import math
import sys
from abc import abstractmethod
from collections.abc import Callable
from typing import ClassVar

import numpy as np
from pydantic import Field

from fedrec.errors import ConfigError
from fedrec.plugins import Plugin, lookup, name_of
from fedrec.types import FloatArray, IntArray, Ragged


class Metric(Plugin):
    """A measure of rankings.

    Args:
        k: length of the list that is looked at; None for the whole ranking.

    Attributes:
        needs_k: Whether it has no value without k.
        bounds: The lowest and the highest value.
    """

    needs_k: ClassVar[bool] = True
    bounds: ClassVar[tuple[float, float]] = (0.0, 1.0)

    k: int | None = Field(None, ge=1)

    @property
    def label(self) -> str:
        """Return such as ``ndcg@10``."""
        name = name_of("metrics", self)
        return name if self.k is None else f"{name}@{self.k}"

    @property
    def depth(self) -> int:
        """Return the last rank that counts."""
        return sys.maxsize if self.k is None else self.k

    def check(self, values: FloatArray, source: Callable[[int], str]) -> None:
        """Check that computed values are finite, and within the bounds that the class declares.

        Args:
            values: of any length.
            source: tells, for the position of a value, what it was computed from.

        Raises:
            ConfigError: Names the class and the first value that is not.
        """
        declared = self.bounds is not Metric.bounds  # the same numbers may be declared too
        low, high = self.bounds if declared else (-math.inf, math.inf)
        wrong = np.flatnonzero(~(np.isfinite(values) & (values >= low) & (values <= high)))
        if len(wrong):
            raise ConfigError(
                f"evaluate.metrics: {self.label} (class {type(self).__name__}) gave "
                f"{values[wrong[0]]:g} for {source(int(wrong[0]))}; expected a finite number"
                + f" from {low:g} to {high:g}"
                * declared
            )


class PerUserMetric(Metric):
    """One value per user; the metric is their mean."""

    @abstractmethod
    def per_user(self, ranks: Ragged) -> FloatArray:
        """Return the value of each user, float64 [n].

        Args:
            ranks: one row per user that has held-out items: their ranks (from 1), sorted.
        """


class ExposureMetric(Metric):
    """One value for how the recommendations of k items spread over the catalogue."""

    @abstractmethod
    def value(self, exposure: IntArray) -> float:
        """Return the value.

        Args:
            exposure: int64 [n_items], in how many users' top-k lists each item stands.
        """


def parse_metric(label: str) -> Metric:
    """Return the metric of a label.

    Args:
        label: ``name`` or ``name@k``.

    Raises:
        ConfigError: If the name is unknown, or k is missing or not a positive number.
    """
    name, at, cut = label.partition("@")
    metric = lookup("metrics", name)
    if not issubclass(metric, Metric):
        raise ConfigError(f"'{name}' is not a metric")
    if at and not (cut.isdigit() and int(cut) > 0):
        raise ConfigError(f"metric '{label}': expected {name}@k with k a number from 1")
    if (metric.needs_k or issubclass(metric, ExposureMetric)) and not at:
        raise ConfigError(f"metric '{label}': expected {name}@k, such as {name}@10")
    return metric(k=int(cut) if at else None)

"""What a metric is, and how a label such as ``ndcg@10`` becomes one."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar, Literal

from pydantic import Field

from fedrec.errors import ConfigError
from fedrec.plugins import Plugin, lookup, name_of
from fedrec.types import FloatArray, IntArray, Ragged

__all__ = ["ExposureMetric", "Metric", "PerUserMetric", "parse_metric"]


class Metric(Plugin):
    """A measure of rankings.

    Args:
        k: length of the list that is looked at; None for the whole ranking.
    """

    kind: ClassVar[Literal["per_user", "exposure"]]
    needs_k: ClassVar[bool] = True

    k: int | None = Field(None, ge=1)

    @property
    def label(self) -> str:
        """Such as ``ndcg@10``."""
        name = name_of("metrics", self)
        return name if self.k is None else f"{name}@{self.k}"


class PerUserMetric(Metric):
    """One value per user; the metric is their mean."""

    kind = "per_user"

    @abstractmethod
    def per_user(self, ranks: Ragged) -> FloatArray:
        """Compute the value of each user.

        Args:
            ranks: one row per user: the ranks (from 1) of its held-out items, sorted.

        Returns:
            float64 [n], NaN for a user without held-out items.
        """


class ExposureMetric(Metric):
    """One value for how the recommendations spread over the catalogue."""

    kind = "exposure"

    @abstractmethod
    def value(self, exposure: IntArray) -> float:
        """Compute the value.

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
    found = lookup("metrics", name)
    if not issubclass(found, Metric):
        raise ConfigError(f"'{name}' is not a metric")
    if at and not (cut.isdigit() and int(cut) > 0):
        raise ConfigError(f"metric '{label}': expected {name}@k with k a number from 1")
    if found.needs_k and not at:
        raise ConfigError(f"metric '{label}': expected {name}@k, such as {name}@10")
    return found(k=int(cut) if at else None)

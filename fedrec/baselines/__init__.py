"""Centralised baselines: they see the train items of all users."""

from collections.abc import Mapping

from fedrec.baselines.base import Baseline
from fedrec.baselines.content import ColumnPopularity, ContentKNN
from fedrec.baselines.methods import EASE, ImplicitALS, ItemKNN, Popularity, RandomScores

__all__ = ["BASELINES", "Baseline", "Popularity"]

BASELINES: Mapping[str, type[Baseline]] = {
    "popularity": Popularity,
    "random": RandomScores,
    "itemknn": ItemKNN,
    "itemknn-content": ContentKNN,
    "column-popularity": ColumnPopularity,
    "ease": EASE,
    "ials": ImplicitALS,
}

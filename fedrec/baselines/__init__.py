"""Centralised baselines: they see the train items of all users. One file each."""

from collections.abc import Mapping

from fedrec.baselines.base import Baseline, Scorer
from fedrec.baselines.itemknn import ItemKNN
from fedrec.baselines.popularity import Popularity
from fedrec.baselines.random import RandomScores

__all__ = ["BASELINES", "Baseline", "ItemKNN", "Popularity", "RandomScores", "Scorer"]

BASELINES: Mapping[str, type[Baseline]] = {
    "popularity": Popularity,
    "random": RandomScores,
    "itemknn": ItemKNN,
}

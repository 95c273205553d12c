"""Ranking the catalogue for many users at once, and the result of doing so.

Every user ranks the whole catalogue but the items it is known to have: the train items while
validating, the train and the validation items while testing. Nothing here depends on how users
are grouped into blocks: ranks are counts, and means are exactly rounded sums.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

import numpy as np

from fedrec.errors import ConfigError
from fedrec.metrics.base import ExposureMetric, Metric, PerUserMetric
from fedrec.personalization.base import View
from fedrec.ranking import Scores, exposure, legacy_candidates, ranks_of, top_k
from fedrec.types import FloatArray, IntArray, Ragged, Shard, offsets_of

__all__ = [
    "PARTS",
    "VIEWS",
    "Evaluation",
    "Part",
    "View",
    "check_cutoffs",
    "evaluate",
    "exposure",
    "legacy_candidates",
    "mask_of",
    "merge",
    "per_user_values",
    "ranks_of",
    "top_k",
]

Part: TypeAlias = Literal["valid", "test"]
VIEWS: tuple[View, ...] = get_args(View)
PARTS: tuple[Part, ...] = get_args(Part)


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What an evaluation of some users gave: metric values and counts, no scores, no vectors.

    Args:
        users: int64 [u], the users, sorted and distinct.
        values: per view and part, float64 [u, m], one column per per-user metric, in the order
            of the metrics; NaN for a user that has nothing held out in that part.
        exposure: per cut-off k, int64 [n_items]: in how many top-k lists each item stands (view
            ``mixed``, part ``test``, only users that have test items).
    """

    users: IntArray
    values: Mapping[View, Mapping[Part, FloatArray]]
    exposure: Mapping[int, IntArray]

    def summarise(
        self, metrics: Sequence[Metric], view: View = "mixed", part: Part = "test"
    ) -> dict[str, float]:
        """The metrics by label: means over the users that have items held out.

        Args:
            metrics: as given to `evaluate`.
            view: which of the scores.
            part: which of the held-out parts. Measures of exposure exist for the view ``mixed``
                and the part ``test`` alone.

        Returns:
            A value per label; NaN where no user has anything held out.
        """
        columns = self.values[view][part]
        labels = [metric.label for metric in metrics if isinstance(metric, PerUserMetric)]
        means = {label: _mean(columns[:, at]) for at, label in enumerate(labels)}
        spread = {
            metric.label: metric.value(self.exposure[metric.k])
            for metric in metrics
            if isinstance(metric, ExposureMetric) and metric.k is not None
        }
        reached = means | spread if (view, part) == ("mixed", "test") else means
        return {
            metric.label: reached[metric.label] for metric in metrics if metric.label in reached
        }


def check_cutoffs(metrics: Sequence[Metric], n_items: int) -> None:
    """Check that no list is longer than the catalogue.

    Raises:
        ConfigError: If a cut-off exceeds ``n_items``.
    """
    for metric in metrics:
        if metric.k is not None and metric.k > n_items:
            raise ConfigError(
                f"evaluate.metrics: {metric.label} looks at {metric.k} items, but the catalogue "
                f"has {n_items}; give a cut-off from 1 to {n_items}"
            )


def mask_of(part: Part, train: Ragged, valid: Ragged) -> Ragged:
    """The items that a user does not rank: train items, and for the test the validation items too.

    Args:
        part: what is being ranked for.
        train: one row per user.
        valid: one row per user.

    Returns:
        One row per user, sorted.
    """
    return train if part == "valid" else _union(train, valid)


def per_user_values(ranks: Ragged, metrics: Sequence[Metric]) -> FloatArray:
    """The values of the per-user metrics among some metrics.

    Args:
        ranks: one row per user, the sorted ranks of its held-out items.
        metrics: any metrics; others than per-user metrics are passed over.

    Returns:
        float64 [b, m], NaN for a user without held-out items.
    """
    columns = [m.per_user(ranks) for m in metrics if isinstance(m, PerUserMetric)]
    return np.stack(columns, axis=1) if columns else np.empty((len(ranks), 0))


def evaluate(
    shard: Shard,
    score: Callable[[IntArray], Mapping[View, Scores]],
    metrics: Sequence[Metric],
    block: int,
    candidates: Mapping[Part, Ragged] | None = None,
) -> Evaluation:
    """Let the users of a shard rank the catalogue.

    Args:
        shard: the users and their items.
        score: from user rows of the shard, int64 [b], to their scores, per view
            float [b, n_items]; the same views each time.
        metrics: what to measure.
        block: users whose scores are computed together; changes no bit of the result.
        candidates: per part one row per user row: the only items that compete with the held-out
            ones (protocol ``legacy``); None: the whole catalogue.

    Raises:
        NumericError: If a score is NaN.
    """
    pieces = []
    for start in range(0, shard.n_users, block):
        rows = np.arange(start, min(start + block, shard.n_users), dtype=np.int64)
        compete = {part: c.take(rows) for part, c in (candidates or {}).items()}
        pieces.append(_evaluate_block(shard, rows, score(rows), metrics, compete))
    return merge(pieces)


def merge(pieces: Sequence[Evaluation]) -> Evaluation:
    """The evaluation of all users of some evaluations of different users, in any order.

    Args:
        pieces: at least one, with the same views and cut-offs.

    Raises:
        ValueError: If there is none, or a user occurs twice.
    """
    if not pieces:
        raise ValueError("there is no evaluation to merge")
    users = np.concatenate([piece.users for piece in pieces])
    order = np.argsort(users, kind="stable")
    if np.any(np.diff(users[order]) == 0):
        raise ValueError("a user was evaluated twice")
    first = pieces[0]
    return Evaluation(
        users=users[order],
        values={
            view: {
                part: np.concatenate([piece.values[view][part] for piece in pieces])[order]
                for part in parts
            }
            for view, parts in first.values.items()
        },
        exposure={
            k: np.sum([piece.exposure[k] for piece in pieces], axis=0) for k in first.exposure
        },
    )


def _evaluate_block(
    shard: Shard,
    rows: IntArray,
    scores: Mapping[View, Scores],
    metrics: Sequence[Metric],
    candidates: Mapping[Part, Ragged],
) -> Evaluation:
    train, valid, test = (part.take(rows) for part in (shard.train, shard.valid, shard.test))
    held_out: dict[Part, Ragged] = {"valid": valid, "test": test}
    masks = {part: mask_of(part, train, valid) for part in PARTS}
    values: dict[View, dict[Part, FloatArray]] = {
        view: {
            part: per_user_values(
                ranks_of(of_view, held_out[part], masks[part], candidates.get(part)), metrics
            )
            for part in PARTS
        }
        for view, of_view in scores.items()
    }
    tested = np.flatnonzero(test.lengths > 0)
    cutoffs = sorted({m.k for m in metrics if isinstance(m, ExposureMetric) and m.k is not None})
    shown = np.empty((0, 0), np.int64)
    if cutoffs and len(tested):
        shown = top_k(scores["mixed"], masks["test"], cutoffs[-1])[tested]
    counts = {k: exposure(shown[:, :k], shard.n_items) for k in cutoffs}
    order = np.argsort(shard.user_ids[rows], kind="stable")
    return Evaluation(
        users=shard.user_ids[rows][order],
        values={v: {p: of_part[order] for p, of_part in ps.items()} for v, ps in values.items()},
        exposure=counts,
    )


def _mean(values: FloatArray) -> float:
    known = values[~np.isnan(values)]
    # Exactly rounded, so the order of the users does not matter.
    return math.fsum(known.tolist()) / len(known) if len(known) else float("nan")


def _union(a: Ragged, b: Ragged) -> Ragged:
    owners = np.concatenate([a.owners(), b.owners()])
    values = np.concatenate([a.values, b.values])
    order = np.lexsort((values, owners))
    lengths = a.lengths + b.lengths
    return Ragged(offsets_of(lengths), values[order])

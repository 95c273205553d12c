"""Ranking the catalogue for many users at once, and the result of doing so.

Every user ranks the whole catalogue but the items it is known to have: the train items while
validating, the train and the validation items while testing. Nothing here depends on how users
are grouped into blocks: ranks are counts, and means are exactly rounded sums.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Literal, TypeAlias

import numpy as np

from fedrec.errors import ConfigError
from fedrec.evaluation.metrics import (
    ExposureMetric,
    Metric,
    PerUserMetric,
    RankMetric,
    TargetMetric,
)
from fedrec.evaluation.ranking import PARTS, Part, Placed, Scores, place_by_definition
from fedrec.evaluation.scorer import UserScorer
from fedrec.evaluation.slices import Ranking, Slices, rankings_of, sliced
from fedrec.evaluation.targets import eligible_targets
from fedrec.personalization.base import View
from fedrec.ragged import Ragged
from fedrec.training.blocks import Together
from fedrec.types import FloatArray, IntArray, Shard

Ranked: TypeAlias = View | Literal["before_end"]
"""A view; ``before_end``: the method's own before the phases at the end of a run."""

_AUTO_BYTES = 16 * 2**20
_AUTO_LEAST = 64  # users: the rows of one matrix product


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What an evaluation of some users gave: metric values and counts, no scores, no vectors.

    Args:
        users: int64 [u], the users, sorted and distinct.
        values: per view and part, float64 [u, m], one column per per-user metric, in the order
            of the metrics, then as many for each slice, and for the part ``test`` one per metric
            of targets; NaN for a user that has nothing held out in that part and slice, or none
            of the targets to be shown.
        exposure: per cut-off k, int64 [n_items]: in how many top-k lists each item stands (view
            ``mixed``, part ``test``, only users that have test items). With slices, of warm items
            alone.
        slices: the slices.
        cold_listed: per cut-off k, int64 [2]: how many items in the top-k lists among all items
            are cold, and how many there are in them. Empty without the slice ``cold_among_all``.
        notes: what the user should know, a line each.
    """

    users: IntArray
    values: Mapping[Ranked, Mapping[Part, FloatArray]]
    exposure: Mapping[int, IntArray]
    slices: tuple[str, ...] = ()
    cold_listed: Mapping[int, IntArray] = field(default_factory=dict)
    notes: tuple[str, ...] = field(default=(), compare=False)

    def labels(self, metrics: Sequence[Metric], part: Part = "test") -> list[str]:
        """Return the labels of the columns of ``values`` of a part."""
        per_user = [metric.label for metric in metrics if isinstance(metric, PerUserMetric)]
        of_targets = [metric.label for metric in metrics if isinstance(metric, TargetMetric)]
        labels = [sliced(label, name) for name in ("", *self.slices) for label in per_user]
        return labels + of_targets * (part == "test")

    def summarise(
        self, metrics: Sequence[Metric], view: Ranked = "mixed", part: Part = "test"
    ) -> dict[str, float]:
        """Return the metrics by label: means over the users that have items held out.

        Args:
            metrics: as given to `evaluate`.
            view: which of the scores.
            part: which of the held-out parts. Metrics of targets exist for the part ``test``
                alone; measures of exposure for the view ``mixed`` and the part ``test``, and of
                the slices for ``cold_among_all``: ``cold_share@k``, the share of cold items in
                the lists.

        Returns:
            A value per label, those of slices last; NaN where no user has anything held out.
        """
        columns = dict(zip(self.labels(metrics, part), self.values[view][part].T, strict=True))
        summary = dict[str, float]()
        for metric in metrics:
            if isinstance(metric, RankMetric) and metric.label in columns:
                summary[metric.label] = _mean(columns.pop(metric.label))
            elif isinstance(metric, ExposureMetric) and (view, part) == ("mixed", "test"):
                exposure = _read_only(self.exposure[metric.depth])
                value = metric.value(exposure)
                if exposure.any():
                    metric.check(np.array([value]), lambda _: "the lists of all users")
                summary[metric.label] = value
        summary |= {label: _mean(of_users) for label, of_users in columns.items()}
        if (view, part) == ("mixed", "test"):
            for k, (cold, listed) in self.cold_listed.items():
                label = sliced(f"cold_share@{k}", "cold_among_all")
                summary[label] = cold / listed if listed else float("nan")
        return summary


def ranking_together() -> Together:
    """Return what ranks users together, as many as fit."""
    return Together("ranked", "evaluate.block", "lower the size of the model")


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


def block_users(block: int | Literal["auto"], n_items: int) -> int:
    """Return how many users are scored together.

    Args:
        block: the number, or ``auto``: as many as 16 MiB of float32 scores hold, from 64.
        n_items: size of the catalogue.
    """
    if block != "auto":
        return block
    return max(_AUTO_LEAST, _AUTO_BYTES // (4 * max(n_items, 1)))


def per_user_values(
    ranks: Ragged,
    metrics: Sequence[Metric],
    users: IntArray,
    of: Literal["held-out", "target"] = "held-out",
) -> FloatArray:
    """Compute the values of the metrics, among some, that are of the ranks of some items.

    Args:
        ranks: one row per user, the ranks of its items.
        metrics: any metrics; those of other items are passed over, and those of no ranks.
        users: int64 [b], the users, to name one.
        of: which of its items.

    Returns:
        float64 [b, m], NaN for a user without such items.

    Raises:
        ConfigError: If a metric returns another shape than one finite number per user.
    """

    def user(at: int) -> str:
        number, places = users[has_some][at], ", ".join(map(str, some.row(at).tolist()))
        return f"user {number}, counted from 0, whose {of} items have the ranks {places}"

    kind = TargetMetric if of == "target" else PerUserMetric
    per_user = [metric for metric in metrics if isinstance(metric, kind)]
    ranks = ranks.sorted()
    values = np.full((len(ranks), len(per_user)), np.nan)
    has_some = ranks.lengths > 0
    offsets = np.append(ranks.offsets[:-1][has_some], ranks.offsets[-1])
    some = Ragged(_read_only(offsets), _read_only(ranks.values))
    for at, metric in enumerate(per_user if len(some) else ()):
        of_users = metric.per_user(some)
        if np.shape(of_users) != (len(some),):
            raise ConfigError(
                f"evaluate.metrics: {metric.label} gave the shape {np.shape(of_users)} for "
                f"{len(some)} users; per_user returns one number for each, shape ({len(some)},)"
            )
        metric.check(np.asarray(of_users), user)
        values[has_some, at] = of_users
    return values


def evaluate(
    shard: Shard,
    score: Callable[[IntArray], Mapping[View, Scores]],
    metrics: Sequence[Metric],
    block: int | Literal["auto"] = "auto",
    candidates: Mapping[Part, Ragged] | None = None,
    slices: Slices | None = None,
    together: Together | None = None,
    targets: IntArray | None = None,
) -> Evaluation:
    """Let the users of a shard rank the catalogue.

    Besides the scores of one block it holds the ranks of the held-out and the target items of all
    users, and their metric values.

    Args:
        shard: the users and their items, one user at least.
        score: from user rows of the shard, int64 [b], to their scores, per view
            float [b, n_items]; the same views each time.
        metrics: what to measure.
        block: users whose scores are computed together (see `block_users`); changes no bit of
            the result.
        candidates: per part one row per user row: the only items that compete with the held-out
            ones (protocol ``legacy``); None: the whole catalogue.
        slices: what to measure apart; then warm items are ranked among warm items.
        together: remembers how many users fit in memory; None: nobody does.
        targets: int64 [t], sorted, whose ranks the metrics of targets measure, warm items with
            slices. Without such a metric they are not looked at.

    Raises:
        NumericError: If a score is NaN.
        ValueError: If there are no users, or a metric lacks its targets.
    """
    if shard.n_users == 0:
        raise ValueError("there is nobody to evaluate")
    eligible = None
    if any(isinstance(metric, TargetMetric) for metric in metrics):
        if targets is None:
            raise ValueError("a metric of targets is given, and no targets")
        eligible = eligible_targets(shard, targets)
    cutoffs = {metric.depth for metric in metrics if isinstance(metric, ExposureMetric)}
    rankings = rankings_of(shard, slices, eligible)
    shown = [{k: np.zeros(len(each.items), np.int64) for k in cutoffs} for each in rankings]
    ranks: dict[View, dict[tuple[int, Part], list[IntArray]]] = {}
    of_targets: dict[View, list[IntArray]] = {}
    together, longest = together or ranking_together(), max([0, *cutoffs])
    every_placed = _placed(shard, rankings, score, block, candidates, longest, together)
    for number, placed in every_placed:
        for view, of_view in placed.ranks.items():
            for part, of_part in of_view.items():
                ranks.setdefault(view, {}).setdefault((number, part), []).append(of_part)
            of_targets.setdefault(view, []).append(placed.targets[view])
        for k in cutoffs if rankings[number].lists else ():
            listed = placed.top[:, :k]
            shown[number][k] += np.bincount(listed[listed >= 0], minlength=len(shown[number][k]))
    names = () if slices is None else slices.names
    values: dict[Ranked, dict[Part, FloatArray]] = {}
    for view, blocks in ranks.items():
        columns: dict[tuple[Part, str], FloatArray] = {}
        for (number, part), of_blocks in blocks.items():
            joined = np.concatenate(of_blocks)
            for name in rankings[number].names(part):
                rows = rankings[number].of_slice(part, name, joined)
                columns[part, name] = per_user_values(rows, metrics, shard.user_ids)
        values[view] = {
            part: np.concatenate([columns[part, name] for name in ("", *names)], axis=1)
            for part in PARTS
        }
        if rankings[0].targets is not None:
            rows = Ragged(rankings[0].targets.offsets, np.concatenate(of_targets[view]))
            exposed = per_user_values(rows, metrics, shard.user_ids, "target")
            values[view]["test"] = np.concatenate([values[view]["test"], exposed], axis=1)
    cold_listed = {}
    if slices is not None and "cold_among_all" in names:
        for k, exposure in shown[-1].items():
            cold_listed[k] = np.array([exposure[slices.is_cold].sum(), exposure.sum()])
    return merge([Evaluation(shard.user_ids, values, shown[0], names, cold_listed)])


def _placed(
    shard: Shard,
    rankings: Sequence[Ranking],
    score: Callable[[IntArray], Mapping[View, Scores]],
    block: int | Literal["auto"],
    candidates: Mapping[Part, Ragged] | None,
    k: int,
    together: Together,
) -> Iterator[tuple[int, Placed]]:
    """Yield where the items of some users stand, user after user, per ranking."""
    size = block_users(block, shard.n_items)
    is_compiled = not candidates and find_spec("numba") is not None
    if is_compiled:
        from fedrec.evaluation.counting import place_by_columns, place_by_rows

        # Where one block holds all users, they share the costs of items anyway.
        is_alone = len(rankings) == 1 and len(rankings[0].items) == shard.n_items
        shares = shard.n_users > size and is_alone
        if shares and isinstance(score, UserScorer) and score.by_columns:
            targets = rankings[0].targets
            yield from ((0, placed) for placed in place_by_columns(score, shard, k, targets))
            return
    # Scores of who has nothing to be ranked would be for nothing; of nobody there are no views.
    n_ranked = shard.valid.lengths + shard.test.lengths
    if rankings[0].targets is not None:
        n_ranked += rankings[0].targets.lengths
    everybody = np.flatnonzero(n_ranked)
    everybody = everybody if len(everybody) else np.arange(1)

    def ranked(at: slice) -> list[tuple[int, Placed]]:
        rows, every_placed = everybody[at], []
        views = score(rows)
        for number, ranking in enumerate(rankings):
            train, valid, test = ranking.take(rows)
            targets = None if ranking.targets is None else ranking.targets.take(rows)
            columns = {view: ranking.columns(scores) for view, scores in views.items()}
            depth = k if ranking.lists else 0
            if is_compiled:
                placed = place_by_rows(columns, train, valid, test, depth, targets)
            else:
                compete = {part: each.take(rows) for part, each in (candidates or {}).items()}
                placed = place_by_definition(columns, train, valid, test, depth, compete, targets)
            every_placed.append((number, placed))
        return every_placed

    def named(at: int) -> str:
        return f"user {shard.user_ids[everybody[at]]}, counted from 0,"

    for start in range(0, len(everybody), size):
        block_rows = slice(start, min(start + size, len(everybody)))
        for every_placed in together.compute(block_rows, ranked, named):
            yield from every_placed


def merge(evaluations: Sequence[Evaluation]) -> Evaluation:
    """Merge evaluations of different users, in any order, into one.

    Args:
        evaluations: with the same views and cut-offs, but for those of nobody.

    Raises:
        ValueError: If a user occurs twice.
    """
    notes = tuple(dict.fromkeys(note for one in evaluations for note in one.notes))
    evaluations = [one for one in evaluations if len(one.users)]
    if not evaluations:
        return Evaluation(np.zeros(0, np.int64), {}, {}, notes=notes)
    users = np.concatenate([one.users for one in evaluations])
    by_user = np.argsort(users, kind="stable")
    if np.any(np.diff(users[by_user]) == 0):
        raise ValueError("a user was evaluated twice")
    first = evaluations[0]
    return Evaluation(
        users=users[by_user],
        values={
            view: {
                part: np.concatenate([one.values[view][part] for one in evaluations])[by_user]
                for part in parts
            }
            for view, parts in first.values.items()
        },
        exposure={
            k: np.sum([one.exposure[k] for one in evaluations], axis=0) for k in first.exposure
        },
        slices=first.slices,
        cold_listed={
            k: np.sum([one.cold_listed[k] for one in evaluations], axis=0)
            for k in first.cold_listed
        },
        notes=notes,
    )


def _read_only(values: IntArray) -> IntArray:
    """Return a view that a metric cannot change under those that come after it."""
    view = values.view()
    view.flags.writeable = False
    return view


def _mean(values: FloatArray) -> float:
    defined = values[~np.isnan(values)]
    # Exactly rounded, so the order of the users does not matter.
    return math.fsum(defined.tolist()) / len(defined) if len(defined) else float("nan")

"""The section ``evaluate`` of an experiment."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, Self

import numpy as np
from pydantic import Field, field_validator, model_validator

from fedrec.evaluation.metrics import Metric, PerUserMetric, TargetMetric, parse_metric
from fedrec.evaluation.ranking import LEGACY_CANDIDATES
from fedrec.evaluation.rerank import FirstStage, Rerank
from fedrec.evaluation.slices import Slice, Slices, list_lengths, sliced
from fedrec.evaluation.targets import DrawnTargets, eligible_targets, items_named
from fedrec.plugins import Count, Section, shown
from fedrec.types import IntArray, Split


class Evaluate(Section):
    """When and how the clients rank the catalogue.

    Args:
        every: rounds between evaluations; the last round is always evaluated.
        metrics: such as ``ndcg@10``, ``hit_rate@10``, ``recall@20``, ``mrr``, ``coverage@10``.
            The first chooses the round, on validation. ``er@10`` needs ``targets``.
        slices: held-out items that are measured apart, for validation and test, with labels such
            as ``ndcg@10[tail]``: ``head`` (of the fifth of the items with the most train items),
            ``tail`` (of the others that are trained on), ``cold`` (those that nobody trains on,
            ranked among themselves: for the test among the cold items that somebody has in the
            test) and ``cold_among_all`` (the same, ranked among all items; ``cold_share@k`` is
            the share of cold items in the lists). With any slice, or with
            ``data.split.cold_items``, the metrics without a slice rank warm items among warm
            items. A mean leaves out users without held-out items in the slice.
        targets: the items whose exposure ``er@10`` measures, and which attacks promote: a list of
            raw ids, or how they are drawn, ``{choose: unpopular, count: 1}``. All users rank them,
            also those that have nothing held out.
        rerank: candidates that are scored, and where they come from; None: the whole catalogue.
        choose_on: the slice in which the first metric chooses the round, and the settings of a
            baseline, on validation; None: the first metric without a slice chooses.
        block: users whose scores are computed together, or ``auto``: as many as 16 MiB of scores
            hold, from 64. Changes no bit of the result and bounds the memory of each process:
            block x items x 4 bytes for a model by itself, about four times that for three views.
            With more users than that, PLGC's similarity branch over a ``flat`` model ranks 128
            items at a time for all users instead, where numba is installed.
    """

    every: int = Field(5, ge=1)
    metrics: tuple[str, ...] = (
        "ndcg@10",
        "hit_rate@10",
        "recall@10",
        "mrr",
        "coverage@10",
        "gini@10",
    )
    slices: tuple[Slice, ...] = ()
    targets: tuple[str, ...] | DrawnTargets | None = None
    rerank: Rerank | None = None
    choose_on: Slice | None = None
    block: Count | Literal["auto"] = "auto"

    def without_effect(self, run: Any) -> list[str]:
        """Say for which users a metric has the same value whatever the model."""
        if not len(run.honest.train.values):  # they are on devices
            return []
        slices = self.slices_of(run.honest)
        lines = cutoff_warnings(self.parsed(), run.honest, run.experiment.data.protocol, slices)
        lines = [f"metrics: {line}" for line in lines]
        cold = {"cold", "cold_among_all"} & set(self.slices)
        if slices is not None and cold and not slices.is_cold.any():
            lines.append(
                f"slices: {', '.join(sorted(cold))} have no items: somebody trains on each; set "
                "data.split.cold_items"
            )
        attack = run.experiment.attack
        promoted = attack is not None and attack.needs_targets
        if self.targets is not None and not self.target_metrics and not promoted:
            lines.append("targets: has no effect: no metric measures them; add er@10 to metrics")
        lines += self._of_targets(run)
        if self.rerank is not None and self.rerank.n >= run.honest.n_items:
            lines.append(
                f"rerank.n: {self.rerank.n} has no effect: the catalogue has {run.honest.n_items} "
                "items, so all are candidates"
            )
        if run.honest.n_cold and not cold:
            lines.append(
                f"slices: the {run.honest.n_cold} cold items are not measured; add cold or "
                "cold_among_all"
            )
        return lines

    def _of_targets(self, run: Any) -> list[str]:
        """Return for which users the exposure of targets is the same whatever the model."""
        cutoffs = {m.label: m.k for m in self.parsed() if isinstance(m, TargetMetric) and m.k}
        eligible = eligible_targets(run.honest, run.targets).lengths > 0
        if cutoffs and not eligible.any():
            return ["targets: every user has all of them, so none can be shown; name other items"]
        left = list_lengths(run.honest, None)[""]["test"][0][eligible]
        labels = [label for label, k in cutoffs.items() if k >= left.min()]
        if not labels:
            return []
        k = max(cutoffs[label] for label in labels)
        few = np.count_nonzero(left <= k)
        return [
            f"metrics: {', '.join(labels)}: {few} of {len(left)} users have at most {k} items left "
            "to rank, so every list holds the targets whatever the model; choose a lower cut-off"
        ]

    def first_stage_of(self, split: Split) -> FirstStage | None:
        """Return what chooses the candidates; None if there is no such stage."""
        return None if self.rerank is None else FirstStage.of(self.rerank, split)

    @field_validator("metrics")
    @classmethod
    def _known(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not value:
            raise ValueError("expected at least one metric; the first chooses the round")
        parsed = [parse_metric(label) for label in value]
        if isinstance(parsed[0], TargetMetric):
            raise ValueError(
                f"the first metric chooses the round on validation, where {value[0]} has no value; "
                "put another first, such as ndcg@10"
            )
        if not isinstance(parsed[0], PerUserMetric):
            raise ValueError(
                f"the first metric chooses the round and must be per user, not {value[0]}"
            )
        labels = [metric.label for metric in parsed]
        if len({*labels}) < len(labels):
            twice = max(labels, key=labels.count)
            raise ValueError(f"'{twice}' is given twice; leave one of them out")
        return value

    @field_validator("slices")
    @classmethod
    def _once(cls, value: tuple[Slice, ...]) -> tuple[Slice, ...]:
        if len({*value}) < len(value):
            twice = max(value, key=value.count)
            raise ValueError(f"'{twice}' is given twice; leave one of them out")
        return value

    @field_validator("targets", mode="before")
    @classmethod
    def _ids_or_how_to_draw(cls, value: Any) -> Any:
        if value is None or isinstance(value, DrawnTargets):
            return value
        if isinstance(value, Mapping):
            return DrawnTargets.model_validate(value)
        if not isinstance(value, list | tuple) or not value:
            raise ValueError(
                f"expected item ids, as in [12, 40], or {{choose: unpopular}}, got {shown(value)}"
            )
        for each in value:
            if not isinstance(each, str | int) or isinstance(each, bool):
                raise ValueError(f"expected an item id as text or number, got {shown(each)}")
        ids = tuple(map(str, value))
        if len({*ids}) < len(ids):
            raise ValueError(f"'{max(ids, key=ids.count)}' is given twice; leave one of them out")
        return ids

    @model_validator(mode="after")
    def _measures_targets_that_are_there(self) -> Self:
        if self.target_metrics and self.targets is None:
            raise ValueError(
                f"metrics: {self.target_metrics[0]} measures the exposure of target items; name "
                "them in evaluate.targets, as item ids or {choose: unpopular}"
            )
        return self

    @model_validator(mode="after")
    def _chooses_on_a_slice(self) -> Self:
        if self.choose_on is not None and self.choose_on not in self.slices:
            raise ValueError(f"choose_on: {self.choose_on} is not among the slices; add it there")
        return self

    @property
    def chooser(self) -> str:
        """Return the label of the metric that chooses the round on validation."""
        return sliced(self.metrics[0], self.choose_on or "")

    def parsed(self) -> tuple[Metric, ...]:
        """Return the metrics as values."""
        return tuple(parse_metric(label) for label in self.metrics)

    @property
    def target_metrics(self) -> tuple[str, ...]:
        """Return the labels of the metrics that measure the targets."""
        return tuple(each.label for each in self.parsed() if isinstance(each, TargetMetric))

    def targets_of(self, split: Split, seed: int) -> IntArray:
        """Return the target items, int64 [t], sorted; of no length where none are given.

        Args:
            split: the data.
            seed: of the run, for targets that are drawn.

        Raises:
            ConfigError: If the data does not have them, or not as many.
        """
        if isinstance(self.targets, DrawnTargets):
            return self.targets.draw(split, seed)
        return items_named(split, self.targets or ())

    def slices_of(self, split: Split) -> Slices | None:
        """Return the slices of a split; None where all its items are ranked together."""
        return Slices.of(split, self.slices) if self.slices or split.n_cold else None


def cutoff_warnings(
    metrics: Sequence[Metric],
    split: Split,
    protocol: Literal["clean", "legacy"],
    slices: Slices | None = None,
) -> list[str]:
    """Return one line for each fact: users with long enough lists, with no items held out.

    Args:
        metrics: what is measured.
        split: the data.
        protocol: of the ranking.
        slices: what is measured apart.
    """
    lengths = list_lengths(split, slices)
    cutoffs = {m.label: m.k for m in metrics if m.k and isinstance(m, PerUserMetric)}
    lines = [
        f"{np.count_nonzero(held_out == 0)} of {split.n_users} users have no {what} items; the "
        "means leave them out"
        for what, (_, held_out) in zip(("validation", "test"), lengths[""].values(), strict=True)
        if not held_out.all()
    ]
    for name, of_slice in lengths.items():
        left, held_out = (np.stack(each) for each in zip(*of_slice.values(), strict=True))
        if protocol == "legacy":
            left = np.minimum(left, held_out + LEGACY_CANDIDATES)
        is_ranked = held_out > 0
        n_ranked = np.count_nonzero(is_ranked.any(axis=0))
        least = left[is_ranked].min(initial=split.n_items)
        labels = [sliced(label, name) for label, k in cutoffs.items() if k >= least]
        if labels:
            k = max(k for k in cutoffs.values() if k >= least)
            few = np.count_nonzero((is_ranked & (left <= k)).any(axis=0))
            lines.append(
                f"{', '.join(labels)}: {few} of {n_ranked} users have at most {k} items left to "
                "rank in validation or test, so every list holds their held-out items whatever "
                "the model; choose a lower cut-off"
            )
        alone = np.count_nonzero((is_ranked & (left <= held_out)).any(axis=0))
        if alone and not name:
            lines.append(
                f"{alone} of {n_ranked} users have nothing but held-out items left to rank in "
                "validation or test, so every metric is perfect for them"
            )
    return lines

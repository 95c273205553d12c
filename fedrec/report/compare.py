"""Paired comparison of methods over the users they share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
from scipy.special import stdtrit

from fedrec.report.runs import Group, Selection, pretty_metric
from fedrec.report.tables import Table, results

__all__ = ["all_results", "interval", "paired"]

LEVEL = 0.95


def all_results(selection: Selection, baseline: str | None = None) -> list[Table]:
    """Return the results and the paired comparison of each section, and what was left out.

    Args:
        selection: All runs.
        baseline: As in `Selection.baseline`.
    """
    tables = []
    for section in selection.sections:
        tables.append(results(selection, section))
        chosen = selection.baseline(section, baseline)
        if chosen is not None and (compared := paired(section, chosen)) is not None:
            tables.append(compared)
    left_out = (f"left out: {reason}" for reason in selection.left_out)
    return [replace(tables[0], notes=(*tables[0].notes, *left_out)), *tables[1:]]


def interval(differences: np.ndarray) -> tuple[float, float, float]:
    """Return the mean of paired differences with its 95 % Student interval.

    Args:
        differences: float64 [n], n from 2.

    Returns:
        Mean, lower and upper end.
    """
    n = len(differences)
    mean = float(np.mean(differences))
    error = float(np.std(differences, ddof=1)) / n**0.5
    margin = float(stdtrit(n - 1, 0.5 + LEVEL / 2)) * error
    return mean, mean - margin, mean + margin


def paired(section: Sequence[Group], baseline: Group) -> Table | None:
    """Compare each finished group with a baseline, user by user.

    The unit is the user; seeds are averaged first, so the interval is about users, not seeds.

    Args:
        section: Groups with the same data, split and protocol.
        baseline: One of them.

    Returns:
        The table, or None where nothing can be compared.
    """
    metric = baseline.chooser
    reference = baseline.per_user(f"test.{metric}")
    activity = baseline.per_user("n_train")
    if reference is None or activity is None or not baseline.finished:
        return None
    rows, kinds, refused = [], [], []
    for group in section:
        if group is baseline or not group.finished:
            continue
        values, train = group.per_user(f"test.{metric}"), group.per_user("n_train")
        if values is None or train is None or len(values) <= 1:
            refused.append(f"{group.label}: not compared, its results of single users are missing")
        elif set(values.index) != set(reference.index) or (train != activity[train.index]).any():
            refused.append(f"{group.label}: not compared, its users or their train items differ")
        else:
            values = values[reference.index]
            mean, low, high = interval((values - reference).to_numpy(dtype=np.float64))
            kinds.append(group.kind)
            rows.append(
                {
                    "Method": group.title,
                    pretty_metric(metric): f"{values.mean():.4f}",
                    "Difference": f"{mean:+.4f}",
                    "95 % interval": f"[{low:+.4f}, {high:+.4f}]",
                    "Result": "no clear difference"
                    if low <= 0 <= high
                    else ("higher" if mean > 0 else "lower"),
                }
            )
    if not rows:
        return None
    notes = (
        f"paired over {len(reference):,} users, seeds averaged first: the interval covers the "
        "choice of users, not the spread over seeds; not corrected for several comparisons",
        *refused,
    )
    title = f"Test {pretty_metric(metric)} against {baseline.label} ({reference.mean():.4f})"
    return Table(title, pd.DataFrame(rows), tuple(kinds), 1, notes)

"""Paired comparison of methods over the users they share."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy import stats

from fedrec.errors import RunFolderError
from fedrec.report.runs import Group, pretty_metric
from fedrec.report.table import Row, Table

__all__ = ["interval", "paired", "per_run", "per_user"]

LEVEL = 0.95


def per_user(group: Group, column: str) -> pd.Series[float] | None:
    """A column of the per-user results, averaged over seeds, by raw user id.

    Returns:
        float64 [n] indexed by user, users without a value left out; None where no run of the
        group has the column.
    """
    found = per_run(group, column)
    return pd.concat(found, axis=1).mean(axis=1).dropna() if found else None


def per_run(group: Group, column: str) -> list[pd.Series[float]]:
    """A column of the per-user results of each run that has it, by raw user id."""
    found = []
    for run in group.runs:
        try:
            frame = run.folder.per_user()
        except RunFolderError:
            continue
        if column in frame:
            found.append(frame.set_index("user")[column].astype("float64"))
    return found


def interval(differences: np.ndarray) -> tuple[float, float, float]:
    """Mean of paired differences with its 95 % Student interval.

    Args:
        differences: float64 [n], n from 2.

    Returns:
        Mean, lower and upper end.
    """
    n = len(differences)
    mean = float(np.mean(differences))
    error = float(np.std(differences, ddof=1)) / n**0.5
    half = float(stats.t.ppf(0.5 + LEVEL / 2, n - 1)) * error
    return mean, mean - half, mean + half


def paired(groups: Sequence[Group]) -> Table | None:
    """Each group against the first one with the same data, split and protocol.

    The unit is the user; seeds are averaged first, so the interval is about users, not seeds.

    Returns:
        The table, or None where nothing can be compared.
    """
    base = groups[0]
    metric = base.chooser
    reference = per_user(base, f"test.{metric}")
    if reference is None or not base.finished:
        return None
    rows = []
    for group in groups[1:]:
        if group.data_key != base.data_key or not group.finished:
            continue
        values = per_user(group, f"test.{metric}")
        if values is None or set(values.index) != set(reference.index) or len(values) <= 1:
            continue
        differences = (values - reference).to_numpy(dtype=np.float64)
        mean, low, high = interval(differences)
        scores = (f"{values.mean():.4f}", f"{reference.mean():.4f}")
        cells = (group.label, *scores, f"{mean:+.4f}", f"[{low:+.4f}, {high:+.4f}]")
        rows.append(Row(cells, "centralised" if group.centralised else "method"))
    if not rows:
        return None
    columns = ("Method", "Its mean", "Against", "Difference", "95 % interval")
    notes = (
        f"paired over {len(reference):,} users, seeds averaged first: the interval covers the "
        "choice of users, not the spread over seeds; not corrected for several comparisons",
    )
    title = f"Test {pretty_metric(metric)} against {base.label}"
    return Table(title, columns, tuple(rows), notes, 1)

"""The strategies of the table, with what they may be told."""

from typing import Any, get_args

from hypothesis import strategies as st

from strategies import STRATEGIES, Strategy

__all__ = ["EARLY", "choices", "strategies_of"]

EARLY: dict[str, dict[str, Any]] = {
    # The groups are made after the first of two rounds.
    "clustered": {"warmup": 1, "clusters": 2, "buckets": 4},
}


def choices(name: str, field: str) -> list[str]:
    """What a strategy takes for a field; nothing if it has none."""
    declared = STRATEGIES[name].model_fields.get(field)
    return [] if declared is None else list(get_args(declared.annotation))


@st.composite
def strategies_of(draw: st.DrawFn, name: str, means: bool = False) -> Strategy:
    """A strategy with some average and weighting; ``means``: not with plain sums."""
    fields = dict(EARLY.get(name, {}))
    for field in ("average", "weighting"):
        if offered := [c for c in choices(name, field) if not (means and c == "sum")]:
            fields[field] = draw(st.sampled_from(offered))
    return STRATEGIES[name].model_validate(fields)

"""Every aggregation with any of its options."""

from typing import Any

from hypothesis import strategies as st

from strategies.aggregations import AGGREGATIONS
from strategies.aggregations.base import Aggregation

__all__ = ["OPTIONS", "aggregations_of"]

_ROW_WISE = {
    "min_clients": st.integers(1, 5),
    "below": st.sampled_from(["median", "mean", "skip"]),
}
_MEAN = {
    "average": st.sampled_from(["per_row", "cohort", "sum"]),
    "weighting": st.sampled_from(["uniform", "examples"]),
    "floor": st.integers(0, 5),
}
_BOUNDED = {
    **_MEAN,
    "bound": st.just("median") | st.sampled_from([0.25, 1.0, 64.0]),
    "per": st.sampled_from(["update", "row"]),
}
_BYZANTINE = {**_ROW_WISE, "byzantine": st.integers(0, 2)}
OPTIONS: dict[str, dict[str, st.SearchStrategy[Any]]] = {
    "bulyan": _BYZANTINE,
    "centred_clipping": {**_BOUNDED, "average": st.sampled_from(["per_row", "cohort"])},
    "geometric_median": {
        **_ROW_WISE,
        "iterations": st.integers(1, 5),
        "smoothing": st.sampled_from([1e-6, 0.1]),
    },
    "krum": _BYZANTINE,
    "mean": _MEAN,
    "median": _ROW_WISE,
    "multi_krum": {**_BYZANTINE, "select": st.none() | st.integers(1, 4)},
    "norm_bounded": _BOUNDED,
    "q_fair": {
        "q": st.sampled_from([0.0, 0.5, 1.0, 2.0]),
        "lipschitz": st.sampled_from([0.5, 1.0]),
    },
    "trimmed_mean": {**_ROW_WISE, "trim": st.sampled_from([0.1, 0.25, 0.4])},
}


@st.composite
def aggregations_of(draw: st.DrawFn, /, name: str, **fixed: Any) -> Aggregation:
    """Draw an aggregation; some options are given."""
    drawn = {option: draw(values) for option, values in OPTIONS[name].items()}
    return AGGREGATIONS[name].model_validate({**drawn, **fixed})

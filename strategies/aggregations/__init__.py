"""How clients' changes become one; one file each."""

from collections.abc import Mapping

from strategies.aggregations.base import Aggregation
from strategies.aggregations.krum import Krum
from strategies.aggregations.mean import Mean
from strategies.aggregations.median import Median

AGGREGATIONS: Mapping[str, type[Aggregation]] = {
    "krum": Krum,
    "mean": Mean,
    "median": Median,
}

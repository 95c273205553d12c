"""How clients' changes become one; one file each."""

from collections.abc import Mapping

from strategies.aggregations.base import Aggregation
from strategies.aggregations.bulyan import Bulyan
from strategies.aggregations.centred_clipping import CentredClipping
from strategies.aggregations.geometric_median import GeometricMedian
from strategies.aggregations.krum import Krum, MultiKrum
from strategies.aggregations.mean import Mean
from strategies.aggregations.median import Median
from strategies.aggregations.norm_bounded import NormBounded
from strategies.aggregations.q_fair import QFair
from strategies.aggregations.trimmed_mean import TrimmedMean

AGGREGATIONS: Mapping[str, type[Aggregation]] = {
    "bulyan": Bulyan,
    "centred_clipping": CentredClipping,
    "geometric_median": GeometricMedian,
    "krum": Krum,
    "mean": Mean,
    "median": Median,
    "multi_krum": MultiKrum,
    "norm_bounded": NormBounded,
    "q_fair": QFair,
    "trimmed_mean": TrimmedMean,
}

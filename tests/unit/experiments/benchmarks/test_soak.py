from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.benchmarks.soak import draw, slope


@given(st.floats(-50, 50), st.integers(5, 40))
def test_the_slope_of_a_line_survives_a_few_outliers(growth: float, n: int) -> None:
    points = [(float(x), 300 + growth * x / 100) for x in range(0, 5 * n, 5)]
    points[n // 2] = (points[n // 2][0], 9999.0)
    assert slope(points) == pytest.approx(growth, abs=1e-6)


def test_the_picture_is_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="needs the extra 'sim'")
    kinds = ("ours", "driver", "workers", "daemons")
    samples = [{"round": float(n), **dict.fromkeys(kinds, 100.0 + n)} for n in range(5, 30, 5)]
    draw(samples, 100.0, tmp_path / "soak.png")
    assert (tmp_path / "soak.png").stat().st_size > 1000

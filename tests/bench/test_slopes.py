import numpy as np
import pytest

from jaxfuse.bench.record import Row
from jaxfuse.bench.slopes import last_slope, slope
from jaxfuse.bench.trends import trends


@pytest.mark.parametrize("exponent", [0.0, 1.0, 2.5, -1.0])
def test_known_exponents(exponent):
    sizes = [3, 10, 70, 64]
    values = [7.0 * size**exponent for size in sizes]
    assert slope(sizes, values) == pytest.approx(exponent, abs=1e-12)
    assert last_slope(sizes, values) == pytest.approx(exponent, abs=1e-12)


def test_last_slope_sees_past_a_fixed_cost():
    sizes = [1, 10, 100, 1000]
    values = [50 + size**2 for size in sizes]
    assert slope(sizes, values) < 1.7
    assert last_slope(sizes, values) == pytest.approx(2, abs=0.01)


def test_noise_averages_out():
    rng = np.random.default_rng(0)
    sizes = np.geomspace(1, 1e4, 40)
    assert slope(sizes, sizes**3 * np.exp(0.1 * rng.normal(size=40))) == pytest.approx(3, abs=0.05)


@pytest.mark.parametrize("bad", [([1], [1]), ([2, 2], [1, 3]), ([1, 2], [0, 1]), ([1, 2], [1])])
def test_refuses_what_has_no_slope(bad):
    with pytest.raises(ValueError, match="size"):
        slope(*bad)


def test_trends_of_a_report():
    def row(contestant, size, seconds, **more):
        predicted = {"seconds": 3.0}
        return Row(
            "s", f"a/{size}", contestant, "a", "n", size, seconds, **more, predicted=predicted
        )

    rows = [row("x", n, n**3.0, program=n**2.0) for n in (2, 4, 8)]
    rows += [row("one size", 2, 1.0), row("absent", 4, None), Row("s", "alone", "x", seconds=1.0)]
    found = {(t.contestant, t.what): t for t in trends(rows)}
    assert set(found) == {("x", "seconds"), ("x", "program")}
    time, memory = found["x", "seconds"], found["x", "program"]
    assert (time.measured, time.predicted, time.sizes) == (pytest.approx(3), 3.0, (2, 8))
    assert (memory.measured, memory.predicted) == (pytest.approx(2), None)

import dataclasses

import pytest

from jaxfuse.bench.compare import MARGIN, failures, load, of_cases, store, stored_form
from jaxfuse.bench.record import Report, Row
from jaxfuse.bench.timing import Ratio


def peer(ratio=1.0, low=None, best=None, **quality):
    spread = Ratio(ratio, low or ratio, ratio, best or ratio)
    return Row("check", "a/n=1", "SciPy", seconds=1.0, ratio=spread, quality=quality)


OURS = Row("check", "a/n=1", "jaxfuse", seconds=1.0, quality={"units": 1.0, "error": 1e-4})


def stored(*rows):
    return stored_form(Report({"device": "cpu"}, "today", True, rows=rows))


def test_the_same_run_passes():
    assert failures([OURS, peer()], stored(OURS, peer())) == []


def test_within_the_margin_passes_and_beyond_fails():
    within, beyond = peer(1 + 0.9 * MARGIN), peer(1 + 1.1 * MARGIN)
    assert failures([OURS, within], stored(OURS, peer())) == []
    (failure,) = failures([OURS, beyond], stored(OURS, peer()))
    assert failure.row == "a/n=1 | SciPy"
    assert f"limit {1 + MARGIN:.3g}" in failure.what


def test_slow_rounds_fail_nothing():
    assert failures([peer(10.0, low=1.0)], stored(peer())) == []
    assert failures([peer(10.0, best=1.0)], stored(peer())) == []


def test_absolute_times_do_not_count():
    slow = dataclasses.replace(OURS, seconds=1000.0)
    assert failures([slow, peer()], stored(OURS, peer())) == []


def test_a_margin_may_be_given():
    assert failures([peer(3.0)], stored(peer()), 5.0) == []
    assert len(failures([peer(1.2)], stored(peer()), 0.1)) == 1


def test_missing_rows_are_named():
    absent = Row("check", "a/n=1", "SciPy", note="needs lapx")
    (gone,) = failures([OURS], stored(OURS, peer()))
    (unable,) = failures([OURS, absent], stored(OURS, peer()))
    assert gone.row == unable.row == "a/n=1 | SciPy"
    assert "needs lapx" in unable.what


def test_new_rows_pass():
    assert failures([OURS, peer(100.0)], stored(OURS)) == []


@pytest.mark.parametrize(
    ("quality", "word"),
    [({"units": 0.99, "error": 1e-4}, "units"), ({"units": 1.0, "error": 1e-3}, "error")],
)
def test_a_worse_matching_fails_however_fast(quality, word):
    worse = dataclasses.replace(OURS, quality=quality)
    (failure,) = failures([worse], stored(OURS))
    assert word in failure.what


def test_rounding_fails_nothing():
    near = dataclasses.replace(OURS, quality={"units": 0.9999, "error": 1.5e-4})
    assert failures([near], stored(OURS)) == []


def test_the_file(tmp_path):
    file = tmp_path / "stored.json"
    with pytest.raises(ValueError, match="--update"):
        load(file)
    report = Report({"device": "cpu"}, "today", True, rows=(OURS, peer()))
    store(report, file)
    assert load(file) == stored_form(report)

    other = dataclasses.replace(OURS, case="b/n=1")
    store(dataclasses.replace(report, rows=(other,)), file, keep=True)
    assert list(load(file)["rows"]) == ["a/n=1 | jaxfuse", "a/n=1 | SciPy", "b/n=1 | jaxfuse"]
    assert list(of_cases(load(file), {"b/n=1"})["rows"]) == ["b/n=1 | jaxfuse"]

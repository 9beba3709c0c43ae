"""Real processes: a SuperLink and SuperNodes that speak TLS on loopback."""

import re
from pathlib import Path

import numpy as np
import pytest

from benchmarks.federated.flower_app.processes import deployed

APP = Path(__file__).parent / "faulty_app"


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Two rounds with clients of which one sends NaN, one wrong shapes, and one is killed."""
    folder = tmp_path_factory.mktemp("flower")
    result = folder / "result.npz"
    with deployed(folder, nodes=4) as federation:
        log = federation.run(APP, {"result": str(result)})
    return log, dict(np.load(result))


def test_the_network_is_that_of_the_sound_clients(finished):
    _, made = finished
    # Round 1 averages clients 0 and 3 by their 10 and 40 examples, round 2 has client 0 alone.
    moved = (10 * 1 + 40 * 4) / 50 + 1
    start = np.arange(12, dtype=np.float64).reshape(3, 4)
    np.testing.assert_allclose(made["dense/0/kernel"], start + moved, rtol=1e-6)
    np.testing.assert_array_equal(made["dense/1/kernel"], np.ones((4, 2)))


@pytest.mark.parametrize(
    ("times", "reason"),
    [
        (2, "leaf 'dense/0/kernel' is not finite: 1 of 12 entries"),
        (2, "leaf 'dense/0/kernel' has shape (4, 3), and the model's is (3, 4)"),
        (1, "no reply before the round's timeout"),
    ],
)
def test_the_log_says_who_was_left_out_and_why(finished, times, reason):
    log, _ = finished
    assert len(re.findall(r"round 1 .* node \d+: " + re.escape(reason), log)) == times, log


def test_the_metrics_count_them(finished):
    log, _ = finished
    what = ("used", "refused", "failed")
    counts = [re.findall(rf"'clients-{each}': (\d)", log) for each in what]
    assert counts == [["2", "1"], ["2", "2"], ["0", "1"]], log


def test_nodes_keep_their_state_from_round_to_round(finished):
    log, _ = finished
    means = re.findall(r"Aggregated MetricRecord: {'rounds': ([0-9.]+)", log)
    assert [float(mean) for mean in means] == pytest.approx([1.0, 2.0]), log

from dataclasses import replace

import jax
import numpy as np
import pytest

from jaxfuse.bench.cases.gaussian import centred
from jaxfuse.bench.cases.sinkhorn import reference
from jaxfuse.bench.planted import judge_batch, plant_graph, plant_mlp, plant_model
from jaxfuse.bench.reach import limited, reach
from jaxfuse.bench.weight_matching import linear_objective, weight_matching
from jaxfuse.methods import METHODS
from jaxfuse.symmetry import permute


def test_truth_undoes_the_order():
    planted = plant_mlp((6, 5), inputs=4, noise=0.0)
    a, b = planted.networks
    back = permute(b, planted.symmetry, planted.truths[0])
    jax.tree.map(np.testing.assert_array_equal, dict(back), a)


def test_the_loop_finds_a_planted_residual_network():
    # Zero-padded shortcuts: leaves that are direct sums of groups.
    planted = plant_model("resnet20", width=0.25, noise=0.1)
    found, _ = weight_matching(*planted.networks, planted.symmetry, seed=0)
    quality = planted.judge(found)
    assert quality["units"] == 1.0
    assert quality["of_planted"] == pytest.approx(1.0)


def test_judge_tells_good_from_bad():
    planted = plant_mlp((16, 16), inputs=8, noise=0.1)
    own = {group: np.arange(size) for group, size in planted.symmetry.sizes}
    assert planted.judge(planted.truths[0])["units"] == 1.0
    bad = planted.judge(own)
    assert bad["units"] < 0.5
    assert bad["of_planted"] < 0.5
    batched = {group: np.stack([order, order]) for group, order in planted.truths[0].items()}
    assert judge_batch([planted, planted], batched)["of_planted"] == pytest.approx(1.0)


def test_many_networks_are_judged_over_all_pairs():
    planted = plant_mlp((8,), inputs=4, copies=2, noise=0.3)
    orders = [{g: np.arange(n) for g, n in planted.symmetry.sizes}, *planted.truths]
    found = {g: np.stack([order[g] for order in orders]) for g, _ in planted.symmetry.sizes}
    quality = planted.judge_many(found)
    moved = [permute(n, planted.symmetry, o) for n, o in zip(planted.networks, orders, strict=True)]
    own = orders[0]
    pairs = [
        linear_objective(moved[i], moved[j], planted.symmetry, own)
        for i, j in ((0, 1), (0, 2), (1, 2))
    ]
    assert quality["objective"] == pytest.approx(sum(pairs))
    assert quality["units"] == quality["of_planted"] == 1.0


def test_a_graph_carries_one_group_twice():
    planted = plant_graph(7, noise=0.0)
    assert planted.judge({"nodes": planted.truths[0]["nodes"]})["units"] == 1.0
    a, b = (network["edges/kernel"] for network in planted.networks)
    order = planted.truths[0]["nodes"]
    np.testing.assert_array_equal(b[np.ix_(order, order)], a)


def test_statistics_are_not_drawn_nor_worn():
    planted = plant_model("resnet20", width=0.25)
    a, b = planted.networks
    for path in a:
        if path.endswith("var"):
            assert (a[path] == 1).all()
            assert (b[path] == 1).all()


def test_reach_finds_the_smallest_limit():
    tried = []

    def compiled(limit):
        tried.append(limit)
        return lambda: 100 if limit is None else limit

    def seconds(call):
        return float(call())

    assert reach(compiled, float, seconds, 5.0) == 5.0
    assert tried == [1, 2, 4, 8, 6, 5]
    assert reach(compiled, float, seconds, 100.0) == 100.0
    assert reach(compiled, float, seconds, 101.0) is None


def test_limits_reach_into_a_portfolio():
    portfolio = METHODS["portfolio"].method
    solver = limited(portfolio, 3)
    assert solver.polish is None
    assert solver.solvers[0].max_iterations == 3
    # In so few sweeps it does not get beyond its opening.
    assert limited(portfolio, 1) == replace(portfolio.opening, max_sweeps=1)


def test_sinkhorn_reference_is_doubly_stochastic():
    plan = reference(np.random.default_rng(0).normal(size=(9, 9)))
    assert abs(plan.sum(axis=0) - 1).max() < 1e-8
    assert abs(plan.sum(axis=1) - 1).max() < 1e-8


def test_centring_removes_rows_and_columns():
    rng = np.random.default_rng(0)
    matrix = rng.normal(size=(4, 4))
    shifted = matrix + rng.normal(size=(4, 1)) + rng.normal(size=(1, 4))
    np.testing.assert_allclose(centred(shifted), centred(matrix), atol=1e-12)

"""J of many networks, its scores and its two-model problems, against float64 NumPy."""

import itertools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfuse.affinity import ExactGaussian, Linear
from jaxfuse.assignment import permutation_matrix
from jaxfuse.many import build_many, pairwise
from jaxfuse.many.segment import values_along
from jaxfuse.many.universe import rebase, widen
from jaxfuse.matching.nodes import flatten
from tests.many.instances import (
    AXES,
    SIZES,
    build,
    independent,
    objective,
    objective_at,
    soft_matchings,
)
from tests.oracles import many as oracle
from tests.oracles import nested as nested_oracle
from tests.symmetry.nested import NETWORKS, draw, on_device


@pytest.fixture(scope="module")
def networks():
    return independent(1)


@pytest.fixture(scope="module")
def problem(networks):
    return build(*networks)


def random_orders(seed, count=4, sizes=SIZES):
    rng = np.random.default_rng(seed)
    return {
        g: np.stack([rng.permutation(n) for _ in range(count)]).astype(np.int32)
        for g, n in sizes.items()
    }


def test_objective_is_the_sum_over_pairs(networks, problem):
    soft = soft_matchings(0)
    want = oracle.objective(networks[0], AXES, soft)
    np.testing.assert_allclose(objective(problem, soft), want, rtol=1e-5)
    orders = random_orders(0)
    want = oracle.objective_at(networks[0], AXES, orders)
    np.testing.assert_allclose(objective_at(problem, orders), want, rtol=1e-4)


def test_scores_are_the_gradient(networks, problem):
    soft = soft_matchings(0)
    got = jax.jit(problem.scores)(soft)
    want = oracle.scores(networks[0], AXES, soft, 2)
    for group in SIZES:
        np.testing.assert_allclose(got[group][2], want[group], rtol=1e-4, atol=1e-4)


def test_nested_groups(key):
    shapes, symmetry = NETWORKS["grouped_query"](e=3, kv=2, g=2, qk=2, vo=1)
    trees = [draw(shapes, seed) for seed in range(3)]
    problem = build([on_device(tree) for tree in trees], symmetry)
    own = [nested_oracle.draw(symmetry, seed) for seed in range(3)]
    flat = [flatten(symmetry, p) for p in own]
    orders = {node: jnp.stack([each[node] for each in flat]) for node in flat[0]}
    want = 0.0
    for pair in itertools.combinations(range(3), 2):
        for tensor in symmetry.tensors:
            a, b = (
                nested_oracle.permute_block(
                    tensor.take(np.float64(trees[k][tensor.path])), tensor, symmetry, own[k]
                )
                for k in pair
            )
            want += np.vdot(a, b)
    soft = {node: jnp.swapaxes(permutation_matrix(o), 1, 2) for node, o in orders.items()}
    np.testing.assert_allclose(objective_at(problem, orders), want, rtol=1e-4)
    np.testing.assert_allclose(objective(problem, soft), want, rtol=1e-4)


@pytest.fixture(scope="module")
def activations():
    """Scores `[K, K, n, n]` of group r, each the transpose of its mirror image."""
    half = np.random.default_rng(0).standard_normal((4, 4, 4, 4))
    return np.float32(half + half.transpose(1, 0, 3, 2))


def test_pairs_count_once_for_every_two_networks(problem, activations):
    both = replace(problem, pairs={"r": jnp.asarray(activations)})
    soft, orders = soft_matchings(3), random_orders(3)
    added = sum(
        np.einsum("iu,ij,ju->", soft["r"][k], activations[k, m], soft["r"][m])
        for k, m in itertools.combinations(range(4), 2)
    )
    difference = objective(both, soft) - objective(problem, soft)
    np.testing.assert_allclose(difference, added, rtol=1e-3, atol=1e-3)
    added = sum(
        activations[k, m][orders["r"][k], orders["r"][m]].sum()
        for k, m in itertools.combinations(range(4), 2)
    )
    difference = objective_at(both, orders) - objective_at(problem, orders)
    np.testing.assert_allclose(difference, added, rtol=1e-3, atol=1e-3)


def test_sets_of_networks_are_matched_by_their_sums(networks, problem, activations):
    both = replace(problem, pairs={"r": jnp.asarray(activations)})
    orders, then = random_orders(4), random_orders(5, count=1)
    moved = {g: np.array(o) for g, o in orders.items()}
    for g, order in moved.items():
        order[[1, 3]] = order[[1, 3]][:, then[g][0]]
    # J of everything less J within the two sets.
    within = sum(
        oracle.objective_at(
            [networks[0][k] for k in pair], AXES, {g: o[list(pair)] for g, o in moved.items()}
        )
        + activations[pair][moved["r"][pair[0]], moved["r"][pair[1]]].sum()
        for pair in ((0, 2), (1, 3))
    )
    whole = objective_at(both, moved)
    left, right = jnp.array([1.0, 0.0, 1.0, 0.0]), jnp.array([0.0, 1.0, 0.0, 1.0])
    two = jax.jit(both.between)(left, right, orders)
    got = two.objective_at({g: p[0] for g, p in then.items()})
    np.testing.assert_allclose(got, whole - within, rtol=1e-4, atol=1e-3)


def test_values_along_a_segment(networks, problem):
    soft, corner = soft_matchings(6), random_orders(6)
    hard = {g: np.stack([np.eye(o.shape[1])[row].T for row in o]) for g, o in corner.items()}
    got = jax.jit(values_along)(problem, soft, corner)
    want = [
        oracle.objective(networks[0], AXES, {g: (1 - t) * soft[g] + t * hard[g] for g in soft})
        for t in np.linspace(0, 1, 5)
    ]
    np.testing.assert_allclose(got, want, rtol=1e-4)


def test_cycles_close_exactly():
    orders = random_orders(7)
    matched = jax.jit(lambda orders: [pairwise(orders, *two) for two in ((1, 2), (2, 3), (1, 3))])
    first, second, both = jax.device_get(matched(orders))
    for group, p in both.items():
        np.testing.assert_array_equal(second[group][first[group]], p)
        # Unit i of network 1 and unit P[i] of network 3 are one unit of the universe.
        slots = np.argsort(orders[group][1])
        np.testing.assert_array_equal(orders[group][3][slots], p)
    for order in jax.device_get(jax.jit(rebase)(orders)).values():
        np.testing.assert_array_equal(order[0], np.arange(order.shape[1]))


def test_what_a_universe_refuses(problem):
    assert widen(problem, 1.0) is problem
    assert widen(problem, 1.5).sizes == {"r": 6, "h0": 5}
    with pytest.raises(ValueError, match="width is 1 or more"):
        widen(problem, 0.5)
    shapes, symmetry = NETWORKS["block_recurrent"](h=2, d=2)
    nested = build_many([on_device(draw(shapes, s)) for s in (0, 1)], symmetry, Linear())
    with pytest.raises(ValueError, match="indexed by those of 'h'"):
        widen(nested, 1.5)
    with pytest.raises(ValueError, match="has no features"):
        build_many(*independent(0), ExactGaussian())

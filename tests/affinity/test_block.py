"""Blocks against the affinity tensor in full, and against automatic differentiation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfuse.affinity import ExactGaussian, FeatureBlock, Gaussian, Linear, edges
from jaxfuse.symmetry import TensorAxes
from tests.oracles import affinity as oracle

N, M, E = 5, 4, 3


def normalised(a, b):
    """Return the linear affinity of edges over the root of their mean square in both."""
    square = (np.mean(np.float64(a) ** 2) + np.mean(np.float64(b) ** 2)) / 2
    return oracle.linear(a, b) / square


AFFINITIES = {
    "linear": (Linear(), oracle.linear),
    "normalised": (Linear(normalised=True), normalised),
    "exact": (ExactGaussian(1.0), lambda a, b: oracle.gaussian(a, b, 1.0)),
    "pallas": (ExactGaussian(1.0, kernel="pallas"), lambda a, b: oracle.gaussian(a, b, 1.0)),
    "tiled": (ExactGaussian(1.0, memory=1e-6), lambda a, b: oracle.gaussian(a, b, 1.0)),
    "gaussian": (Gaussian(1.0, rank=40), lambda a, b: oracle.gaussian(a, b, 1.0)),
}


@pytest.fixture(scope="module", params=AFFINITIES)
def case(request):
    """A block, its oracle tensor, soft matchings and permutations."""
    affinity, full = AFFINITIES[request.param]
    keys = jax.random.split(jax.random.key(0), 4)
    a, b = jax.random.normal(keys[0], (N, M, E)), jax.random.normal(keys[1], (N, M, E))
    soft = jax.random.uniform(keys[2], (N, N)), jax.random.uniform(keys[3], (M, M))
    hard = jax.random.permutation(keys[2], N), jax.random.permutation(keys[3], M)
    return jax.jit(affinity.block)(a, b), full(a, b), soft, hard


def test_value_and_gradients_match_the_full_tensor(case):
    block, k, (p, q), _ = case
    value, (dp, dq) = jax.jit(jax.value_and_grad(block.value, argnums=(0, 1)))(p, q)
    np.testing.assert_allclose(value, oracle.value(k, p, q), rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(dp, oracle.row_scores(k, q), rtol=1e-4, atol=2e-4)
    np.testing.assert_allclose(dq, oracle.column_scores(k, p), rtol=1e-4, atol=2e-4)


def test_hard_value_and_scores_match_one_hot_matrices(case):
    block, k, _, (p, q) = case
    eye_p, eye_q = np.eye(N)[np.asarray(p)], np.eye(M)[np.asarray(q)]
    np.testing.assert_allclose(
        block.value_at(p, q), oracle.value(k, eye_p, eye_q), rtol=1e-4, atol=1e-4
    )
    np.testing.assert_allclose(
        block.row_scores(q), oracle.row_scores(k, eye_q), rtol=1e-4, atol=1e-4
    )
    np.testing.assert_allclose(
        block.column_scores(p), oracle.column_scores(k, eye_p), rtol=1e-4, atol=1e-4
    )


def test_second_moment_has_unit_mean_energies(case):
    block, *_ = case
    moment = jax.jit(block.second_moment)()
    shapes = [jnp.shape(part) for part in moment]
    assert shapes == [(), (N,), (M,), (N,), (M,)]
    assert moment.scale > 0
    for energy in moment[1:]:
        np.testing.assert_allclose(jnp.mean(energy), 1.0, rtol=1e-5)


def test_second_moment_of_unrelated_edges_is_the_variance_of_their_products(key):
    ka, kb = jax.random.split(key)
    a, b = jax.random.normal(ka, (40, 30, 2)), 3 * jax.random.normal(kb, (40, 30, 2))
    products = oracle.linear(a, b)
    scale = jax.jit(lambda: Linear().block(a, b).second_moment().scale)()
    np.testing.assert_allclose(scale, np.mean(products**2), rtol=0.1)


@pytest.mark.parametrize("name", AFFINITIES)
def test_node_scores_sum_the_affinity_over_pinned_units(key, name):
    affinity, full = AFFINITIES[name]
    ka, kb = jax.random.split(key)
    a, b = jax.random.normal(ka, (N, M, E)), jax.random.normal(kb, (N, M, E))
    want = oracle.row_scores(full(a, b), np.eye(M))
    np.testing.assert_allclose(jax.jit(affinity.node_scores)(a, b), want, rtol=1e-4, atol=1e-4)


def test_value_under_vmap_equals_the_loop(key):
    a, b = jax.random.normal(key, (2, 3, N, 2, M))
    p, q = jnp.full((N, N), 1 / N), jnp.eye(M)
    blocks = FeatureBlock(a, b)
    batched = jax.vmap(lambda block: block.value(p, q))(blocks)
    single = [FeatureBlock(a[i], b[i]).value(p, q) for i in range(3)]
    np.testing.assert_allclose(batched, jnp.stack(single), rtol=1e-5)


@pytest.mark.parametrize(
    ("shape", "groups", "edge", "want"),
    [
        ((7,), ("g",), (), (7, 1, 1)),
        ((3, 7), (None, "g"), (), (7, 3, 1)),
        ((7, 3), ("g", None), (), (7, 3, 1)),
        ((4, 7), ("g", "h"), (), (4, 7, 1)),
        ((2, 2, 3, 7), (None, None, None, "g"), (0, 1), (7, 3, 4)),
        ((7, 3, 2, 2), ("g", None, None, None), (2, 3), (7, 3, 4)),
        ((5, 4, 7), (None, "g", "h"), (0,), (4, 7, 5)),
    ],
)
def test_edges_shape_and_entries(shape, groups, edge, want):
    leaf = jnp.arange(float(np.prod(shape))).reshape(shape).astype(jnp.bfloat16)
    got = edges(leaf, TensorAxes("w", shape, groups, edge))
    assert got.shape == want
    assert got.dtype == jnp.float32
    np.testing.assert_array_equal(np.sort(got.ravel()), np.sort(np.float32(leaf).ravel()))
    carrier = groups.index("g")
    np.testing.assert_array_equal(
        np.sort(got[1].ravel()), np.sort(np.take(np.float32(leaf), 1, carrier).ravel())
    )


def test_edges_refuses_three_groups():
    with pytest.raises(ValueError, match="3 axes of leaf 'w'"):
        edges(jnp.ones((2, 2, 2)), TensorAxes("w", (2, 2, 2), ("f", "g", "h")))

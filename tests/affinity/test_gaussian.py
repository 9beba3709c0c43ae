"""The Gaussian affinity: its features, its bandwidth, its rank."""

import functools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfuse.affinity import ExactGaussian, Gaussian, Linear
from jaxfuse.affinity.bandwidth import squared_bandwidth, strided_sample
from jaxfuse.affinity.gaussian import hermite_features
from jaxfuse.affinity.rank import RANKS, resolve_rank, score_error
from jaxfuse.matching import Problem
from jaxfuse.symmetry import Symmetry
from tests.matching.instances import alone
from tests.oracles import affinity as oracle
from tests.oracles.matching import Objective


@functools.partial(jax.jit, static_argnums=0)
def node_scores(affinity, a, b):
    return affinity.node_scores(a, b)


@pytest.fixture(scope="module")
def kernels():
    """Two layers of 24 x 24 kernels 3x3: heavy tails, and taps correlated with their neighbours."""
    positions = np.stack(np.meshgrid(range(3), range(3)), -1).reshape(9, 2)
    distance = np.linalg.norm(positions[:, None] - positions[None], axis=-1)
    root = np.linalg.cholesky(np.exp(-distance / 2))
    taps = np.random.default_rng(0).standard_t(4, (2, 24, 24, 9)) @ root.T
    return tuple(jnp.asarray(taps, jnp.float32))


@pytest.fixture(scope="module")
def score_errors(kernels):
    """Double-centred relative error of the scores, by bandwidth and rank."""
    a, b = kernels
    errors = {}
    for bandwidth, ranks in ((1.0, (16, 64)), (2.0, (64,))):
        k = oracle.gaussian(a, b, bandwidth)
        exact = oracle.double_centred(oracle.row_scores(k, np.eye(a.shape[1])))
        for rank in ranks:
            scores = np.float64(node_scores(Gaussian(bandwidth, rank), a, b))
            difference = oracle.double_centred(scores) - exact
            errors[bandwidth, rank] = np.linalg.norm(difference) / np.linalg.norm(exact)
    return errors


@pytest.mark.parametrize(("bandwidth", "bound"), [(1.0, 0.064), (2.0, 0.029)])
def test_nystrom_error_of_64_features(score_errors, bandwidth, bound):
    assert score_errors[bandwidth, 64] <= bound


def test_nystrom_error_falls_with_rank_and_bandwidth(score_errors):
    assert score_errors[2.0, 64] < score_errors[1.0, 64] < score_errors[1.0, 16]


@pytest.mark.parametrize("bandwidth", [1.0, 8.0])
def test_hermite_features_of_scalar_edges(key, bandwidth):
    a, b = jax.random.normal(key, (2, 6, 5, 1)) * 0.02 + 5.0
    features_a, features_b = jax.jit(Gaussian(bandwidth, terms=64).features)(a, b)
    assert features_a.shape == (6, 64, 5)
    got = jnp.einsum("ira,jrb->iajb", features_a, features_b, precision="highest")
    np.testing.assert_allclose(got, oracle.gaussian(a, b, bandwidth), atol=1e-5)


def test_hermite_terms():
    x = jnp.linspace(-2.0, 2.0, 9)
    features = hermite_features(x, 40)
    want = np.exp(-np.square(np.subtract.outer(x, x)) / 2)
    np.testing.assert_allclose(features @ features.T, want, atol=2e-6)
    assert hermite_features(x, 1).shape == (9, 1)


def test_features_of_more_landmarks_than_edges_are_exact(key):
    a, b = jax.random.normal(key, (2, 3, 2, 4))
    features_a, features_b = jax.jit(Gaussian(2.0, rank=64).features)(a, b)
    got = jnp.einsum("ira,jrb->iajb", features_a, features_b, precision="highest")
    np.testing.assert_allclose(got, oracle.gaussian(a, b, 2.0), atol=1e-4)


@pytest.mark.parametrize("multiple", [0.5, 8.0])
def test_bandwidth_is_a_multiple_of_the_median(key, multiple):
    a, b = jax.random.normal(key, (2, 5, 7, 3))
    want = multiple * np.median(oracle.squared_distances(a, b))
    np.testing.assert_allclose(squared_bandwidth((a, b), multiple), want, rtol=1e-5)
    np.testing.assert_allclose(squared_bandwidth((9 * a, 9 * b), multiple), 81 * want, rtol=1e-5)


def test_bandwidth_of_constant_edges_is_positive():
    assert squared_bandwidth([jnp.ones((3, 3, 2))] * 2, 2.0) == 2.0


@pytest.mark.parametrize("affinity", [Gaussian(rank=8, terms=8), ExactGaussian()])
@pytest.mark.parametrize("taps", [1, 4])
def test_constant_edges_have_affinity_one(affinity, taps):
    edges = jnp.full((3, 2, taps), 7.0)
    np.testing.assert_allclose(
        node_scores(affinity, edges, edges), jnp.full((3, 3), 2.0), rtol=1e-4
    )


def test_strided_sample_takes_distinct_edges():
    edges = jnp.arange(1200.0).reshape(30, 40, 1)
    sample = np.asarray(strided_sample(edges, 100)).ravel()
    assert sample.shape == (100,)
    assert len(np.unique(sample)) == 100
    assert len(np.unique(sample // 40)) > 25
    assert strided_sample(edges, 5000).shape == (1200, 1)


def test_wide_gaussian_has_the_optimum_of_the_linear_affinity(key):
    ka, kb = jax.random.split(key)
    a, b = jax.random.normal(ka, (4, 5, 1)), jax.random.normal(kb, (4, 5, 1))
    nodes = {"g": np.zeros((4, 4)), "h": np.zeros((5, 5))}
    _, best = Objective(nodes, [("g", "h", oracle.linear(a, b))]).optimum()
    block = jax.jit(Gaussian(300.0, terms=16).block)(a, b)
    problem = Problem({g: jnp.zeros_like(c) for g, c in nodes.items()}, *alone(block, "g", "h"))
    hard = {g: jnp.asarray(p) for g, p in best.items()}
    wide = Objective(nodes, [("g", "h", oracle.gaussian(a, b, 300.0))])
    maximum, _ = wide.optimum()
    np.testing.assert_allclose(problem.objective_at(hard), maximum, rtol=1e-6)
    np.testing.assert_allclose(wide.value_at(best), maximum, rtol=1e-12)
    short, linear = block.row_scores(hard["h"]), Linear().block(a, b).row_scores(hard["h"])
    short, linear = (oracle.double_centred(np.float64(s)) for s in (short, linear))
    assert np.corrcoef(short.ravel(), linear.ravel())[0, 1] > 0.999


def test_resolve_rank_takes_the_smallest_that_keeps_the_tolerance(kernels):
    a, b = ({"kernel": jnp.transpose(k, (2, 0, 1)).reshape(3, 3, 24, 24)} for k in kernels)
    symmetry = Symmetry.from_axes({"kernel": (None, None, "g", "h")}, a)
    loose, tight = (resolve_rank(Gaussian(8.0), a, b, symmetry, t) for t in (0.5, 0.03))
    errors = [score_error(replace(tight, rank=rank), *kernels) for rank in RANKS[:3]]
    assert loose.rank == 8
    assert tight.rank == RANKS[next(i for i, error in enumerate(errors) if error <= 0.03)]
    assert tight.bandwidth == 8.0
    assert tight.terms == RANKS[0]


def test_score_error_of_constant_edges_is_zero():
    constant = jnp.ones((4, 4, 1))
    assert score_error(Gaussian(8.0, terms=4), constant, constant) == 0.0


@pytest.mark.parametrize(
    "settings", [{"bandwidth": 0.0}, {"rank": 0}, {"terms": 0}], ids=lambda s: next(iter(s))
)
def test_settings_must_be_positive(settings):
    with pytest.raises(ValueError, match="must be positive"):
        Gaussian(**settings)

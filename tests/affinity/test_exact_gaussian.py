"""The exact Gaussian block against the kernel tensor in float64, and what its passes cost."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import jaxprs_in_params

from jaxfuse.affinity import ExactGaussian
from jaxfuse.affinity.exact_gaussian import soft_scores
from jaxfuse.affinity.gaussian_pallas import pallas_scores
from jaxfuse.affinity.gaussian_sums import LONGEST, paired_scores, tiled_scores
from tests.oracles import affinity as oracle

BUDGET = 2**26
# n, m, l, k, e: alone, ragged, more than a tile of columns, long edges.
SHAPES = [(1, 1, 1, 1, 1), (5, 7, 3, 6, 4), (9, 6, 131, 5, 2), (4, 5, 6, 3, LONGEST + 1)]


def draw(shape, seed=0):
    n, m, length, k, e = shape
    rng = np.random.default_rng(seed)
    a, b = rng.standard_normal((n, m, e)), rng.standard_normal((length, k, e))
    q, p = rng.standard_normal((m, k)), rng.standard_normal((n, length))
    return [jnp.asarray(x / e**0.5, jnp.float32) for x in (a, b)] + [jnp.float32(q), jnp.float32(p)]


def kernel(a, b):
    return np.exp(-oracle.squared_distances(a, b))


@pytest.mark.parametrize("scores", [tiled_scores, pallas_scores])
@pytest.mark.parametrize("budget", [1, BUDGET])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_scores_are_weighted_sums_of_the_kernel(scores, shape, budget):
    a, b, q, _ = draw(shape)
    got = jax.jit(functools.partial(scores, budget=budget))(a, b, q)
    np.testing.assert_allclose(got, oracle.row_scores(kernel(a, b), q), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("budget", [1, BUDGET])
@pytest.mark.parametrize("shape", [(5, 7, 3, 7, 4), (3, 70, 4, 70, 1), (4, 5, 6, 5, LONGEST + 1)])
def test_paired_scores_are_those_of_the_identity(shape, budget):
    a, b, *_ = draw(shape)
    got = jax.jit(functools.partial(paired_scores, budget=budget))(a, b)
    want = oracle.row_scores(kernel(a, b), np.eye(shape[1]))
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


def test_more_units_than_a_tile_of_either_kernel_holds():
    a, b, q, _ = draw((40, 36, 70, 300, 1))
    want = oracle.row_scores(kernel(a, b), q)
    for scores in (tiled_scores, pallas_scores):
        got = jax.jit(functools.partial(scores, budget=2**15))(a, b, q)
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["tiles", "pallas"])
def test_gradients_by_weights_and_edges(name):
    a, b, q, p = draw((4, 6, 5, 3, 2))
    value = jax.jit(
        jax.grad(lambda *of: jnp.vdot(p, soft_scores(*of, BUDGET, name)), argnums=(0, 1, 2))
    )
    by_a, by_b, by_q = value(a, b, q)
    k = kernel(a, b)
    weighted = np.einsum("ij,iajb,ab->iajb", np.float64(p), k, np.float64(q))
    apart = np.float64(a)[:, :, None, None] - np.float64(b)[None, None]
    pull = -2 * weighted[..., None] * apart
    np.testing.assert_allclose(by_q, oracle.column_scores(k, p), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(by_a, pull.sum(axis=(2, 3)), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(by_b, -pull.sum(axis=(0, 1)), rtol=1e-4, atol=1e-5)


def count_exponentials(function, *arguments):
    """Return how many exponentials of the jaxpr, each of a whole pass, a function takes."""

    def count(jaxpr):
        own = sum(equation.primitive.name == "exp" for equation in jaxpr.eqns)
        return own + sum(count(sub) for each in jaxpr.eqns for sub in jaxprs_in_params(each.params))

    return count(jax.make_jaxpr(function)(*arguments).jaxpr)


def test_one_pass_gives_the_value_and_a_gradient_and_two_give_both():
    a, b, q, p = draw((5, 6, 5, 6, 2))
    block = jax.jit(ExactGaussian().block)(a, b)
    passes = [
        count_exponentials(function, p, q)
        for function in (
            block.value,
            jax.value_and_grad(block.value),
            jax.value_and_grad(block.value, argnums=1),
            jax.value_and_grad(block.value, argnums=(0, 1)),
        )
    ]
    assert passes == [passes[0], passes[0], 2 * passes[0], 2 * passes[0]]
    assert passes[0] > 0


def test_memory_is_far_below_that_of_the_kernel_values():
    shapes = [jax.ShapeDtypeStruct((64, 64, 9), jnp.float32)] * 2
    weights = jax.ShapeDtypeStruct((64, 64), jnp.float32)
    program = jax.jit(lambda a, b, q: tiled_scores(a, b, q, 2**18)).lower(*shapes, weights)
    assert program.compile().memory_analysis().temp_size_in_bytes < 64**4 * 4 / 16


@pytest.mark.parametrize("name", ["tiles", "pallas"])
def test_values_and_gradients_under_vmap_equal_the_loop(name):
    drawn = [draw((4, 3, 4, 3, 2), seed) for seed in range(3)]
    blocks = [jax.jit(ExactGaussian(2.0, kernel=name).block)(a, b) for a, b, *_ in drawn]
    slopes = jax.value_and_grad(lambda block, p, q: block.value(p, q), argnums=(1, 2))
    operands = [(block, p, q) for block, (_, _, q, p) in zip(blocks, drawn, strict=True)]
    batched = jax.jit(jax.vmap(slopes))(*jax.tree.map(lambda *x: jnp.stack(x), *operands))
    single = jax.tree.map(lambda *x: jnp.stack(x), *(jax.jit(slopes)(*each) for each in operands))
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6), batched, single
    )


def test_equal_edges_far_from_all_others_have_kernel_one():
    edges = jnp.asarray(np.random.default_rng(0).normal(size=(2, 3, 4)) * 300 + 7000, jnp.float32)
    scores = jax.jit(lambda x: tiled_scores(x, x, jnp.eye(3), BUDGET))(edges)
    np.testing.assert_allclose(scores, 3 * np.eye(2), rtol=1e-6)


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_the_pallas_kernel_lowers_for_accelerators(platform):
    shapes = [jax.ShapeDtypeStruct(s, jnp.float32) for s in ((40, 9, 9), (70, 300, 9), (9, 300))]
    scores = jax.jit(lambda a, b, q: pallas_scores(a, b, q, BUDGET))
    lowered = scores.trace(*shapes).lower(lowering_platforms=(platform,)).as_text()
    assert {"cuda": "triton", "tpu": "tpu_custom_call"}[platform] in lowered


@pytest.mark.parametrize("settings", [{"bandwidth": 0.0}, {"memory": 0.0}, {"kernel": "dense"}])
def test_settings_are_checked(settings):
    with pytest.raises(ValueError, match=next(iter(settings))):
        ExactGaussian(**settings)

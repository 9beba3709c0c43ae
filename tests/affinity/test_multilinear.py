"""Blocks of several carriers against nested loops, and against automatic differentiation."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfuse.affinity import ExactGaussian, Gaussian, Linear
from jaxfuse.affinity.multilinear import MultilinearBlock, multilinear_block
from jaxfuse.affinity.terms import list_terms
from jaxfuse.assignment.permutation import permutation_matrix
from tests.oracles.nested import multilinear
from tests.symmetry.nested import draw, grouped_query, on_device

# Axes of the moving units, and per carrier its own: what indexes it, and its units.
CASES = {
    "three groups": ((2, 3, 2), ((0,), (1,), (2,))),
    "grouped convolution": ((2, 3, 2), ((0, 1), (0, 2))),
    "grouped queries": ((2, 2, 2, 2), ((0,), (1, 2), (1, 3))),
    "order of axes": ((3, 2, 2), ((1, 0), (1, 2))),
    "three levels": ((2, 2, 2, 2), ((0, 1, 2), (0, 3))),
    "one group twice": ((2, 3, 3), ((0, 1), (0, 2))),
}


def consistent(shape, axes, seed, alike=False):
    """Draw permutations that agree on the axes they share."""
    rng = np.random.default_rng(seed)
    inner = {}

    def order(outer, axis):
        key = (outer, shape[axis]) if alike else (outer, axis)
        sizes = [shape[a] for a in outer]
        if key not in inner:
            orders = [rng.permutation(shape[axis]) for _ in range(int(np.prod(sizes)))]
            inner[key] = np.reshape(orders, (*sizes, shape[axis]))
        return inner[key]

    def flat(own):
        sizes = [shape[axis] for axis in own]
        columns = np.empty(sizes, int)
        for index in itertools.product(*map(range, sizes)):
            image = [order(own[:d], axis)[index[: d + 1]] for d, axis in enumerate(own)]
            columns[index] = np.ravel_multi_index(image, sizes)
        return jnp.asarray(columns.ravel(), jnp.int32)

    return tuple(flat(own) for own in axes)


@pytest.fixture(scope="module", params=CASES)
def case(request):
    shape, axes = CASES[request.param]
    rng = np.random.default_rng(0)
    a, b = (jnp.asarray(rng.standard_normal((*shape, 2)), jnp.float32) for _ in range(2))
    block = MultilinearBlock(a, b, axes)
    return block, consistent(shape, axes, 1, alike=request.param == "one group twice")


value = jax.jit(lambda block, matchings: block.value(*matchings))
slopes = jax.jit(lambda block, matchings: jax.grad(lambda m: block.value(*m))(matchings))
value_at = jax.jit(lambda block, permutations: block.value_at(*permutations))


def test_soft_value_is_the_sum_over_all_pairs(case):
    block, permutations = case
    rng = np.random.default_rng(2)
    soft = [jnp.asarray(rng.random((len(p), len(p))), jnp.float32) for p in permutations]
    want = multilinear(*map(np.float64, (block.a, block.b)), block.axes, soft)
    np.testing.assert_allclose(value(block, soft), want, rtol=1e-4, atol=1e-3)


def test_hard_value_and_scores_are_those_of_matrices(case):
    block, permutations = case
    matrices = [permutation_matrix(p) for p in permutations]
    want = multilinear(*map(np.float64, (block.a, block.b)), block.axes, matrices)
    np.testing.assert_allclose(value_at(block, permutations), want, rtol=1e-4, atol=1e-4)
    for carrier, slope in enumerate(slopes(block, matrices)):
        got = jax.jit(lambda block, p, c=carrier: block.scores(c, *p))(block, permutations)
        np.testing.assert_allclose(got, slope, rtol=1e-4, atol=1e-4)


def test_scores_do_not_depend_on_the_carriers_own_permutation(case):
    block, (first, *others) = case
    got = block.scores(0, first, *others)
    np.testing.assert_array_equal(got, block.scores(0, first[::-1], *others))


def test_vmap_equals_the_loop(case):
    block, permutations = case
    twice = MultilinearBlock(*(jnp.stack([x, 2 * x]) for x in (block.a, block.b)), block.axes)
    batched = jax.jit(jax.vmap(lambda block: block.value_at(*permutations)))(twice)
    single = float(value_at(block, permutations))
    np.testing.assert_allclose(batched, [single, 4 * single], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["three groups", "grouped queries"])
def test_variance_is_that_of_the_scores_of_unrelated_edges(name):
    _, axes = CASES[name]
    shape = (9, 8, 7) if name == "three groups" else (9, 3, 5, 6)
    rng = np.random.default_rng(0)
    a, b = (jnp.asarray(rng.standard_normal((*shape, 3)), jnp.float32) for _ in range(2))
    block = MultilinearBlock(a, 2 * b, axes)
    permutations = consistent(shape, axes, 1)
    variances = jax.jit(block.second_moment)().carriers
    for carrier, want in enumerate(variances):
        scores = np.asarray(block.scores(carrier, *permutations))
        # Pairs whose shared axes are matched otherwise have no score.
        np.testing.assert_allclose(np.var(scores[scores != 0]), want, rtol=0.2)


def test_an_affinity_without_features_is_refused_by_leaf():
    (term,) = (t for t in list_terms(grouped_query()[1]) if t.tensor.path == "q")
    block = ExactGaussian().block(jnp.ones((12, 24, 1)), jnp.ones((12, 24, 1)))
    with pytest.raises(ValueError, match=r"leaf 'q' joins more groups .* ExactGaussianBlock"):
        multilinear_block(block, term)


@pytest.mark.parametrize("affinity", [Linear(), Gaussian(8.0)], ids=["linear", "gaussian"])
def test_blocks_hold_the_features_of_the_edges(affinity):
    shapes, symmetry = grouped_query()
    (term,) = (t for t in list_terms(symmetry) if t.tensor.path == "q")
    edges = [term.edges(on_device(draw(shapes, seed))["q"]) for seed in (0, 1)]
    flat = jax.jit(affinity.block)(*edges)
    block = multilinear_block(flat, term)
    np.testing.assert_allclose(jnp.vdot(block.a, block.b), jnp.vdot(flat.a, flat.b), rtol=1e-4)
    assert block.a.shape[:-1] == tuple(term.tensor.shape[axis] for axis in term.axes)
    carried = [tuple(term.axes[axis] for axis in own) for own in block.axes]
    assert carried == [carrier.axes for carrier in term.carriers]

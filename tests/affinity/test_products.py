"""Products of bfloat16 factors against the same in float64, and what they do to a matching."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import jaxprs_in_params

import jaxfuse
from jaxfuse.affinity import Gaussian, Linear
from jaxfuse.affinity.multilinear import MultilinearBlock
from jaxfuse.affinity.products import dot, einsum
from jaxfuse.bench.planted import plant_mlp
from tests.oracles import affinity as oracle

AFFINITIES = [Linear(products="bfloat16"), Gaussian(2.0, rank=16, products="bfloat16")]


def rounded(x):
    return np.float64(jnp.asarray(x).astype(jnp.bfloat16).astype(jnp.float32))


def draw(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


def dot_types(function, *arguments):
    """Return the types of the factors and of the result of all products of a function."""

    def found(jaxpr):
        for equation in jaxpr.eqns:
            if equation.primitive.name == "dot_general":
                yield tuple(str(v.aval.dtype) for v in (*equation.invars, *equation.outvars))
            for inner in jaxprs_in_params(equation.params):
                yield from found(inner)

    return set(found(jax.make_jaxpr(function)(*arguments).jaxpr))


def test_factors_are_rounded_and_sums_are_not():
    x, y = draw(5, 300), draw(300, 4, seed=1)
    got = jax.jit(functools.partial(dot, products="bfloat16"))(x, y)
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(got, rounded(x) @ rounded(y), rtol=1e-5, atol=1e-4)
    assert not np.allclose(got, np.float64(x) @ np.float64(y), rtol=1e-5, atol=1e-4)


def test_gradients_are_products_of_rounded_factors_too():
    x, y, slope = draw(3, 40), draw(40, 5, seed=1), draw(3, 5, seed=2)
    by_x, by_y = jax.grad(lambda x, y: jnp.vdot(slope, dot(x, y, "bfloat16")), (0, 1))(x, y)
    assert by_x.dtype == by_y.dtype == jnp.float32
    np.testing.assert_allclose(by_x, rounded(slope) @ rounded(y).T, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(by_y, rounded(x).T @ rounded(slope), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("products", "tolerance"), [("float32", 1e-5), ("bfloat16", 3e-2)])
def test_products_of_several_tensors(products, tolerance):
    x, y, z = draw(3, 4, 5), draw(4, 6, seed=1), draw(5, 6, 2, seed=2)
    operands = [(x, (0, 1, 2)), (y, (1, 3)), (z, (2, 3, 4))]
    got = jax.jit(lambda: einsum(operands, (4, 0), products))()
    want = np.einsum("abc,bd,cde->ea", *map(np.float64, (x, y, z)))
    assert np.linalg.norm(got - want) <= tolerance * np.linalg.norm(want)


@pytest.mark.parametrize("affinity", AFFINITIES, ids=lambda each: type(each).__name__)
def test_blocks_have_bfloat16_factors_and_float32_sums(affinity):
    a, b = draw(6, 5, 4), draw(6, 5, 4, seed=1)
    block = jax.jit(affinity.block)(a, b)
    p, q = jnp.full((6, 6), 1 / 6), jnp.full((5, 5), 1 / 5)
    mixed = ("bfloat16", "bfloat16", "float32")
    assert dot_types(block.row_scores, jnp.arange(5)) == {mixed}
    assert dot_types(block.column_scores, jnp.arange(6)) == {mixed}
    # <P, scores> is no product worth rounding.
    slopes = jax.grad(block.value, argnums=(0, 1))
    assert dot_types(slopes, p, q) == {mixed, ("float32",) * 3}
    assert dot_types(block.value_at, jnp.arange(6), jnp.arange(5)) == set()
    scores = jax.jit(slopes)(p, q)
    exact = jax.jit(jax.grad(type(block)(block.a, block.b).value, argnums=(0, 1)))(p, q)
    for rough, right in zip(scores, exact, strict=True):
        np.testing.assert_allclose(rough, right, atol=0.02 * float(jnp.max(jnp.abs(right))))


def test_multilinear_blocks_round_the_factors_of_all_products():
    a, b = draw(3, 4, 2, 5), draw(3, 4, 2, 5, seed=1)
    axes = ((0,), (1,), (2,))
    soft = [jnp.full((n, n), 1 / n) for n in (3, 4, 2)]
    rough, right = (MultilinearBlock(a, b, axes, kind) for kind in ("bfloat16", "float32"))
    types = dot_types(jax.grad(rough.value, argnums=(0, 1, 2)), *soft)
    assert types == {("bfloat16", "bfloat16", "float32")}
    scale = float(jnp.linalg.norm(a) * jnp.linalg.norm(b))
    np.testing.assert_allclose(rough.value(*soft), right.value(*soft), atol=1e-2 * scale)
    hard = [jnp.arange(n) for n in (3, 4, 2)]
    for carrier in range(3):
        got, want = (block.scores(carrier, *hard) for block in (rough, right))
        np.testing.assert_allclose(got, want, atol=0.02 * float(jnp.max(jnp.abs(want))))
    np.testing.assert_array_equal(rough.value_at(*hard), right.value_at(*hard))


def test_the_planted_matching_is_found_and_its_objective_is_that_of_float32():
    planted = plant_mlp((24, 24), inputs=16)
    align = functools.partial(jaxfuse.align_params, symmetry=planted.symmetry)
    exact, rough = (
        jax.jit(functools.partial(align, affinity=Linear(products=kind)))(*planted.networks)
        for kind in ("float32", "bfloat16")
    )
    np.testing.assert_allclose(rough.objective, exact.objective, rtol=1e-3)
    assert planted.judge(rough.permutations)["units"] == 1.0


def test_the_objective_of_an_unrelated_pair_is_like_that_of_float32():
    # Such a pair has many optima that are nearly as good, and rounding may lead to another.
    shapes = {"in": (20, 32), "hidden": (32, 32), "out": (32, 5)}
    a, b = (
        {name: draw(*shape, seed=seed + i) for i, (name, shape) in enumerate(shapes.items())}
        for seed in (0, 10)
    )
    groups = {"in": (None, "g"), "hidden": ("g", "h"), "out": ("h", None)}
    symmetry = jaxfuse.Symmetry.from_axes(groups, a)
    align = functools.partial(jaxfuse.align_params, a, b, symmetry=symmetry)
    exact, rough = (
        jax.jit(functools.partial(align, affinity=Linear(products=kind)))()
        for kind in ("float32", "bfloat16")
    )
    np.testing.assert_allclose(rough.objective, exact.objective, rtol=3e-2)


def test_scores_of_pinned_units_are_rounded_products():
    a, b = draw(4, 6, 2), draw(4, 6, 2, seed=1)
    got = jax.jit(AFFINITIES[0].node_scores)(a, b)
    want = oracle.row_scores(oracle.linear(rounded(a), rounded(b)), np.eye(6))
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("affinity", [Linear, Gaussian])
def test_unknown_products_are_refused(affinity):
    with pytest.raises(ValueError, match="products must be one of"):
        affinity(products="float16")

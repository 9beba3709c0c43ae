import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxfuse import average
from jaxfuse.fusion.average import normalise_weights


def tree(seed, dtype=jnp.float32):
    rng = np.random.default_rng(seed)
    return {"w": jnp.asarray(rng.standard_normal((2, 3)), dtype), "b": [jnp.ones(2, dtype) * seed]}


@settings(deadline=None, max_examples=20)
@given(weights=st.lists(st.floats(0.125, 8.0, width=32), min_size=1, max_size=4))
def test_matches_numpy(weights):
    trees = [tree(i) for i in range(len(weights))]
    got = average(trees, weights)["w"]
    want = np.average([np.float64(t["w"]) for t in trees], axis=0, weights=weights)
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


def test_equal_weights_are_the_default_and_normalisation_is_free():
    trees = [tree(i) for i in range(3)]
    chex.assert_trees_all_close(average(trees), average(trees, [5, 5, 5]), rtol=1e-6)
    chex.assert_trees_all_close(average(trees, [1, 0, 0]), trees[0])
    chex.assert_trees_all_close(average(iter(trees[:1])), trees[0])


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision_is_summed_in_float32(dtype):
    # In half precision 2048 + 1 is 2048.
    trees = [{"w": jnp.full(2, value, dtype)} for value in (2048.0, 1.0, 1.0, 2046.0)]
    got = average(trees)["w"]
    assert got.dtype == dtype
    np.testing.assert_array_equal(np.float32(got), 1024.0)


@pytest.mark.parametrize("weights", [None, [1, 1, 1], jnp.ones(3)])
def test_numpy_float64_is_kept(weights):
    trees = [{"w": np.full(2, 1 + 2.0**-40 * i)} for i in range(3)]
    got = average(trees, weights)["w"]
    assert isinstance(got, np.ndarray)
    assert got.dtype == np.float64
    np.testing.assert_allclose(got, 1 + 2.0**-40, rtol=1e-15)


def test_numpy_beside_jax_arrays_and_under_jit_is_an_array_of_jax():
    trees = [{"w": np.zeros(2)}, {"w": np.ones(2)}]
    mixed = average([trees[0], {"w": jnp.ones(2)}])["w"]
    traced = jax.jit(lambda weights: average(trees, weights))(jnp.array([1.0, 1.0]))["w"]
    for got in (mixed, traced):
        assert got.dtype == jnp.float32
        np.testing.assert_allclose(got, 0.5)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, np.float16])
def test_numpy_half_precision_is_summed_in_float32(dtype):
    trees = [{"w": np.full(2, value).astype(dtype)} for value in (2048.0, 1.0, 1.0, 2046.0)]
    got = average(trees)["w"]
    assert got.dtype == dtype
    np.testing.assert_array_equal(np.float32(got), 1024.0)


def test_leaves_that_are_no_weights_come_from_the_first():
    trees = [{"w": jnp.ones(2), "step": jnp.int32(i), "act": jax.nn.relu} for i in range(2)]
    got = average(trees)
    assert got["step"] == 0
    assert got["act"] is jax.nn.relu


@pytest.mark.parametrize(
    ("count", "weights", "message"),
    [
        (0, None, "nothing to average"),
        (2, [1.0], "got 1 weights for 2 networks"),
        (2, [1.0, 2.0, 3.0], "got 3 weights for 2 networks"),
        (2, [1.0, -1.0], "non-negative"),
        (2, [2.0, -1.0], "non-negative"),
        (2, [0.0, 0.0], "positive sum"),
        (2, [np.nan, 1.0], "non-negative"),
        (2, [np.inf, 1.0], "positive sum"),
    ],
)
def test_bad_input_is_refused(count, weights, message):
    with pytest.raises(ValueError, match=message):
        average([tree(i) for i in range(count)], weights)


def test_unlike_trees_are_refused_by_their_number():
    with pytest.raises(ValueError, match=r"leaf 'w' has shape .*params.0..*params.2."):
        average([tree(0), tree(1), {**tree(2), "w": jnp.ones((2, 4))}])


def test_gradients_of_parameters_and_weights():
    trees = [tree(0), tree(1)]

    def total(trees, weights):
        return jnp.sum(average(trees, weights)["w"])

    of_trees, of_weights = jax.jit(jax.grad(total, argnums=(0, 1)))(trees, jnp.array([1.0, 3.0]))
    np.testing.assert_allclose(of_trees[0]["w"], 0.25)
    np.testing.assert_allclose(of_trees[1]["w"], 0.75)
    first, second = (jnp.sum(t["w"]) for t in trees)
    np.testing.assert_allclose(of_weights[0], (first - second) * 3 / 16, rtol=1e-4)


def test_shares_have_sum_one():
    np.testing.assert_allclose(normalise_weights([1, 3], 2), [0.25, 0.75])
    np.testing.assert_allclose(sum(normalise_weights(None, 3)), 1.0, rtol=1e-6)

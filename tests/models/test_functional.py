"""NNX modules as pure functions."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import test_util

from jaxfuse.models import create, functional, training_function, with_params


@pytest.fixture
def module(key) -> nnx.Module:
    return create("mlp", input_shape=(4, 4, 1), classes=3, width=0.02, norm="batch", key=key)


@pytest.fixture
def x(key) -> jax.Array:
    return jax.random.normal(key, (5, 4, 4, 1))


class Dropping(nnx.Module):
    def __init__(self, rngs: nnx.Rngs):
        self.linear = nnx.Linear(3, 2, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.dropout(self.linear(x))


def test_params_are_plain_dicts_with_string_keys(module):
    _, params = functional(module)
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        assert all(isinstance(entry.key, str) for entry in path)
        assert isinstance(leaf, jax.Array)


def test_apply_agrees_with_the_module_under_jit_and_vmap(module, x):
    apply_fn, params = functional(module)
    module.eval()
    expected = module(x)
    np.testing.assert_array_equal(apply_fn(params, x), expected)
    np.testing.assert_allclose(jax.jit(apply_fn)(params, x), expected, rtol=1e-5, atol=1e-6)
    stacked = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), params)
    batched = jax.vmap(apply_fn, in_axes=(0, None))(stacked, x)
    np.testing.assert_allclose(batched, jnp.stack([expected, expected]), rtol=1e-5, atol=1e-6)


def test_functional_leaves_the_module_in_its_mode(module, x):
    before = nnx.to_pure_dict(nnx.state(module))
    apply_fn, params = functional(module)
    training_function(module)(params, x)
    apply_fn(params, x)
    assert not module.norm[0].use_running_average
    jax.tree.map(np.testing.assert_array_equal, before, nnx.to_pure_dict(nnx.state(module)))


def test_gradient_agrees_with_finite_differences(module, x):
    apply_fn, params = functional(module)
    # Away from the kink of ReLU at zero, where fresh units that see dead ones are.
    params = jax.tree.map(lambda leaf: leaf + 0.1, params)
    weights, statistics = training_function(module).split(params)

    def loss(weights):
        merged = training_function(module).merge(weights, statistics)
        return jnp.sum(jnp.sin(apply_fn(merged, x)))

    test_util.check_grads(loss, (weights,), order=1, modes="rev", eps=1e-3, atol=2e-2, rtol=2e-2)


def test_modules_of_one_structure_share_a_compiled_program(x):
    traces = 0

    def call(apply_fn, params, x):
        nonlocal traces
        traces += 1
        return apply_fn(params, x)

    compiled = jax.jit(call, static_argnums=0)
    for seed in range(3):
        module = create(
            "mlp", input_shape=(4, 4, 1), classes=3, width=0.02, key=jax.random.key(seed)
        )
        compiled(*functional(module), x)
    assert traces == 1
    other = create("mlp", input_shape=(4, 4, 1), classes=3, width=0.04, key=jax.random.key(0))
    assert functional(other)[0] != functional(module)[0]


def test_training_mode_uses_and_moves_batch_statistics(module, x):
    _, params = functional(module)
    forward = training_function(module)
    logits, updated = jax.jit(forward)(params, x)
    module.train()
    np.testing.assert_allclose(logits, module(x), rtol=1e-5, atol=1e-5)
    first = x.reshape(5, -1) @ params["dense"]["0"]["kernel"]
    np.testing.assert_allclose(
        updated["norm"]["0"]["mean"], 0.1 * first.mean(axis=0), rtol=1e-4, atol=1e-6
    )
    chex.assert_trees_all_equal_structs(params, updated)
    jax.tree.map(np.testing.assert_array_equal, forward.split(params)[0], forward.split(updated)[0])


def test_split_and_merge_are_inverse(module):
    _, params = functional(module)
    forward = training_function(module)
    weights, statistics = forward.split(params)
    assert set(weights) == {"dense", "norm"}
    assert set(statistics) == {"norm"}
    merged = forward.merge(weights, statistics)
    chex.assert_trees_all_equal_structs(params, merged)
    jax.tree.map(np.testing.assert_array_equal, params, merged)


def test_with_params_leaves_the_first_module_alone(module, x):
    _, params = functional(module)
    doubled = with_params(module, jax.tree.map(lambda leaf: 2 * leaf, params))
    np.testing.assert_array_equal(
        functional(doubled)[1]["dense"]["0"]["kernel"], 2 * params["dense"]["0"]["kernel"]
    )
    np.testing.assert_array_equal(
        functional(module)[1]["dense"]["0"]["kernel"], params["dense"]["0"]["kernel"]
    )


def test_params_that_do_not_fit_are_named(module, x):
    apply_fn, params = functional(module)
    params["dense"]["9"] = params["dense"].pop("0")
    with pytest.raises(ValueError, match=r"missing \['dense/0/kernel'\].*\['dense/9/kernel'\]"):
        apply_fn(params, x)


def test_dropout_is_off_in_inference_and_refused_in_training(key):
    module = Dropping(nnx.Rngs(key))
    apply_fn, params = functional(module)
    x = jax.random.normal(key, (4, 3))
    np.testing.assert_array_equal(apply_fn(params, x), module.linear(x))
    assert set(params) == {"linear"}
    with pytest.raises(ValueError, match="random state"):
        training_function(module)

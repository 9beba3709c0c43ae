"""Activations of the groups: the right arrays, in the order of the units."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxfuse.models import functional
from jaxfuse.models.zoo import ZOO
from jaxfuse.symmetry import infer_symmetry, permute, random_permutations
from jaxfuse.symmetry.trace import record_activations

SHAPE = jax.ShapeDtypeStruct


def mlp(params, x):
    return jax.nn.relu(x @ params["in"] + params["bias"]) @ params["out"]


@pytest.fixture
def params(key):
    keys = jax.random.split(key, 3)
    shapes = {"in": (3, 6), "bias": (1, 6), "out": (6, 2)}
    return {n: jax.random.normal(k, s) for k, (n, s) in zip(keys, shapes.items(), strict=True)}


def test_outputs_are_before_bias_and_inputs_after_relu(params, key):
    x = jax.random.normal(key, (5, 3))
    symmetry = infer_symmetry(mlp, params, SHAPE((2, 3), jnp.float32))
    (output,) = record_activations(symmetry, mlp, params, x)["in"]
    (taken,) = record_activations(symmetry, mlp, params, x, role="input")["in"]
    np.testing.assert_allclose(output, x @ params["in"], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(taken, jax.nn.relu(output + params["bias"]), rtol=1e-4, atol=1e-6)


def test_under_jit_vmap_and_grad(params, key):
    xs = jax.random.normal(key, (4, 5, 3))
    symmetry = infer_symmetry(mlp, params, xs[0])

    def first(p, x):
        return record_activations(symmetry, mlp, p, x)["in"][0]

    plain = jnp.stack([first(params, x) for x in xs])
    np.testing.assert_allclose(jax.jit(first)(params, xs[0]), plain[0], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(jax.vmap(first, (None, 0))(params, xs), plain, rtol=1e-4, atol=1e-6)
    slope = jax.grad(lambda p: first(p, xs[0]).sum())(params)
    np.testing.assert_allclose(slope["in"], xs[0].sum(0)[:, None].repeat(6, 1), rtol=1e-5)


@pytest.mark.parametrize("name", ["lenet", "gpt2_scan", "moe"])
@pytest.mark.parametrize("role", ["input", "output"])
def test_activations_move_with_their_group(name, role, key):
    example = ZOO[name]
    apply_fn, params = functional(example.build(nnx.Rngs(0)))
    inputs = example.inputs(key)
    symmetry = infer_symmetry(apply_fn, params, *inputs)
    moves = random_permutations(symmetry, key)

    @jax.jit
    def record(weights):
        return record_activations(symmetry, apply_fn, weights, *inputs, role=role)

    before, after = record(params), record(permute(params, symmetry, moves))
    assert before
    plain = [group for group in before if not symmetry.contexts(group)]
    for group in plain:
        for old, new in zip(before[group], after[group], strict=True):
            expected = np.sort(np.asarray(old[:, moves[group]]), axis=0)
            scale = float(np.abs(expected).max()) + 1e-6
            np.testing.assert_allclose(np.sort(new, axis=0) / scale, expected / scale, atol=1e-4)


def test_stacked_layers_come_first_in_the_shape(key):
    example = ZOO["gpt2_scan"]
    module, inputs = example.build(nnx.Rngs(0)), example.inputs(key)
    symmetry = infer_symmetry(module, *inputs)
    recorded = jax.eval_shape(lambda: record_activations(symmetry, module, *inputs))
    for group, arrays in recorded.items():
        for array in arrays:
            assert array.shape[1:] == symmetry.shape(group)


def test_another_width_is_refused(params, key):
    symmetry = infer_symmetry(mlp, params, SHAPE((2, 3), jnp.float32))
    wide = {"in": jnp.ones((3, 8)), "bias": jnp.ones((1, 8)), "out": jnp.ones((8, 2))}
    with pytest.raises(ValueError, match="another width"):
        record_activations(symmetry, mlp, wide, jnp.ones((2, 3)))

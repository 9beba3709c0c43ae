"""Parameters and inputs that are no arrays of real numbers, or shapes alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfuse.symmetry import infer_symmetry
from tests.symmetry.trace.cases import normal, prove, weights
from tests.symmetry.trace.test_answers import mlp, reasons

PARAMS = weights(a=(3, 6), b=(6, 2))
X = normal(4, 3)


def test_shapes_suffice():
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), (PARAMS, X))
    assert infer_symmetry(mlp, *shapes) == infer_symmetry(mlp, PARAMS, X)


def test_weights_that_are_not_used_are_pinned():
    symmetry = infer_symmetry(lambda p, x: jnp.tanh(x @ p["a"]).sum(-1), PARAMS, X)
    assert symmetry.groups == {"a": 6}
    assert reasons(symmetry)["b[0]"] == reasons(symmetry)["b[1]"] == "not used by the function"


def test_leaves_that_are_no_weights():
    params = {
        **PARAMS,
        "step": np.array(3),
        "counts": np.arange(6),
        "nothing": None,
        "flag": True,
        "scale": 2.0,
        "name": "network",
        "key": jax.random.key(0),
        "empty": np.zeros((0, 3), np.float32),
    }
    assert infer_symmetry(lambda p, x: p["scale"] * mlp(p, x), params, X).groups == {"a": 6}


@pytest.mark.parametrize(
    "mask",
    [np.arange(1, 7)[None], np.array([[True, True, False, True, False, True]])],
    ids=["integers", "booleans"],
)
def test_a_mask_among_the_parameters_pins(mask):
    def network(p, x):
        return (jnp.tanh(x @ p["a"]) * p["mask"]) @ p["b"]

    symmetry = infer_symmetry(network, {**PARAMS, "mask": mask}, X)
    prove(symmetry, network, {**PARAMS, "mask": mask}, (X,))


def test_an_order_among_the_parameters_pins():
    def network(p, x):
        return jnp.tanh(x @ p["a"])[:, p["order"]] @ p["b"]

    params = {**PARAMS, "order": np.array([3, 1, 0, 2, 5, 4])}
    prove(infer_symmetry(network, params, X), network, params, (X,))


def test_complex_weights_pin():
    def network(p, x):
        return jnp.abs(x @ p["a"]) @ p["b"]

    params = {**PARAMS, "a": (PARAMS["a"] + 1j * PARAMS["a"][::-1]).astype(np.complex64)}
    prove(infer_symmetry(network, params, X), network, params, (X,))


def test_arguments_that_are_no_arrays():
    def network(p, x, mode, width, flag):
        assert mode == "train"
        assert flag
        return jnp.tanh(x @ p["a"])[:, :width] @ p["b"][:width]

    symmetry = infer_symmetry(network, PARAMS, X, "train", 3, True)
    assert symmetry.groups == {"a": 3, "a#2": 3, "b": 3}


def test_random_numbers_pin():
    def network(p, x, key):
        h = jnp.tanh(x @ p["a"])
        return (h * jax.random.bernoulli(key, 0.5, h.shape)) @ p["b"]

    symmetry = infer_symmetry(network, PARAMS, X, jax.random.key(0))
    assert reasons(symmetry)["a[1]"] == "random numbers"


def test_one_array_as_parameters():
    symmetry = infer_symmetry(lambda p, x: jnp.tanh(x @ p).sum(-1), PARAMS["a"], X)
    assert list(symmetry.groups.values()) == [6]
    assert [size for _, size, _ in symmetry.pinned] == [3]

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfuse import average, fuse, infer_symmetry
from jaxfuse.fusion.repair import LeastSquares, Merger
from tests.fusion.repair.conftest import SHARES, as_layers, mlp
from tests.oracles import repair as oracle


def test_every_layer_is_the_ridge_regression(merger):
    got = LeastSquares(ridge=0.03).repair(merger)
    parents = [as_layers(parent) for parent in merger.parents]
    x = np.float64(merger.inputs[0])
    want = oracle.least_squares(as_layers(merger.fused), parents, SHARES, x, 0.03)
    for layer, (kernel, bias) in zip(got, want, strict=True):
        np.testing.assert_allclose(layer["kernel"], kernel, rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(layer["bias"], bias, rtol=1e-3, atol=1e-4)


def test_a_worn_copy_is_restored(merger):
    parent = merger.parents[0]
    worn = jax.tree.map(lambda leaf: 0.5 * leaf, parent)
    x = merger.inputs[0]
    got = LeastSquares(ridge=1e-6).repair(merger._replace(fused=worn, parents=(parent,) * 2))
    np.testing.assert_allclose(mlp(got, x), mlp(parent, x), rtol=1e-3, atol=1e-3)


def conv_net(params, x):
    x = jax.lax.conv_general_dilated(
        x, params["kernel"], (2, 1), ((1, 1), (0, 1)), dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    return jax.nn.relu(x).mean((1, 2)) @ params["head"]


def test_a_convolution_without_bias_is_fitted_through_its_windows():
    rng = np.random.default_rng(0)
    shapes = {"kernel": (3, 2, 2, 4), "head": (4, 3)}
    parents = [
        {name: jnp.asarray(rng.normal(size=shape), jnp.float32) for name, shape in shapes.items()}
        for _ in range(2)
    ]
    x = jnp.asarray(rng.normal(size=(70, 6, 5, 2)), jnp.float32)
    symmetry = infer_symmetry(conv_net, parents[0], x)
    worn = jax.tree.map(lambda leaf: 0.3 * leaf, average(parents))
    merger = Merger(worn, tuple(parents), [0.5, 0.5], symmetry, conv_net, (x,))
    got = LeastSquares(ridge=1e-6).repair(merger)
    # All see the same images, so the best first layer is the mean of the kernels.
    np.testing.assert_allclose(got["kernel"], average(parents)["kernel"], rtol=1e-3, atol=1e-3)


def test_noise_stands_in_for_data():
    parents = [
        [
            jnp.asarray(np.random.default_rng(s).normal(size=n), jnp.float32)
            for n in ((4, 8), (8, 3))
        ]
        for s in (0, 1)
    ]
    apply_fn = lambda p, x: jax.nn.relu(x @ p[0]) @ p[1]  # noqa: E731
    shape = jax.ShapeDtypeStruct((200, 4), jnp.float32)
    options = {"apply_fn": apply_fn, "inputs": shape, "method": "coordinate_ascent"}
    fused = fuse(parents, **options)
    chex.assert_trees_all_equal(fused, fuse(parents, **options))
    plain = fuse(parents, method="coordinate_ascent", repair=None)
    np.testing.assert_allclose(fused[0], plain[0], rtol=1e-3, atol=1e-4)
    assert not np.allclose(fused[1], plain[1], atol=1e-2)


def test_settings_are_checked():
    with pytest.raises(ValueError, match="ridge must be positive"):
        LeastSquares(ridge=0.0)

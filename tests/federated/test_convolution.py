"""Convolutions as products and pooling by slices, against XLA's own, with gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax

from jaxfuse.federated.convolution import as_products
from jaxfuse.federated.features import with_features


def convolve(images, kernel, strides, padding):
    return lax.conv_general_dilated(
        images, kernel, strides, padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def draw(*shape, seed=0):
    return jax.random.normal(jax.random.key(seed), shape)


CASES = [
    ((1, 1), "VALID", (3, 3, 2, 4)),
    ((1, 1), "SAME", (5, 5, 2, 3)),
    ((2, 2), "SAME", (3, 3, 2, 4)),
    ((2, 1), ((1, 2), (0, 1)), (3, 2, 2, 4)),
    ((1, 1), "VALID", (1, 1, 2, 4)),
]


@pytest.mark.parametrize(("strides", "padding", "shape"), CASES)
def test_products_are_the_convolution_with_its_gradients(strides, padding, shape):
    images, kernel = draw(3, 7, 8, 2), draw(*shape, seed=1)

    def plain(images, kernel):
        out = convolve(images, kernel, strides, padding)
        return jnp.sum(out * jnp.cos(jnp.arange(out.size).reshape(out.shape)))

    products = as_products(plain)
    assert "conv_general_dilated" not in str(jax.make_jaxpr(products)(images, kernel))
    right = jax.value_and_grad(plain, (0, 1))(images, kernel)
    found = jax.jit(jax.value_and_grad(products, (0, 1)))(images, kernel)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), found, right)


def test_a_kernel_for_every_client():
    images, kernels = draw(4, 2, 6, 6, 3), draw(4, 3, 3, 3, 5, seed=1)
    found = jax.vmap(as_products(lambda x, k: convolve(x, k, (1, 1), "SAME")))(images, kernels)
    right = [convolve(x, k, (1, 1), "SAME") for x, k in zip(images, kernels, strict=True)]
    np.testing.assert_allclose(found, jnp.stack(right), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("shape", [(2, 6, 4, 3), (2, 7, 5, 3)])
def test_pooling_with_ties_has_xla_s_gradient(shape):
    # Small integers, so that windows have equal entries.
    images = jnp.round(draw(*shape))

    def plain(images):
        out = nnx.max_pool(images, (2, 2), strides=(2, 2))
        return jnp.sum(out * jnp.cos(jnp.arange(out.size).reshape(out.shape)))

    products = as_products(plain)
    assert "reduce_window" not in str(jax.make_jaxpr(products)(images))
    for found, right in zip(
        jax.value_and_grad(products)(images), jax.value_and_grad(plain)(images), strict=True
    ):
        np.testing.assert_allclose(found, right, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "function",
    [
        lambda x, k: lax.conv_general_dilated(
            x, k, (1, 1), "SAME", rhs_dilation=(2, 2), dimension_numbers=("NHWC", "HWIO", "NHWC")
        ),
        lambda x, k: lax.conv_general_dilated(
            x,
            k[:, :, :1],
            (1, 1),
            "SAME",
            feature_group_count=2,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        ),
        lambda x, k: nnx.max_pool(x, (3, 3), strides=(2, 2)),
    ],
    ids=["dilated", "grouped", "overlapping"],
)
def test_others_stay_as_they_are(function):
    images, kernel = draw(2, 6, 6, 2), draw(3, 3, 2, 4, seed=1)
    np.testing.assert_allclose(
        as_products(function)(images, kernel), function(images, kernel), rtol=1e-5, atol=1e-6
    )


def test_features_need_a_last_product_of_rows():
    with pytest.raises(ValueError, match="does not end with a matrix product"):
        with_features(jnp.sin)(jnp.ones((2, 3)))
    with pytest.raises(ValueError, match="does not end with a matrix product"):
        with_features(lambda x: jnp.einsum("bpc,cd->bpd", x, jnp.ones((3, 2))))(jnp.ones((2, 4, 3)))

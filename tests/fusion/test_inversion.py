import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxfuse import fuse, invert
from jaxfuse.fusion.inversion import _amplitudes, _Prior

IMAGES = jax.ShapeDtypeStruct((12, 8, 6, 3), jnp.float32)


def linear(kernel, x):
    return x.reshape(len(x), -1) @ kernel


def conv_net(params, x):
    x = jax.lax.conv_general_dilated(
        x, params["kernel"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    return jax.nn.relu(x).mean((1, 2)) @ params["head"]


def mlp(params, x):
    return jax.nn.relu(x.reshape(len(x), -1) @ params["in"]) @ params["head"]


def draw(**shapes):
    rng = np.random.default_rng(0)
    return [
        {name: jnp.asarray(rng.normal(size=shape), jnp.float32) for name, shape in shapes.items()}
        for _ in range(2)
    ]


@pytest.fixture(scope="module")
def networks():
    return draw(kernel=(3, 3, 3, 16), head=(16, 4))


@pytest.fixture(scope="module")
def dense():
    return draw(**{"in": (8 * 6 * 3, 32), "head": (32, 4)})


def test_every_network_puts_the_inputs_into_the_classes(dense):
    labels = jnp.array([3, 1, 2, 0, 0, 1, 3, 3, 2, 1, 0, 2])
    images = invert(mlp, dense, IMAGES, labels=labels)
    chex.assert_shape(images, IMAGES.shape)
    for own in dense:
        np.testing.assert_array_equal(mlp(own, images).argmax(axis=1), labels)


def test_labels_are_balanced_and_keys_count(dense):
    images = invert(mlp, dense, IMAGES)
    labels = np.argmax(mlp(dense[0], images), axis=1)
    np.testing.assert_array_equal(np.bincount(labels), [3, 3, 3, 3])
    chex.assert_trees_all_equal(images, invert(mlp, dense, IMAGES))
    other = invert(mlp, dense, IMAGES, key=jax.random.key(1))
    assert not np.allclose(images, other, atol=0.1)


def test_one_step_is_that_of_adam_in_waves():
    """By NumPy's transform and the gradient of the cross entropy by hand, in float64."""
    kernel = np.random.default_rng(3).normal(size=(8 * 6, 4))
    shape = jax.ShapeDtypeStruct((4, 8, 6, 1), jnp.float32)
    got = invert(linear, [jnp.float32(kernel)], shape, steps=1, learning_rate=0.1)
    white = np.float64(jax.random.normal(jax.random.key(0), shape.shape))[..., 0]
    rows, columns = np.fft.fftfreq(8), np.fft.fftfreq(6)
    gain = 1 / np.maximum(np.hypot(rows[:, None], columns[None]), 1 / 8)
    gain /= np.sqrt(np.mean(gain**2))
    field = lambda z: np.fft.ifft2(np.fft.fft2(z) * gain).real  # noqa: E731
    logits = field(white).reshape(4, -1) @ kernel
    wanted = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    # The map is symmetric, so its transpose is itself.
    slope = field(((wanted - np.eye(4)) @ kernel.T).reshape(4, 8, 6))
    want = field(white - 0.1 * slope / (np.abs(slope) + 1e-8))
    np.testing.assert_allclose(got[..., 0], want, rtol=1e-4, atol=1e-4)


def test_fields_are_of_unit_variance_and_fall_with_frequency():
    white = jax.random.normal(jax.random.key(0), (400, 16, 16, 3))
    fields = np.asarray(_Prior(white.shape, jnp.dtype("float32"), 1.0, 0.9).field(white))
    np.testing.assert_allclose(np.mean(fields**2), 1.0, rtol=0.05)
    across = np.corrcoef(fields.reshape(-1, 3).T)
    np.testing.assert_allclose(across[np.triu_indices(3, 1)], 0.9, atol=0.02)
    power = np.mean(np.abs(np.fft.fft(fields[:, :, :, 0], axis=2)) ** 2, axis=(0, 1))
    assert power[1] > 3 * power[3] > 9 * power[7]


def test_no_exponent_and_no_correlation_leave_white_noise():
    white = jax.random.normal(jax.random.key(0), (5, 7, 4, 3))
    prior = _Prior(white.shape, jnp.dtype("float32"), 0.0, 0.0)
    np.testing.assert_allclose(prior.field(white), white, rtol=1e-4, atol=1e-5)


def test_amplitudes_of_one_axis():
    np.testing.assert_allclose(
        _amplitudes((8,), 1.0) / _amplitudes((8,), 1.0)[0], [1, 1, 1 / 2, 1 / 3, 1 / 4], rtol=1e-6
    )


def test_vectors_start_white():
    images = invert(linear, [jnp.zeros((6, 3))], jax.ShapeDtypeStruct((5, 6), jnp.float32))
    np.testing.assert_array_equal(images, jax.random.normal(jax.random.key(0), (5, 6)))


def test_series_and_other_dtypes_are_made():
    kernel = jnp.asarray(np.random.default_rng(1).normal(size=(40, 3)), jnp.bfloat16)
    series = invert(linear, [kernel], jax.ShapeDtypeStruct((6, 10, 4), jnp.bfloat16), steps=20)
    assert (series.shape, series.dtype) == ((6, 10, 4), jnp.bfloat16)
    np.testing.assert_array_equal(linear(kernel, series).argmax(axis=1), [0, 1, 2, 0, 1, 2])


def test_jit_and_vmap_do_the_same(networks):
    options = {"steps": 3}
    want = invert(conv_net, networks, IMAGES, **options)
    jitted = jax.jit(lambda trees: invert(conv_net, trees, IMAGES, **options))(networks)
    np.testing.assert_allclose(jitted, want, rtol=1e-3, atol=1e-4)
    keys = jax.random.split(jax.random.key(0), 2)
    each = lambda key: invert(conv_net, networks, IMAGES, key=key, **options)  # noqa: E731
    for got, key in zip(jax.vmap(each)(keys), keys, strict=True):
        np.testing.assert_allclose(got, each(key), rtol=1e-3, atol=1e-4)


def test_networks_are_fused_on_what_is_made(networks):
    """A layer that is fitted on inversions gives the parents' mean there, which no average does."""
    images = invert(conv_net, networks, IMAGES)
    fused = fuse(networks, apply_fn=conv_net, inputs=images, method="coordinate_ascent")
    plain = fuse(networks, method="coordinate_ascent", apply_fn=conv_net, repair=None)
    want = sum(conv_net(own, images) for own in networks) / 2
    error = lambda params: float(jnp.mean(optax.l2_loss(conv_net(params, images), want)))  # noqa: E731
    assert error(fused) < 0.5 * error(plain)


@pytest.mark.parametrize(
    ("shape", "options", "message"),
    [
        (jax.ShapeDtypeStruct((4, 6), jnp.int32), {}, "real numbers can be made, got int32"),
        (jax.ShapeDtypeStruct((4,), jnp.float32), {}, r"got float32\[4\]"),
        (None, {"labels": jnp.zeros(3, jnp.int32)}, r"labels must be \[4\] integers"),
        (None, {"labels": jnp.array([0, 1, 2, 3])}, "labels must be 0 to 2"),
        (None, {"steps": 0}, "steps must be 1 or more, got 0"),
        (None, {"learning_rate": 0.0}, "learning_rate must be positive"),
        (None, {"exponent": -1.0}, "exponent must be 0 or more"),
        (None, {"correlation": 1.5}, "correlation must lie between 0 and 1"),
    ],
)
def test_bad_settings_are_refused(shape, options, message):
    shape = shape or jax.ShapeDtypeStruct((4, 6), jnp.float32)
    with pytest.raises(ValueError, match=message):
        invert(linear, [jnp.zeros((6, 3))], shape, **options)


def test_networks_without_logits_are_refused():
    shape = jax.ShapeDtypeStruct((4, 6), jnp.float32)
    with pytest.raises(ValueError, match=r"network 1 has outputs \(4, 1\).*needs logits \[4, cl"):
        invert(linear, [jnp.zeros((6, 2)), jnp.zeros((6, 1))], shape)
    with pytest.raises(ValueError, match="outputs tuple"):
        invert(lambda w, x: (x @ w, x), [jnp.zeros((6, 2))], shape)
    with pytest.raises(ValueError, match="nothing to invert"):
        invert(linear, [], shape)


def test_broken_networks_are_an_error_outside_jit():
    shape = jax.ShapeDtypeStruct((4, 6), jnp.float32)
    broken = [jnp.full((6, 2), jnp.nan)]
    with pytest.raises(ValueError, match="no finite gradients"):
        invert(linear, broken, shape)
    assert np.isnan(jax.jit(lambda w: invert(linear, w, shape))(broken)).any()

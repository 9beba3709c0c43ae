"""Noise that tells clients apart."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfuse.data import add_noise, load_digits, noise_levels

IMAGES = np.random.default_rng(0).random((6, 4, 4, 3), np.float32)
EXAMPLES = np.array([4, 0, 9, 2, 100, 7])
noisy = jax.jit(add_noise)


def test_levels_are_those_of_the_released_code_or_of_the_paper():
    code, paper = noise_levels(10, 0.1), noise_levels(10, 0.1, rule="paper")
    assert code.dtype == paper.dtype == np.float32
    np.testing.assert_allclose(code, [0.1 / 9 * i for i in range(10)], rtol=1e-6)
    np.testing.assert_allclose(paper**2, [0.1 * i / 10 for i in range(1, 11)], rtol=1e-6)
    assert noise_levels(1, 0.1).tolist() == [0.0]


def test_noise_has_the_level_of_every_channel(key):
    images = np.full((6, 40, 40, 3), 2.0, np.float32)
    level = np.array([0.0, 0.1, 0.5], np.float32)
    noise = np.asarray(noisy(images, level, key=key, client=3, examples=EXAMPLES)) - images
    np.testing.assert_allclose(noise.std(axis=(0, 1, 2)), level, rtol=0.03)
    np.testing.assert_allclose(noise.mean(axis=(0, 1, 2)), 0.0, atol=0.02)


def test_noise_is_of_the_example_and_the_client(key):
    settings = {"key": key, "client": 1, "examples": EXAMPLES}
    first = noisy(IMAGES, 0.1, **settings)
    turned = noisy(IMAGES[::-1], 0.1, **settings | {"examples": EXAMPLES[::-1]})
    np.testing.assert_array_equal(turned[::-1], first)
    alone = noisy(IMAGES[3:4], 0.1, **settings | {"examples": EXAMPLES[3:4]})
    np.testing.assert_array_equal(alone, first[3:4])
    for change in ({"client": 2}, {"key": jax.random.key(1)}, {"examples": EXAMPLES + 1}):
        other = np.asarray(noisy(IMAGES, 0.1, **settings | change))
        assert not (other == np.asarray(first)).any(axis=(1, 2, 3)).all()


def test_noise_is_the_same_bare_and_under_vmap(key):
    levels = noise_levels(4, 0.3)

    def noise(client, level):
        return add_noise(IMAGES, level, key=key, client=client, examples=EXAMPLES)

    together = jax.jit(jax.vmap(noise))(np.arange(4), levels)
    np.testing.assert_array_equal(together[0], IMAGES)
    for client in range(4):
        alone = noisy(IMAGES, levels[client], key=key, client=client, examples=EXAMPLES)
        np.testing.assert_allclose(together[client], alone, atol=1e-6)
    np.testing.assert_allclose(together[3], noise(3, levels[3]), atol=1e-6)


def test_noise_keeps_the_type_and_can_be_differentiated(key):
    settings = {"key": key, "client": 1, "examples": EXAMPLES}
    half = jax.ShapeDtypeStruct(IMAGES.shape, jnp.bfloat16)
    shaped = jax.eval_shape(lambda images: add_noise(images, 0.1, **settings), half)
    assert shaped.dtype == jnp.bfloat16
    unit = np.asarray(noisy(IMAGES, 1.0, **settings)) - IMAGES
    slope = jax.jit(jax.grad(lambda level: add_noise(IMAGES, level, **settings).sum()))(0.3)
    np.testing.assert_allclose(slope, unit.sum(), rtol=1e-3)


def test_normalised_images_take_the_level_in_their_units(key):
    digits = load_digits()
    settings = {"key": key, "client": 1, "examples": np.arange(5)}
    raw = digits.train_images[:5].astype(np.float32)
    plain = np.asarray(noisy(raw / digits.scale, 0.1, **settings))
    level = 0.1 / np.asarray(digits.std)
    got = noisy(digits.normalise(raw), level, **settings)
    np.testing.assert_allclose(got, digits.normalise(plain * digits.scale), atol=1e-5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda key: noise_levels(0, 0.1), "one client or more"),
        (lambda key: noise_levels(3, -0.1), "0 or more"),
        (lambda key: noise_levels(3, float("nan")), "0 or more"),
        (lambda key: noise_levels(3, 0.1, rule="space"), "rule must be one of"),
        (
            lambda key: add_noise(
                np.zeros((2, 8, 8, 1), np.uint8), 0.1, key=key, client=0, examples=np.arange(2)
            ),
            "normalise them first",
        ),
        (
            lambda key: add_noise(IMAGES, 0.1, key=key, client=0, examples=np.arange(5)),
            r"examples \[n\]",
        ),
        (
            lambda key: add_noise(IMAGES, np.ones(8), key=key, client=0, examples=EXAMPLES),
            "one number a channel",
        ),
    ],
)
def test_bad_requests_are_refused(call, message, key):
    with pytest.raises(ValueError, match=message):
        call(key)

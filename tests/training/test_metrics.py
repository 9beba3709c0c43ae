"""Accuracy and cross entropy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from jax import test_util

from jaxfuse.training import evaluate
from tests.oracles import classifier


def linear(params: jax.Array, x: jax.Array) -> jax.Array:
    return x @ params


def problem(count: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    params = generator.normal(size=(4, 3)).astype(np.float32)
    images = generator.normal(size=(count, 4)).astype(np.float32)
    return params, images, generator.integers(0, 3, count).astype(np.int32)


@settings(deadline=None, max_examples=20)
@example(count=1, batch_size=1, seed=4)  # a loss of 0.0085
@example(count=1, batch_size=1, seed=21)  # of 0.0005
@given(count=st.integers(1, 12), batch_size=st.integers(1, 14), seed=st.integers(0, 100))
def test_agrees_with_numpy_for_every_batch_size(count, batch_size, seed):
    params, images, labels = problem(count, seed)
    metrics = evaluate(linear, params, images, labels, batch_size=batch_size)
    accuracy, loss = classifier.metrics(images @ params, labels)
    np.testing.assert_allclose(metrics.accuracy, accuracy, rtol=1e-6)
    np.testing.assert_allclose(metrics.loss, loss, rtol=1e-5)


def test_jit_and_vmap_over_params():
    params, images, labels = problem(11, 0)
    stacked = jnp.stack([params, -params, 2 * params])
    expected = [evaluate(linear, one, images, labels) for one in stacked]

    def measure(params):
        return evaluate(linear, params, images, labels, batch_size=4)

    for got in (jax.vmap(measure)(stacked), jax.jit(jax.vmap(measure))(stacked)):
        np.testing.assert_allclose(got.accuracy, [one.accuracy for one in expected])
        np.testing.assert_allclose(got.loss, [one.loss for one in expected], rtol=1e-5)


def test_compiles_once_for_a_function_and_a_batch_shape():
    traces = 0

    def counted(params, x):
        nonlocal traces
        traces += 1
        return x @ params

    for count in (8, 12, 14, 17):
        evaluate(counted, *problem(count, count), batch_size=4)
    assert traces == 1


def test_loss_has_the_right_gradient():
    params, images, labels = problem(7, 1)

    def loss(params):
        return evaluate(linear, params, images, labels, batch_size=3).loss

    test_util.check_grads(loss, (jnp.asarray(params),), order=1, modes="rev", atol=1e-2, rtol=1e-2)


def test_examples_that_repeat_in_the_last_batch_do_not_count():
    params, images, labels = problem(5, 2)
    images[1] = np.nan
    metrics = evaluate(linear, params, images[2:], labels[2:], batch_size=2)
    assert jnp.isfinite(metrics.loss)
    assert not jnp.isfinite(evaluate(linear, params, images, labels, batch_size=4).loss)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x, y: (x[:0], y[:0], 5), "no examples"),
        (lambda x, y: (x, y[:-1], 5), "labels must be integers"),
        (lambda x, y: (x, y.astype(np.float32), 5), "labels must be integers"),
        (lambda x, y: (x, y, 0), "batch_size"),
    ],
)
def test_bad_arguments_are_refused(change, message):
    params, images, labels = problem(5, 3)
    images, labels, batch_size = change(images, labels)
    with pytest.raises(ValueError, match=message):
        evaluate(linear, params, images, labels, batch_size=batch_size)

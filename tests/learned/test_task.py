"""The loss of a network between two others, against NumPy."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfuse.learned.task import Task, between
from tests.activations.networks import chain, chain_networks, chain_params, images
from tests.oracles.activations import relu_network
from tests.oracles.learned import cross_entropy, softmax

COUNT = 11


@pytest.fixture(scope="module")
def pair():
    return chain_networks(
        [chain_params(seed, (4,), outputs=3) for seed in (0, 1)], images(2, COUNT)
    )


def logits(params, x):
    return relu_network(params, x)[0][-1]


@pytest.mark.parametrize("batch_size", [None, 4])
def test_without_targets_the_parents_say_what_is_right(pair, batch_size):
    (x,), (a, b) = pair.inputs, pair.params
    task = Task.of(pair, b, batch_size, "a method")
    opinion = (softmax(logits(a, x)) + softmax(logits(b, x))) / 2
    np.testing.assert_allclose(task.targets, opinion, atol=1e-6)
    middle = between(a, b, 0.25)
    expected = cross_entropy(logits(middle, x), opinion)
    np.testing.assert_allclose(task.loss(middle), expected, rtol=1e-5)


def test_labels_and_probabilities_count_alike(pair):
    labels = jnp.arange(COUNT) % 3
    b = pair.params[1]
    expected = cross_entropy(logits(b, pair.inputs[0]), labels)
    for targets in (labels, jax.nn.one_hot(labels, 3)):
        task = Task.of(dataclasses.replace(pair, targets=targets), b, 5, "a method")
        np.testing.assert_allclose(task.loss(b), expected, rtol=1e-5)


def test_batches_are_drawn_without_replacement(pair):
    x, targets = jnp.arange(10.0)[:, None], jnp.arange(10)
    task = Task((x,), targets, chain, 6)
    drawn = [task.draw(jax.random.key(seed)) for seed in range(3)]
    for part in drawn:
        rows = np.asarray(part.targets)
        assert len(np.unique(rows)) == 6
        np.testing.assert_array_equal(part.inputs[0][:, 0], rows)
    assert not np.array_equal(drawn[0].targets, drawn[1].targets)
    whole = Task((x,), targets, chain, 10)
    assert whole.draw(jax.random.key(0)) is whole


def test_what_is_no_weight_is_taken_from_the_first():
    a, b = {"w": jnp.zeros(2), "step": jnp.int32(1)}, {"w": jnp.ones(2), "step": jnp.int32(5)}
    middle = between(a, b, 0.25)
    np.testing.assert_array_equal(middle["w"], [0.25, 0.25])
    assert middle["step"] == 1


def test_what_is_refused(pair):
    with pytest.raises(ValueError, match="a method looks at activations"):
        Task.of(dataclasses.replace(pair, inputs=()), pair.params[1], None, "a method")
    pairs = dataclasses.replace(pair, apply_fn=lambda p, x: (chain(p, x), x))
    with pytest.raises(ValueError, match="must return logits"):
        Task.of(pairs, pair.params[1], None, "a method")

"""The straight-through estimator against the published loop in float64 NumPy."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from jaxfuse import Status
from jaxfuse.learned import StraightThrough
from jaxfuse.symmetry import random_permutations
from tests.activations.networks import chain_networks, chain_params, images, planted
from tests.oracles.activations import relu_network
from tests.oracles.learned import cross_entropy, moved_chain, softmax

UNITS, STEPS = 5, 8
METHOD = StraightThrough(steps=STEPS, learning_rate=0.3)


@pytest.fixture(scope="module")
def pair():
    """Two unrelated networks of one hidden layer: the matching of a step is one assignment."""
    params = [chain_params(seed, (UNITS,), outputs=3) for seed in (0, 1)]
    return chain_networks(params, images(2, 40))


def logits(params, x):
    return relu_network(params, x)[0][-1]


def train(a, b, x, targets, steps, rate, momentum):
    """Run Git Re-Basin's loop; return the losses of its steps and all midpoint losses met."""
    a, b = ({path: np.float64(leaf) for path, leaf in params.items()} for params in (a, b))
    latent = dict(a)
    velocity = {path: np.zeros_like(leaf) for path, leaf in a.items()}
    losses, matchings = [], []
    for _ in range(steps):
        scores = latent["w0"].T @ b["w0"] + np.outer(latent["b0"], b["b0"])
        scores += latent["w1"] @ b["w1"].T
        _, columns = linear_sum_assignment(scores, maximize=True)
        moved = moved_chain(b, {"w0": np.eye(UNITS)[columns]})
        middle = {path: (a[path] + moved[path]) / 2 for path in a}
        before, taken = relu_network(middle, x)
        losses.append(cross_entropy(before[-1], targets))
        matchings.append(columns)
        error = (softmax(before[-1]) - targets) / len(targets)
        hidden = (error @ middle["w1"].T) * (taken[1] > 0)
        slope = {"w1": taken[1].T @ error, "w0": np.float64(x).T @ hidden, "b0": hidden.sum(0)}
        for path in a:
            # Half of the latent weights are in the midpoint.
            velocity[path] = momentum * velocity[path] + slope[path] / 2
            latent[path] = latent[path] - rate * velocity[path]
    return np.array(losses), matchings


def test_the_loop_is_the_published_one(pair):
    (x,), (a, b) = pair.inputs, pair.params
    found = METHOD.align(pair, jax.random.key(0))
    targets = (softmax(logits(a, x)) + softmax(logits(b, x))) / 2
    losses, matchings = train(a, b, x, targets, STEPS, 0.3, 0.9)
    assert len({tuple(columns) for columns in matchings}) > 1
    np.testing.assert_allclose(-found.trace, losses, rtol=1e-4)
    identity = cross_entropy(logits({p: (a[p] + b[p]) / 2 for p in a}, x), targets)
    np.testing.assert_allclose(-found.objective, min(identity, losses.min()), rtol=1e-4)
    np.testing.assert_array_equal(found.orders["w0"][1], matchings[losses.argmin()])
    again = METHOD.align(pair, jax.random.key(0))
    jax.tree.map(np.testing.assert_array_equal, again, found)


def test_planted_orders_come_back_also_compiled_and_batched(pair):
    a, symmetry = pair.params[0], pair.symmetry
    copies, orders = [], []
    for seed in range(2):
        moves = random_permutations(symmetry, jax.random.key(seed))
        copy, order = planted(a, symmetry, moves, noise=0.1, seed=seed)
        copies.append(copy)
        orders.append(order["w0"])
    labels = jnp.asarray(logits(a, pair.inputs[0]).argmax(1), jnp.int32)
    networks = dataclasses.replace(pair, targets=labels)
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *copies)

    @jax.jit
    def batched(stacked, key):
        def align(copy):
            return METHOD.align(dataclasses.replace(networks, params=(a, copy)), key)

        return jax.vmap(align)(stacked)

    key = jax.random.key(1)
    found = batched(stacked, key)
    np.testing.assert_array_equal(found.orders["w0"][:, 1], orders)
    three = dataclasses.replace(networks, params=(a, *copies), symmetries=(symmetry,) * 3)
    both = METHOD.align(three, key)
    np.testing.assert_array_equal(both.orders["w0"][1:], orders)
    np.testing.assert_allclose(both.objective, found.objective.sum(), rtol=1e-5)
    assert both.status == Status.CONVERGED


def test_a_network_and_itself_stay_as_they_are(pair):
    """Its own probabilities are the labels, so no other network has a smaller loss."""
    twins = dataclasses.replace(pair, params=(pair.params[0],) * 2)
    found = METHOD.align(twins, jax.random.key(0))
    assert found.status == Status.ALREADY_ALIGNED
    np.testing.assert_array_equal(found.orders["w0"][1], np.arange(UNITS))
    right = softmax(logits(pair.params[0], pair.inputs[0]))
    np.testing.assert_allclose(-found.objective, -np.sum(right * np.log(right)) / 40, rtol=1e-5)


def test_what_is_refused(pair):
    with pytest.raises(ValueError, match="pass key="):
        METHOD.align(pair)
    with pytest.raises(ValueError, match="StraightThrough looks at activations"):
        METHOD.align(dataclasses.replace(pair, inputs=()), jax.random.key(0))
    with pytest.raises(ValueError, match="steps must be 1 or more"):
        StraightThrough(steps=0)
    bad = jax.tree.map(lambda leaf: leaf * jnp.nan, pair.params[1])
    with pytest.raises(ValueError, match="the loss is NaN or infinite"):
        METHOD.align(dataclasses.replace(pair, params=(pair.params[0], bad)), jax.random.key(0))

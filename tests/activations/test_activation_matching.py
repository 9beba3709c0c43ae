"""Activation matching: planted orders come back, alone, compiled, batched, and many at once."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from jaxfuse import Status
from jaxfuse.activations import ActivationMatching, match_moments, measure_moments
from jaxfuse.matching.nodes import flatten
from jaxfuse.networks import Networks
from jaxfuse.symmetry import infer_symmetry, random_permutations
from tests.activations.networks import chain_networks, chain_params, images, planted
from tests.oracles.activations import relu_network, similarity
from tests.symmetry.heads import X, attention, attention_params

HIDDEN, DEAD = (16, 12), (3, 8)
KINDS = ("correlation", "covariance", "l2", "transport", "mutual_information")


@pytest.fixture(scope="module")
def network():
    """A network with two dead units, 100 unlabelled samples, and its symmetry."""
    params = chain_params(0, HIDDEN, inputs=6, outputs=4, dead=DEAD)
    both = chain_networks([params, params], images(1, 100, 6))
    return params, both


@pytest.fixture(scope="module")
def pair(network):
    """The network, a noisy copy in another order, and where every unit went."""
    params, both = network
    moves = random_permutations(both.symmetry, jax.random.key(2))
    copy, orders = planted(params, both.symmetry, moves, noise=0.05, seed=3)
    return dataclasses.replace(both, params=(params, copy)), orders


def recovered(found, orders):
    """Tell whether every live unit was found."""
    alive = np.setdiff1d(np.arange(HIDDEN[0]), DEAD)
    first = np.asarray(found.orders["w0"][1])[alive] == orders["w0"][alive]
    return bool(np.all(first) and np.all(found.orders["w1"][1] == orders["w1"]))


@pytest.mark.parametrize("kind", KINDS)
def test_a_hundred_samples_recover_every_live_unit(pair, kind):
    networks, orders = pair
    found = ActivationMatching(kind, batch_size=30).align(networks)
    assert recovered(found, orders)
    assert found.status == Status.CONVERGED
    for order in found.orders.values():
        np.testing.assert_array_equal(order[0], np.arange(order.shape[1]))
        np.testing.assert_array_equal(np.sort(order[1]), np.arange(order.shape[1]))


def test_the_objective_is_the_best_sum_of_similarities(pair):
    networks, _ = pair
    found = ActivationMatching("covariance", role="output").align(networks)
    units = [relu_network(params, networks.inputs[0])[0] for params in networks.params]
    total = 0.0
    for layer in range(2):
        scores = similarity("covariance", units[0][layer], units[1][layer])
        total += scores[linear_sum_assignment(scores, maximize=True)].sum()
    np.testing.assert_allclose(found.objective, total, rtol=1e-5)
    np.testing.assert_allclose(found.trace, [total], rtol=1e-5)


def test_ready_moments_give_the_same(pair):
    networks, _ = pair
    (x,) = networks.inputs
    first, second = (
        measure_moments(dataclasses.replace(networks, inputs=(part,)), role="input")
        for part in (x[:50], x[50:])
    )
    found = match_moments(first.merge(second), networks.symmetry)
    expected = ActivationMatching(batch_size=30).align(networks)
    for node, order in expected.orders.items():
        np.testing.assert_array_equal(found.orders[node], order)
    np.testing.assert_allclose(found.objective, expected.objective, rtol=1e-4)


def test_jit_vmap_and_a_second_call_give_the_same(pair):
    networks, _ = pair
    method = ActivationMatching(batch_size=30)
    expected = method.align(networks)
    again = method.align(networks)
    x = networks.inputs[0]
    xs = jnp.stack([x, images(8, 100, 6), x.at[3, 2].set(jnp.inf)])

    @jax.jit
    def batched(xs):
        return jax.vmap(lambda x: method.align(dataclasses.replace(networks, inputs=(x,))))(xs)

    mapped = batched(xs)
    assert mapped.status.tolist() == [Status.CONVERGED, Status.CONVERGED, Status.NON_FINITE]
    for order in mapped.orders.values():
        np.testing.assert_array_equal(order[2, 1], order[2, 0])
    for index, x in enumerate(xs[:2]):
        alone = method.align(dataclasses.replace(networks, inputs=(x,)))
        for node in alone.orders:
            np.testing.assert_array_equal(mapped.orders[node][index], alone.orders[node])
        np.testing.assert_allclose(mapped.objective[index], alone.objective, rtol=1e-5)
    for node, order in expected.orders.items():
        np.testing.assert_array_equal(again.orders[node], order)


def test_three_networks_are_matched_to_the_first_each_as_alone(pair):
    networks, orders = pair
    a, b = networks.params
    moves = random_permutations(networks.symmetry, jax.random.key(5))
    c, others = planted(a, networks.symmetry, moves, noise=0.05, seed=6)
    method = ActivationMatching(batch_size=30)
    three = dataclasses.replace(networks, params=(a, b, c), symmetries=(networks.symmetry,) * 3)
    found = method.align(three)
    assert recovered(found, orders)
    np.testing.assert_array_equal(found.orders["w1"][2], others["w1"])
    alone = [
        method.align(dataclasses.replace(networks, params=(a, other))).objective for other in (b, c)
    ]
    np.testing.assert_allclose(found.objective, sum(alone), rtol=1e-5)


def test_the_network_itself_stays_as_it_is(network):
    _, both = network
    found = ActivationMatching(batch_size=30).align(both)
    assert found.status == Status.ALREADY_ALIGNED
    for order in found.orders.values():
        np.testing.assert_array_equal(order[1], order[0])


def test_heads_move_with_their_units_also_queries_that_no_layer_takes():
    params = attention_params()
    symmetry = infer_symmetry(attention, params, X)
    x = jnp.asarray(np.random.default_rng(0).standard_normal((60, *X.shape[1:])), jnp.float32)
    moves = random_permutations(symmetry, jax.random.key(1))
    copy, _ = planted(params, symmetry, moves, noise=0.02, seed=2)
    networks = Networks((params, copy), (symmetry,) * 2, (x,), None, attention)
    found = ActivationMatching().align(networks)
    for node, order in flatten(symmetry, moves).items():
        np.testing.assert_array_equal(found.orders[node][1], np.argsort(order))


def test_what_is_refused(pair):
    networks, _ = pair
    method = ActivationMatching(batch_size=30)
    with pytest.raises(ValueError, match="ActivationMatching looks at activations"):
        method.align(dataclasses.replace(networks, inputs=()))
    wide = chain_params(0, (16, 13), inputs=6, outputs=4)
    with pytest.raises(ValueError, match="'w1' has 12 units in network 0 and 13"):
        method.align(chain_networks([networks.params[0], wide], networks.inputs[0]))
    with pytest.raises(ValueError, match="'cosine' is none of"):
        ActivationMatching("cosine")
    with pytest.raises(ValueError, match="an activation is NaN or infinite"):
        method.align(dataclasses.replace(networks, inputs=(networks.inputs[0] * jnp.nan,)))
